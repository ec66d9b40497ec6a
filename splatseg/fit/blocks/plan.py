"""What a block is fitted to: its region, the views that show it, the points to start from."""

from __future__ import annotations

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
LITTLE = 0.05  # ... for a view that stands in the block's expanded region
CELLS = 24  # of a picture's width, by which it is seen what a view shows
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
    the points of the expanded region and of its views' pictures ("coverage-based point selection"). What a picture
    shows is asked of the sparse points, the nearest in each of its cells: walls hide what is behind them, which the
    box that the paper projects does not know. In rooms, unlike above a city, a camera may stand in a block and look
    away from it: it must show a little of it. Every camera is in the block that its picture shows most.

    Raises:
        SplatsegError: the cameras do not allow so many blocks.
    """
    most = max(len(scene.views) // LEAST_VIEWS, 1)
    if count > most:
        raise SplatsegError(
            f"blocks: expected at most {most} for {len(scene.views)} photos, {LEAST_VIEWS} each, found {count}"
        )
    positions = torch.stack([view.camera.position for view in scene.views]).double()
    xyz = scene.points.xyz
    regions = cut(xyz.double(), count)
    shown = pictures(scene.views, xyz, regions)
    blocks = []
    for number, region in enumerate(regions):
        taken = region.holds(positions, expanded=True) & (shown[:, number] >= LITTLE)
        taken |= (shown[:, number] >= SHOWN) | (shown.argmax(1) == number)
        taken[shown[:, number].argsort(descending=True, stable=True)[:LEAST_VIEWS]] = True
        views = tuple(view for view, one in zip(scene.views, taken.tolist(), strict=True) if one)
        kept = region.holds(xyz, expanded=True)
        for view in views:
            kept |= in_picture(view.camera, xyz)[0]
        blocks.append(Block(number, count, region, views, Points(xyz[kept], scene.points.rgb[kept])))
    return blocks


def pictures(views: tuple[View, ...], xyz: Tensor, regions: list[Region]) -> Tensor:
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
    camera = view.camera
    inside, depth = in_picture(camera, xyz)
    ids = inside.nonzero()[:, 0]
    image, _ = camera.project(xyz[ids])
    cell = (image * (CELLS / camera.width)).floor().long()
    key = cell[:, 1] * (CELLS + 1) + cell[:, 0]
    order = depth[ids].argsort(stable=True)
    order = order[key[order].argsort(stable=True)]  # by cell, the nearest first
    ordered = key[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ids[order[first]]
