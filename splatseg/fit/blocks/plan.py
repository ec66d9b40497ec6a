"""What a block is fitted to: its region, the views that show it, the points to start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.scene import Points, Scene, View
from splatseg.fit.blocks.cuts import cut
from splatseg.fit.geometry.region import Region, evenly_kept
from splatseg.fit.geometry.sweep import in_picture

LEAST_VIEWS = 2  # of a block: those that show it most, whatever they show
SHOWN = 0.25  # share of a picture from which on its view helps to fit a block: VastGaussian's threshold of visibility
LITTLE = 0.05  # ... for a view that stands outside the block but in its expanded region
CELLS = 24  # of a picture's longer side, by which it is seen what a view shows
OPEN = 0.1  # share of the pictures that a point lies in, in which it must be seen
THICK = 1.25  # times the depth of the nearest point in its cell: what lies so far back is seen as well
LOOKED_AT = 200_000  # points by which that is seen, at most


@dataclass(frozen=True, eq=False)
class Block:
    """Block ``number`` of ``count``: ``region`` is its own, ``views`` and ``points`` are what it is fitted to."""

    number: int
    count: int
    region: Region
    views: tuple[View, ...]
    points: Points


def plan_blocks(scene: Scene, count: int) -> list[Block]:
    """``scene`` in ``count`` blocks; a function of the capture alone, and the same for a moved, turned or scaled one.

    After VastGaussian (Lin et al., CVPR 2024, section 4.1): a block takes the cameras in its expanded region
    ("position-based data selection"), those whose picture shows enough of it ("visibility-based camera selection"), and
    the points of the expanded region and those that its views show ("coverage-based point selection"). What a picture
    shows is asked of the sparse points, the nearest in each of its cells: walls hide what is behind them, which the
    box that the paper projects does not know. In rooms, unlike above a city, a camera may stand beside a block and look
    away from it: it must show a little of it. Every camera is in the block in which it stands (it may be the only one
    to show a floor there on which no point lies) and in that which its picture shows most.

    Raises:
        SplatsegError: the cameras do not allow so many blocks.
    """
    most = max(len(scene.views) // LEAST_VIEWS, 1)
    if count > most:
        raise SplatsegError(
            f"blocks: expected at most {most} for {len(scene.views)} photos, {LEAST_VIEWS} each, found {count}"
        )
    xyz = scene.points.xyz
    regions = cut(xyz.double(), count)
    taken = assigned(scene.views, xyz, regions)
    blocks = []
    for number, region in enumerate(regions):
        views = tuple(view for view, one in zip(scene.views, taken[:, number].tolist(), strict=True) if one)
        kept = region.holds(xyz, expanded=True) | open_share(views, xyz).ge(OPEN)
        blocks.append(Block(number, count, region, views, Points(xyz[kept], scene.points.rgb[kept])))
    return blocks


def assigned(views: Sequence[View], xyz: Tensor, regions: Sequence[Region]) -> Tensor:
    """(views, regions) bool: which of the views show points (m, 3) of which region enough to be of use for it; every
    view is of one, and every region has its :data:`LEAST_VIEWS` best."""
    positions = torch.stack([view.camera.position for view in views]).double()
    shown = pictures(views, xyz, regions)
    within, beside = (torch.stack([r.holds(positions, expanded) for r in regions], 1) for expanded in (False, True))
    taken = within | (beside & (shown >= LITTLE)) | (shown >= SHOWN)
    taken[torch.arange(len(views)), shown.argmax(1)] = True
    best = shown.argsort(dim=0, descending=True, stable=True)[:LEAST_VIEWS]
    taken.scatter_(0, best, torch.ones_like(best, dtype=torch.bool))
    return taken


def pictures(views: Sequence[View], xyz: Tensor, regions: Sequence[Region]) -> Tensor:
    """(views, regions) float64: share of each picture that shows points (m, 3) of each region; 0 where none is seen."""
    looked_at = evenly_kept(torch.arange(len(xyz)), LOOKED_AT)
    xyz = xyz[looked_at]
    region_of = torch.zeros(len(xyz), dtype=torch.int64)
    for number, region in enumerate(regions):
        region_of[region.holds(xyz)] = number
    rows = []
    for view in views:
        seen = region_of[nearest_in_cells(view, xyz)]
        counts = torch.bincount(seen, minlength=len(regions)).double()
        rows.append(counts / counts.sum().clamp_min(1))
    return torch.stack(rows)


def nearest_in_cells(view: View, xyz: Tensor) -> Tensor:
    """(k,) ids of the nearest of the points (m, 3) in each cell of a view's picture that shows any."""
    ids, depth, cell = in_cells(view, xyz)
    return ids[depth <= nearest(depth, cell)[cell]]


def open_share(views: Sequence[View], xyz: Tensor) -> Tensor:
    """(m,) of the views that have each of the points (m, 3) in their picture, the share in which there is no nearer one
    in the same cell; 0 where none has. Between the points of a wall a few see what is behind it."""
    shown, seen = torch.zeros(len(xyz)), torch.zeros(len(xyz))
    for view in views:
        ids, depth, cell = in_cells(view, xyz)
        shown[ids] += 1
        seen[ids] += depth <= THICK * nearest(depth, cell)[cell]
    return seen / shown.clamp_min(1)


def open_to(view: View, far: Tensor, xyz: Tensor) -> tuple[Tensor, Tensor]:
    """(k,) ids of the places (n, 3) in a view's picture, and of each whether none of the points (m, 3) is before it, in
    the same cell."""
    _, depth, cell = in_cells(view, xyz)
    ids, far_depth, far_cell = in_cells(view, far)
    return ids, far_depth < nearest(depth, cell)[far_cell]


def in_cells(view: View, xyz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(k,) ids of the points (m, 3) in a view's picture, their depths, and the numbers of their cells."""
    camera = view.camera
    inside, depth = in_picture(camera, xyz)
    ids = inside.nonzero()[:, 0]
    image, _ = camera.project(xyz[ids])
    column, row = (image * (CELLS / max(camera.width, camera.height))).floor().long().clamp(0, CELLS - 1).unbind(1)
    return ids, depth[ids], row * CELLS + column


def nearest(depth: Tensor, cell: Tensor) -> Tensor:
    """(CELLS^2,) least depth in each cell, infinite where there is none."""
    return depth.new_full((CELLS * CELLS,), torch.inf).scatter_reduce_(0, cell, depth, "amin")
