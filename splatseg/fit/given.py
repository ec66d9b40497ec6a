"""A splat that is given instead of fitted: taken to the run's frame, compared with photos and points first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splatseg import ops
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.reading import read_json
from splatseg.core.scene import Scene, View
from splatseg.fit.geometry.fit import BEST_PSNR, psnr
from splatseg.fit.splat_transform import Matrix, read_splat_transform, transformed
from splatseg.io.colmap import find_model
from splatseg.io.splats import QUANTIZED, load_splat
from splatseg.io.transforms import TRANSFORMS
from splatseg.render import render

COMPARED_VIEWS = 4
POINTS = 20_000
DEPTH_TOLERANCE = 0.1  # of a point's depth, by which the splat's surface may miss it
LEAST_SEEN = 0.05  # of the points in a picture; fewer behind something drawn say nothing
LEAST_AGREEING = 0.25
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Agreement:
    """``psnr`` of a splat on some photos, dB; ``flat``, that of pictures of the photos' mean color; ``points``, the
    share of sparse points at the splat's surface. nan where there is nothing to compare with."""

    psnr: float
    flat: float
    points: float

    @property
    def fits(self) -> bool:
        """False where neither photos nor points say that the splat shows this scene."""
        return not (self.psnr < self.flat) or self.points >= LEAST_AGREEING


def read_splat(path: Path) -> Gaussians:
    """The splat in ``path``, of any format; what its format does not hold is said in a line.

    Raises:
        SplatsegError: the file is broken.
    """
    read = load_splat(path)
    if read.format in QUANTIZED:
        log.warning("%s: read as %s, which holds %s", path, read.format, QUANTIZED[read.format])
    return read.gaussians


def given_splat(gaussians: Gaussians, transform: Path | None, scene: Scene, folder: Path) -> Gaussians:
    """A splat as it was read, in the frame of ``scene``, a capture in ``folder``.

    Args:
        transform: see :func:`splatseg.fit.splat_transform.read_splat_transform`; None: the splat is in the capture's
            frame, or in a local one whose offset its header tells.

    Raises:
        SplatsegError: the transform is broken.
    """
    if transform is None:
        if gaussians.offset == scene.offset:
            return gaussians
        return transformed(gaussians, np.eye(4), scene.offset)
    return transformed(gaussians, read_splat_transform(transform, _applied(folder)), scene.offset)


def _applied(folder: Path) -> Matrix | None:
    """``applied_transform`` of the capture, where that is a ``transforms.json`` and no COLMAP model."""
    try:
        find_model(folder)
    except SplatsegError:
        try:
            content: Any = read_json(folder / TRANSFORMS, "utf-8-sig")
            return np.array(content["applied_transform"], np.float64)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
    return None


def check_agreement(path: Path, gaussians: Gaussians, scene: Scene, views: Sequence[View]) -> Agreement:
    """Compare ``gaussians`` (on the device to use) with ``views`` and the points of ``scene``; say how they fit.

    Raises:
        SplatsegError: they do not fit at all.
    """
    found = agreement(gaussians, scene, views)
    line = (
        f"{path}: {found.psnr:.1f} dB on {len(views)} photos (their mean color alone: {found.flat:.1f} dB), "
        f"{100 * found.points:.0f} % of the sparse points at its surface"
    )
    if not found.fits:
        raise SplatsegError(
            f"{line}: expected a splat of this capture in its frame; for one in another frame give --splat-transform "
            "(nerfstudio's dataparser_transforms.json, or 4x4 numbers that take its positions to the capture's)"
        )
    log.warning("%s", line)
    return found


def agreement(gaussians: Gaussians, scene: Scene, views: Sequence[View]) -> Agreement:
    """How far ``gaussians`` shows what ``views`` and the sparse points show."""
    flat = []
    for view in views:
        image, fitted = view.photo()
        pixels = (image if fitted is None else image[fitted]).reshape(1, -1, 3).double() / 255
        if pixels.numel():
            flat.append(ops.psnr(pixels.mean(1, keepdim=True).expand_as(pixels), pixels).clamp_max(BEST_PSNR))
    mean = float(torch.stack(flat).mean()) if flat else float("nan")
    return Agreement(psnr(gaussians, views), mean, _points_at_surface(gaussians, scene, views))


def _points_at_surface(gaussians: Gaussians, scene: Scene, views: Sequence[View]) -> float:
    """Share of the points in the pictures, where something is drawn, that lie at the depth that is drawn there."""
    xyz = scene.points.xyz
    xyz = xyz[torch.linspace(0, len(xyz) - 1, min(len(xyz), POINTS)).long()].to(gaussians.device)
    inside = seen = near = 0
    for view in views:
        camera = view.camera.to(gaussians.device)
        with torch.no_grad():
            drawn = render(gaussians, camera)
        pixels, depths = camera.project(xyz)
        size = torch.tensor([camera.width, camera.height], device=pixels.device)
        shown = (depths > camera.near) & (pixels >= 0).all(dim=1) & (pixels < size).all(dim=1)
        column, row = pixels[shown].long().unbind(1)
        solid = drawn.alpha[row, column] > 0.5
        misses = (drawn.depth[row, column] - depths[shown]).abs() / depths[shown]
        inside += len(solid)
        seen += int(solid.sum())
        near += int((solid & (misses < DEPTH_TOLERANCE)).sum())
    if inside == 0:
        return float("nan")
    return near / seen if seen >= LEAST_SEEN * inside else 0.0
