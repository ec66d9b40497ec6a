"""What a person points at, and the query features found there.

A click on a pixel asks for the *blended* feature of that pixel (what a render of the field shows there),
normalized: one traced pixel, no image is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField, unit_features
from splatseg.core.gaussians import Gaussians
from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.ops import blend
from splatseg.segment.picking import seen_in, trace_few

EMPTY_ALPHA = 0.1  # a pixel whose blending weights sum to less shows empty space
BOX_GRID = 32  # the features in a rectangle are looked up on at most BOX_GRID x BOX_GRID of its pixels
BOX_QUERIES = 8  # ... and summed up by at most so many features
BOX_SAME = 0.95  # cosine above which two pixels of a rectangle count as the same thing
BOX_FRINGE = 0.02  # features that fewer of the sampled pixels look like are borders, not things


@dataclass(frozen=True)
class Click:
    """A click at image position ``pixel`` (u, v) of a camera: column floor(u), row floor(v)."""

    camera: Camera
    pixel: tuple[float, float]
    positive: bool = True


@dataclass(frozen=True)
class PointClick:
    """A click on a Gaussian itself (its id): what a 3D picker returns."""

    gaussian: int
    positive: bool = True


@dataclass(frozen=True)
class Box:
    """A rectangle between two image positions (u, v) of a camera, corners in any order, clipped to the image."""

    camera: Camera
    corners: tuple[tuple[float, float], tuple[float, float]]
    positive: bool = True


@dataclass(frozen=True, eq=False)
class Query:
    """What the clicks ask for.

    Attributes:
        positive: (p, d) unit features of what is wanted, p >= 1.
        negative: (q, d) unit features of what is not.
    """

    positive: Tensor
    negative: Tensor


def make_query(splat: FeatureSplat, clicks: Sequence[Click | PointClick | Box]) -> Query:
    """Look up the features that ``clicks`` point at.

    Raises:
        SplatsegError: no positive click, a click outside its image, into empty space, on a Gaussian that does not
            exist, or on one whose feature is zero.
    """
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for click in clicks:
        found[click.positive].append(click_features(splat, click))
    if not found[True]:
        raise SplatsegError(f"clicks: expected at least one positive click, found none among {len(clicks)}")
    none = splat.field.features.new_zeros((0, splat.field.dim))
    return Query(torch.cat(found[True]), torch.cat([none, *found[False]]))


def click_features(splat: FeatureSplat, click: Click | PointClick | Box) -> Tensor:
    """(k, d) unit features that one click points at; k is 1 except for a :class:`Box`. Errors as :func:`make_query`."""
    if isinstance(click, PointClick):
        return _gaussian_feature(splat.field, click.gaussian)[None]
    if isinstance(click, Click):
        column, row = click.camera.check_pixel(*click.pixel)
        where = f"click at column {column}, row {row}"
        pixels = torch.tensor([[column, row]], dtype=torch.int32, device=splat.gaussians.device)
    else:
        pixels = box_pixels(click).to(splat.gaussians.device)
        where = "rectangle"
    features, alpha = trace_features(splat, click.camera, pixels)
    hit = alpha >= EMPTY_ALPHA
    if not bool(hit.any()):
        raise SplatsegError(
            f"{where}: expected something under it, found empty space (opacity {float(alpha.max()):.3f} of 1)"
        )
    unit = unit_features(features[hit])
    lengths = torch.linalg.vector_norm(unit, dim=1)
    if not bool((lengths > 0.5).any()):
        raise SplatsegError(f"{where}: expected a feature to search for, found Gaussians whose features are zero")
    return unit if isinstance(click, Click) else representatives(unit[lengths > 0.5])


def trace_features(splat: FeatureSplat, camera: Camera, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Blended features (m, d), not normalized, and alpha (m,) of integer ``pixels`` (m, 2) [column, row]."""
    contributions, known = trace_few(splat.gaussians, camera, pixels), splat.field.features
    features = known.new_empty((len(pixels), known.shape[1]))
    features[contributions.order] = blend(contributions, known)
    alpha = torch.empty_like(features[:, 0])
    alpha[contributions.order] = contributions.alpha
    return features, alpha


def select_box(gaussians: Gaussians, box: Box, report: Callable[[float], None] | None = None) -> Selection:
    """The Gaussians seen through a rectangle: their weight counts in one of its pixels (``render.trace``'s
    ``min_weight``) and their center lies in one, too. All its pixels are traced.

    Args:
        report: called with the share of pixels traced; it may raise to stop.

    Raises:
        SplatsegError: the rectangle lies outside the image.
    """
    (left, right), (top, bottom) = box_spans(box)
    ids = seen_in(gaussians, box.camera, (left, top, right, bottom), report)
    centers, depths = box.camera.to(gaussians.device).project(gaussians.means[ids])
    low, high = centers.new_tensor([left, top]), centers.new_tensor([right, bottom])
    inside = ((centers >= low) & (centers <= high)).all(1) & (depths > 0)
    return Selection.of(ids[inside], len(gaussians))


def box_spans(box: Box) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and one past the last column, and the same of the rows, of the pixels that the rectangle touches.

    Raises:
        SplatsegError: the rectangle lies outside the image.
    """
    (u0, v0), (u1, v1) = box.corners
    spans = []
    for low, high, size in (
        (min(u0, u1), max(u0, u1), box.camera.width),
        (min(v0, v1), max(v0, v1), box.camera.height),
    ):
        first, last = max(int(low), 0), min(int(high), size - 1)
        if high < 0 or low >= size or last < first:
            raise SplatsegError(
                f"rectangle: expected it inside the {box.camera.width}x{box.camera.height} image, "
                f"found ({u0:g}, {v0:g}) to ({u1:g}, {v1:g})"
            )
        spans.append((first, last + 1))
    return spans[0], spans[1]


def box_pixels(box: Box) -> Tensor:
    """(m, 2) int32 [column, row] of a grid over the rectangle, its border pixels included: what is looked up there.

    Raises:
        SplatsegError: the rectangle lies outside the image.
    """
    axes = [torch.linspace(a, b - 1, min(b - a, BOX_GRID)).round().int() for a, b in box_spans(box)]
    return torch.cartesian_prod(*axes)


def representatives(unit: Tensor) -> Tensor:
    """Up to ``BOX_QUERIES`` of ``unit`` (m, d), most different first (farthest-point order), fringes left out."""
    similarity = unit @ unit.T
    support = (similarity > BOX_SAME).float().mean(1)
    candidates = similarity[:, support >= min(BOX_FRINGE, float(support.max()))]
    kept = (support >= min(BOX_FRINGE, float(support.max()))).nonzero()[:, 0]
    picked = [int(support[kept].argmax())]
    while len(picked) < min(BOX_QUERIES, len(kept)):
        nearest = candidates[kept[picked]].max(0).values
        if float(nearest.min()) > BOX_SAME:
            break
        picked.append(int(nearest.argmin()))
    return unit[kept[picked]]


def _gaussian_feature(field: FeatureField, gaussian: int) -> Tensor:
    if not 0 <= gaussian < len(field):
        raise SplatsegError(f"click: expected a Gaussian in 0..{len(field) - 1}, found {gaussian}")
    feature = unit_features(field.features[gaussian].detach())
    if float(feature.norm()) < 0.5:
        raise SplatsegError(f"click: expected a feature to search for, found a zero feature at Gaussian {gaussian}")
    return feature
