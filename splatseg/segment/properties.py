"""Numbers that every Gaussian has, to select by: size, opacity, color, anisotropy, distance and views that see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import splatseg.render as rendering
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.ops import blend
from splatseg.segment.clicks import EMPTY_ALPHA
from splatseg.segment.picking import trace_few

Property = Literal["size", "opacity", "color", "anisotropy", "distance", "views"]
PROPERTIES: tuple[Property, ...] = ("size", "opacity", "color", "anisotropy", "distance", "views")
LOGARITHMIC: tuple[Property, ...] = ("size", "anisotropy", "distance")
SEEN = 0.01  # of a pixel: who weighs less in all pixels of a view is not seen by it
WIDEST = 640  # pixels: larger photos are looked at at this width
BLOCK_PIXELS = 200_000


@dataclass(frozen=True, eq=False)
class Histogram:
    """How a property is distributed.

    Attributes:
        counts: (bins,) int64 Gaussians in each bin.
        edges: (bins + 1,) float64, ascending; even in the logarithm for sizes, anisotropies and distances.
    """

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Visibility:
    """What some cameras see of each Gaussian.

    Attributes:
        views: (n,) int32 cameras in which it weighs ``SEEN`` of a pixel or more.
        weight: (n,) float32 sum of its weights over all pixels and cameras, in pixels of the pictures looked at.
    """

    views: Tensor
    weight: Tensor


def visibility(
    gaussians: Gaussians, cameras: Sequence[Camera], report: Callable[[float], None] = lambda share: None
) -> Visibility:
    """Look at every pixel of every camera, at most ``WIDEST`` wide. ``report`` hears the share done and may raise.

    Raises:
        SplatsegError: no camera.
    """
    if not cameras:
        raise SplatsegError("views: expected the photos of the run, found none at hand")
    n = len(gaussians)
    views = torch.zeros(n, dtype=torch.int32, device=gaussians.device)
    weight = torch.zeros(n, dtype=torch.float64, device=gaussians.device)
    for number, camera in enumerate(cameras):
        report(number / len(cameras))
        seen = torch.zeros(n, dtype=torch.bool, device=gaussians.device)
        for ids, weights in _weights(gaussians, shrunk(camera)):
            seen[ids] = True
            weight.index_add_(0, ids, weights.double())
        views += seen
    return Visibility(views, weight.float())


def shrunk(camera: Camera) -> Camera:
    """``camera`` with a picture at most ``WIDEST`` wide."""
    if camera.width <= WIDEST:
        return camera
    return camera.resized(WIDEST, max(round(camera.height * WIDEST / camera.width), 1))


def _weights(gaussians: Gaussians, camera: Camera) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and weights of what each pixel shows, a band of rows at a time."""
    band = max(BLOCK_PIXELS // camera.width, 1)
    columns = torch.arange(camera.width, dtype=torch.int32)
    for top in range(0, camera.height, band):
        rows = torch.arange(top, min(top + band, camera.height), dtype=torch.int32)
        pixels = torch.cartesian_prod(columns, rows).to(gaussians.device)
        found = rendering.trace(gaussians, camera.to(gaussians.device), pixels, SEEN)
        yield found.ids.long(), found.weights


def color_distance(gaussians: Gaussians, color: tuple[int, int, int]) -> Tensor:
    """(n,) CIE76 difference (distance in CIELAB, D65) of the base colors, taken as sRGB, from ``color`` in 0..255:
    about 2 is just noticed, 100 is black and white.

    Raises:
        SplatsegError: not three values in 0..255.
    """
    if len(color) != 3 or not all(0 <= c <= 255 for c in color):
        raise SplatsegError(f"color: expected three values in 0..255, found {color}")
    picked = torch.tensor([color], dtype=torch.float32, device=gaussians.device) / 255
    return (cielab(gaussians.base_colors) - cielab(picked)).norm(dim=1)


def color_at(gaussians: Gaussians, camera: Camera, pixel: tuple[float, float]) -> tuple[int, int, int]:
    """The base colors seen at image position ``pixel`` (u, v), blended, 0..255.

    Raises:
        SplatsegError: outside the image, or empty space.
    """
    column, row = camera.check_pixel(*pixel)
    found = trace_few(gaussians, camera, torch.tensor([[column, row]], dtype=torch.int32, device=gaussians.device))
    alpha = float(found.alpha[0])
    if alpha < EMPTY_ALPHA:
        raise SplatsegError(f"color at column {column}, row {row}: expected something under it, found empty space")
    red, green, blue = (blend(found, gaussians.base_colors)[0] / alpha * 255).round().clamp(0, 255).int().tolist()
    return red, green, blue


def cielab(rgb: Tensor) -> Tensor:
    """CIELAB (m, 3) of sRGB colors (m, 3) in [0, 1] (IEC 61966-2-1, CIE 15)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ linear.new_tensor(to_xyz).T / linear.new_tensor([0.9505, 1.0, 1.089])
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-9) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return torch.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], dim=1)


def sizes(gaussians: Gaussians) -> Tensor:
    """(n,) largest standard deviation, world units."""
    return gaussians.log_scales.max(1).values.exp()


def anisotropy(gaussians: Gaussians) -> Tensor:
    """(n,) largest standard deviation over the second largest: 1 is a disc or a ball, needles are high."""
    ordered = gaussians.log_scales.sort(dim=1).values
    return (ordered[:, 2] - ordered[:, 1]).exp()


def camera_distance(gaussians: Gaussians, cameras: Sequence[Camera]) -> Tensor:
    """(n,) distance to the nearest camera, world units.

    Raises:
        SplatsegError: no camera.
    """
    if not cameras:
        raise SplatsegError("distance: expected the photos of the run, found none at hand")
    nearest = torch.full((len(gaussians),), torch.inf, device=gaussians.device)
    for camera in cameras:
        nearest = torch.minimum(nearest, (gaussians.means - camera.position.to(gaussians.means)).norm(dim=1))
    return nearest


def between(values: Tensor, low: float | None, high: float | None) -> Tensor:
    """(n,) bool: which ``values`` (n,) are at least ``low`` and at most ``high``; None is no bound.

    Raises:
        SplatsegError: ``low`` is above ``high``, or one is no number.
    """
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    if not least <= most:
        raise SplatsegError(f"select by: expected a lowest value up to the highest one, found {low} and {high}")
    exact = values.double()  # a bound is not rounded to float32
    return (exact >= least) & (exact <= most)


def histogram(values: Tensor, bins: int = 40, logarithmic: bool = False) -> Histogram:
    """The distribution of ``values`` (n,), all of them in its range; ``logarithmic`` ones must be above 0.

    Raises:
        SplatsegError: no values, or fewer than one bin.
    """
    if not len(values) or bins < 1:
        raise SplatsegError(f"histogram: expected values and at least one bin, found {len(values)} and {bins}")
    given = values.detach().double().cpu().numpy()
    low, high = float(given.min()), float(given.max())
    if high <= low:
        high = low * 1.01 if logarithmic else low + 1
    edges = np.geomspace(low, high, bins + 1) if logarithmic else np.linspace(low, high, bins + 1)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return Histogram(np.histogram(given, edges)[0].astype(np.int64), edges)
