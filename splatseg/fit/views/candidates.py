"""Views that could be taken of a splat, and the surface that each would show: of its position's rays those in its
picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.fit.views.config import ViewPlanConfig
from splatseg.fit.views.grid import SurfaceGrid
from splatseg.fit.views.positions import Positions, good_positions, picture_axes

NEAR = 0.1  # of the frame's unit: what is nearer fills a picture, or is a floater
FULL = 0.6  # of the frame's unit: a surface is seen no better from nearer
_AIMS = 4  # views of a position on a shell
_AZIMUTHS, _ELEVATIONS, _HIGHER = 16, (-45.0, -20.0, 8.0), 40.0  # looks from inside; the last one where walls go on
_HITS_INSIDE, _HITS_OUTSIDE = 0.4, 0.08  # least share of a picture that shows something
_NEAR_HITS = 0.12  # most of a picture that is nearer than NEAR
_AT_NOSE = 0.2  # least median distance of what is seen
_CHUNK = 256  # views whose pictures are looked into at once


@dataclass(frozen=True, eq=False)
class Candidates:
    """Views of a plan.

    Attributes:
        places: (v, 3).
        forward: (v, 3) unit vectors.
        patches: (v, k) int64 of the grid, each once in a view, their number for none.
        quality: (v, k) in 0..1 of how each is seen.
        shell: (v,) bool, those from around the scene.
        kind: ``inside`` or ``outside``.
        positions: all of the places, those on a shell last.
    """

    places: Tensor
    forward: Tensor
    patches: Tensor
    quality: Tensor
    shell: Tensor
    kind: str
    positions: tuple[Positions, Positions]

    def __len__(self) -> int:
        return len(self.places)


def candidate_views(grid: SurfaceGrid, half: Tensor, config: ViewPlanConfig) -> Candidates:
    """All views that are worth a thought, those of the kind that ``config`` wants or the scene is."""
    generator = torch.Generator().manual_seed(config.seed)
    within, around, kind = good_positions(grid, half, config.kind, generator)
    pictures = _Pictures(config, grid)
    looks = _looks_around(kind == "inside", float(torch.rand(1, generator=generator)))
    inner = pictures.of(within, looks.expand(len(within), -1, -1), _HITS_INSIDE)
    aims = (torch.rand(len(around), _AIMS, 3, generator=generator) - 0.5) * half
    aims[:, 0] = 0
    outer = pictures.of(around, aims - around.places[:, None], _HITS_OUTSIDE)
    shell = torch.arange(len(inner[0]) + len(outer[0])) >= len(inner[0])
    places, forward = (torch.cat([inner[k], outer[k]]) for k in (0, 1))
    patches, quality = _padded([inner[2], outer[2]], grid.patches[1]), _padded([inner[3], outer[3]], 0.0)
    return Candidates(places, forward, patches, quality, shell, kind, (within, around))


def seeing_quality(distances: Tensor, grid: SurfaceGrid, focal: float) -> Tensor:
    """How well a surface cell is seen from ``distances``: 1 up to FULL, beyond that less as
    its picture shrinks, 0 where it is less than 2 pixels wide. ``focal`` in pixels."""
    useful = distances <= useful_distance(grid, focal)
    return FULL / distances.clamp_min(FULL) * useful


def useful_distance(grid: SurfaceGrid, focal: float) -> float:
    """From where a cell is 2 pixels wide."""
    return grid.cell * focal / 2


def _looks_around(enclosed: bool, turn: float) -> Tensor:
    """(d, 3) directions of view from a position inside."""
    elevations = torch.tensor([*_ELEVATIONS, *([_HIGHER] if enclosed else [])]).deg2rad()
    azimuths = (torch.arange(_AZIMUTHS) + turn) * (2 * math.pi / _AZIMUTHS)
    elevation, azimuth = torch.meshgrid(elevations, azimuths, indexing="ij")
    flat = elevation.cos()
    return torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], dim=-1).reshape(-1, 3)


class _Pictures:
    """What the pictures of views hold of their positions' rays."""

    def __init__(self, config: ViewPlanConfig, grid: SurfaceGrid) -> None:
        self.across = math.tan(math.radians(config.field_of_view) / 2)
        self.down = self.across * config.height / config.width
        self.focal = config.width / 2 / self.across
        self.grid = grid

    def of(self, positions: Positions, forward: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Places, directions, patches and qualities of the views at ``positions`` along ``forward`` (p, d, 3), less
        those that show something in less than a share of ``least``, or things that are too near."""
        owner = torch.arange(len(positions)).repeat_interleave(forward.shape[1])
        forward = torch.nn.functional.normalize(forward.reshape(-1, 3), dim=1)
        kept, patches, qualities = [], [], []
        for start in range(0, len(owner), _CHUNK):
            part = owner[start : start + _CHUNK]
            shown = self._in_picture(forward[start : start + _CHUNK], positions.rays[part])
            order = shown.int().topk(int(shown.sum(dim=1).max()), dim=1).indices
            shown = shown.gather(1, order)
            rows, distances = (values[part].gather(1, order) for values in (positions.rows, positions.distances))
            good = _is_good(rows, distances, shown, least)
            patch, quality = self._once(rows[good], distances[good], shown[good])
            kept.append(good.nonzero()[:, 0] + start)
            patches.append(patch)
            qualities.append(quality)
        index = torch.cat([*kept, torch.zeros(0, dtype=torch.int64)])
        none = self.grid.patches[1]
        return positions.places[owner[index]], forward[index], _padded(patches, none), _padded(qualities, 0.0)

    def _in_picture(self, forward: Tensor, rays: Tensor) -> Tensor:
        """(v, r) bool: of ``rays`` (v, r, 3) those in the pictures of views that look along ``forward`` (v, 3)."""
        right, below = picture_axes(forward)
        x, y, depth = (rays @ torch.stack([right, below, forward], dim=2)).unbind(2)
        return (depth > 0) & (x.abs() <= self.across * depth) & (y.abs() <= self.down * depth)

    def _once(self, rows: Tensor, distances: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Each patch once a view, then their number for none, and how well it is seen."""
        patch, none = self.grid.patches
        patches, order = torch.where(shown & (rows >= 0), patch[rows.long()], none).sort(dim=1, stable=True)
        quality = seeing_quality(distances, self.grid, self.focal).gather(1, order)
        again = torch.zeros_like(patches, dtype=torch.bool)
        again[:, 1:] = patches[:, 1:] == patches[:, :-1]
        patches, order = patches.masked_fill(again, none).sort(dim=1, stable=True)
        quality = quality.gather(1, order).masked_fill(patches == none, 0.0)
        width = int((patches < none).sum(dim=1).max()) if len(patches) else 0
        return patches[:, :width], quality[:, :width]


def _is_good(rows: Tensor, distances: Tensor, shown: Tensor, least: float) -> Tensor:
    """(v,) bool: the views that show enough, and not too near."""
    hits = shown & (rows >= 0)
    total = shown.sum(dim=1).clamp_min(1)
    near = (hits & (distances < NEAR)).sum(dim=1) / total
    median = torch.where(hits, distances, torch.nan).nanmedian(dim=1).values
    return (hits.sum(dim=1) / total >= least) & (near <= _NEAR_HITS) & (median >= _AT_NOSE)


def _padded(parts: list[Tensor], value: float) -> Tensor:
    """The rows of ``parts`` (v, k) below one another, ``value`` where one is shorter."""
    width = max((part.shape[1] for part in parts), default=0)
    empty = torch.zeros(0, width, dtype=torch.int64 if isinstance(value, int) else torch.float32)
    return torch.cat([*(torch.nn.functional.pad(p, (0, width - p.shape[1]), value=value) for p in parts), empty])
