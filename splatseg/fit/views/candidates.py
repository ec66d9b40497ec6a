"""Views that could be taken of a splat, and the surface that each would show, by rays through the grid.

Rays go from a position in all directions once; a view there takes those in its picture. Nothing tells the two sides of
a splat's surface apart, so that it is the positions that tell rooms from the space behind their walls: one sees much of
the scene, and the other the wall before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.fit.views.config import ViewPlanConfig
from splatseg.fit.views.grid import SurfaceGrid

RAYS = 3072  # from a position, over the whole sphere
NEAR = 0.1  # of the frame's unit: what is nearer fills a picture, or is a floater
_POSITIONS = 400  # inside the grid at most
_CLEARANCE = 0.12  # of the frame's unit: least room about a position
_SHELLS, _ON_A_SHELL, _AIMS = (1.2, 1.7, 2.3), 80, 4  # radii in those of the main part; positions; views of a position
_LOWEST = -0.17  # sine of the lowest elevation of a shell's positions, 10 degrees below the horizon
_AZIMUTHS, _ELEVATIONS, _HIGHER = 16, (-45.0, -20.0, 8.0), 40.0  # looks from inside; the last one where walls go on
_ENCLOSED = 0.75  # share of the rays of a position that hit something, from which it is inside something
_ROOM = 0.5  # share of the free positions in the main part that are inside a room, if it is one
_HIDDEN = 0.05  # share of the surface that is seen from inside alone, from which the inside is what was captured
_SEEN_FROM = 0.5  # of what the best position sees: the least that a position is to see
_HITS_INSIDE, _HITS_OUTSIDE = 0.4, 0.08  # least share of a picture that shows something
_NEAR_HITS = 0.12  # most of a picture that is nearer than NEAR
_AT_NOSE = 0.2  # least median distance of what is seen


@dataclass(frozen=True, eq=False)
class Positions:
    """``places`` (p, 3); ``shell`` (p,) bool, those around the scene; ``rows`` (p, r) int32 surface cell of each ray,
    -1 of none, and ``distances`` (p, r) to it, inf."""

    places: Tensor
    shell: Tensor
    rows: Tensor
    distances: Tensor

    def select(self, index: Tensor) -> Positions:
        return Positions(self.places[index], self.shell[index], self.rows[index], self.distances[index])

    @property
    def enclosure(self) -> Tensor:
        """(p,) share of the rays that hit something."""
        return (self.rows >= 0).float().mean(dim=1)


@dataclass(frozen=True, eq=False)
class Candidates:
    """``places`` and ``forward`` (v, 3); ``patches`` (v, k) int64 of the grid, each once in a view, their number for
    none; ``quality`` (v, k) in 0..1 of how it is seen; ``shell`` (v,) bool; ``kind``: what was chosen of ``inside`` and
    ``outside``; ``visible``, bool, the cells of the grid's ``surface`` that can be seen from any of the places."""

    places: Tensor
    forward: Tensor
    patches: Tensor
    quality: Tensor
    shell: Tensor
    kind: str
    visible: Tensor

    def __len__(self) -> int:
        return len(self.places)


def fibonacci_sphere(count: int) -> Tensor:
    """(count, 3) unit vectors, evenly spread."""
    k = torch.arange(count, dtype=torch.float64) + 0.5
    z, angle = 1 - 2 * k / count, k * math.pi * (3 - math.sqrt(5))
    flat = (1 - z * z).sqrt()
    return torch.stack([flat * angle.cos(), flat * angle.sin(), z], dim=1).float()


def seeing_quality(distances: Tensor, grid: SurfaceGrid, focal: float) -> Tensor:
    """How well a surface cell is seen from ``distances``: 1 up to the frame's unit, less as its picture shrinks, 0
    where it is less than 2 pixels wide. ``focal`` in pixels."""
    useful = distances <= grid.cell * focal / 2
    return distances.clamp_min(1).reciprocal() * useful


def candidate_views(grid: SurfaceGrid, half: Tensor, config: ViewPlanConfig) -> Candidates:
    """All views that are worth a thought, those of the kind that ``config`` wants or the scene is."""
    generator = torch.Generator().manual_seed(config.seed)
    rays = fibonacci_sphere(RAYS)
    positions = _traced(grid, torch.cat([free := _free_places(grid, half, generator), _shell_places(grid, half)]), rays)
    positions = Positions(
        positions.places, torch.arange(len(positions.places)) >= len(free), positions.rows, positions.distances
    )
    kind = _kind(positions, grid, half) if config.kind == "auto" else config.kind
    positions = positions.select(~positions.shell | (positions.places[:, 2] >= _LOWEST * positions.places.norm(dim=1)))
    chosen = _inside(positions) if kind == "inside" else _outside(positions, half)
    chosen = chosen.select(_sees_much(chosen, grid.weights))
    inner, outer = chosen.select(~chosen.shell), chosen.select(chosen.shell)
    spread = _looks_around(kind == "inside", float(torch.rand(1, generator=generator)))
    owner = torch.arange(len(inner.places)).repeat_interleave(len(spread))
    aimed = torch.arange(len(outer.places)).repeat_interleave(_AIMS)
    aims = (torch.rand(len(aimed), 3, generator=generator) - 0.5) * half
    aims[::_AIMS] = 0
    forward = torch.cat([spread.repeat(len(inner.places), 1), aims - outer.places[aimed]])
    views = _View(config, grid, rays)
    return views.candidates(chosen, torch.cat([owner, aimed + len(inner.places)]), forward, kind, inner, outer)


def _traced(grid: SurfaceGrid, places: Tensor, rays: Tensor) -> Positions:
    origins = places.repeat_interleave(len(rays), dim=0)
    rows, distances = grid.trace(origins, rays.repeat(len(places), 1))
    shape = (len(places), len(rays))
    return Positions(places, torch.zeros(len(places), dtype=torch.bool), rows.view(shape), distances.view(shape))


def _free_places(grid: SurfaceGrid, half: Tensor, generator: torch.Generator) -> Tensor:
    """Middles of cells with room about them, in the main part or just outside of it."""
    free = (grid.clearance >= _CLEARANCE).nonzero()[:, 0]
    places = grid.middles(free)
    places = places[(places.abs() <= half + 0.3).all(dim=1)]
    return places[torch.randperm(len(places), generator=generator)[:_POSITIONS]]


def _shell_places(grid: SurfaceGrid, half: Tensor) -> Tensor:
    """Positions all around the main part, where there is room."""
    places = torch.cat([radius * half.norm() * fibonacci_sphere(_ON_A_SHELL) for radius in _SHELLS])
    flat, inside = grid.cells_of(places)
    return places[~inside | (grid.clearance[flat] >= _CLEARANCE)]


def _kind(positions: Positions, grid: SurfaceGrid, half: Tensor) -> str:
    """``inside`` where there are enclosed positions that show what cannot be seen from around the scene. A room shows
    its walls to both sides and what stands in it to one; an object that is hollow shows nothing more from inside."""
    enclosed = ~positions.shell & (positions.enclosure >= _ENCLOSED)
    main = ~positions.shell & (positions.places.abs() <= half).all(dim=1)
    if not bool(enclosed.any()) or int((enclosed & main).sum()) < _ROOM * int(main.sum()):
        return "outside"
    around = grid.around(_seen(positions.select(positions.shell), len(grid.surface)))
    within = _seen(positions.select(enclosed), len(grid.surface))
    return "inside" if float(grid.weights[within & ~around].sum()) >= _HIDDEN else "outside"


def _seen(positions: Positions, count: int) -> Tensor:
    """(count,) bool: the surface cells that any of the positions sees."""
    seen = torch.zeros(count + 1, dtype=torch.bool)
    seen[positions.rows.flatten().long()] = True  # -1, of none, is the last one
    return seen[:-1]


def _inside(positions: Positions) -> Positions:
    """Positions about as enclosed as the best one: not those behind the walls."""
    free = positions.select(~positions.shell)
    best = float(free.enclosure.quantile(0.95)) if len(free.places) else 0.0
    return free.select(free.enclosure >= 0.85 * best)


def _outside(positions: Positions, half: Tensor) -> Positions:
    """Positions that nothing encloses; of those on shells the ones with a free sight of the main part's inner half."""
    rays = fibonacci_sphere(RAYS)
    towards = torch.nn.functional.normalize(-positions.places, dim=1)
    middle = (towards @ rays.T).argmax(dim=1, keepdim=True)
    reach = positions.distances.gather(1, middle)[:, 0]
    before = positions.places.norm(dim=1) - 0.6 * half.norm()
    return positions.select(torch.where(positions.shell, reach >= before, positions.enclosure < _ENCLOSED))


def _sees_much(positions: Positions, weights: Tensor) -> Tensor:
    """(p,) bool: the positions that see at least half as much surface as the best of them."""
    amount = torch.stack(
        [weights[rows[rows >= 0].long().unique()].sum() for rows in positions.rows] or [torch.zeros(())]
    )
    return (amount >= _SEEN_FROM * amount.max())[: len(positions.places)]


def _looks_around(enclosed: bool, turn: float) -> Tensor:
    """(d, 3) directions of view from a position inside."""
    elevations = torch.tensor([*_ELEVATIONS, *([_HIGHER] if enclosed else [])]).deg2rad()
    azimuths = (torch.arange(_AZIMUTHS) + turn) * (2 * math.pi / _AZIMUTHS)
    elevation, azimuth = torch.meshgrid(elevations, azimuths, indexing="ij")
    flat = elevation.cos()
    return torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], dim=-1).reshape(-1, 3)


class _View:
    """What the picture of a view holds of its position's rays."""

    def __init__(self, config: ViewPlanConfig, grid: SurfaceGrid, rays: Tensor) -> None:
        self.across = math.tan(math.radians(config.field_of_view) / 2)
        self.down = self.across * config.height / config.width
        self.focal = config.width / 2 / self.across
        self.grid, self.rays = grid, rays

    def candidates(
        self, positions: Positions, owner: Tensor, forward: Tensor, kind: str, inner: Positions, outer: Positions
    ) -> Candidates:
        """Views at ``positions[owner]`` with directions ``forward``, less those that show too little or too near."""
        places = torch.cat([inner.places, outer.places])
        shell = torch.cat([inner.shell, outer.shell])[owner]
        rows = torch.cat([inner.rows, outer.rows])
        distances = torch.cat([inner.distances, outer.distances])
        forward = torch.nn.functional.normalize(forward, dim=1)
        kept, picked, quality = [], [], []
        most = int(RAYS * 0.6)
        for start in range(0, len(owner), 512):
            part = slice(start, start + 512)
            shown = self._in_picture(forward[part])
            width = min(int(shown.sum(dim=1).max()), most) if len(shown) else 0
            order = shown.int().topk(width, dim=1).indices
            valid = shown.gather(1, order)
            at, far = rows[owner[part]].gather(1, order), distances[owner[part]].gather(1, order)
            good = self._is_good(at, far, valid, shell[part])
            kept.append(good.nonzero()[:, 0] + start)
            at, worth = self._once(at[good], far[good], valid[good])
            picked.append(at)
            quality.append(worth)
        index = torch.cat(kept) if kept else torch.zeros(0, dtype=torch.int64)
        return Candidates(
            places[owner[index]],
            forward[index],
            _padded(picked, self.grid.patches[1]),
            _padded(quality, 0.0),
            shell[index],
            kind,
            _seen(positions, len(self.grid.surface)),
        )

    def _in_picture(self, forward: Tensor) -> Tensor:
        """(v, r) bool: the rays in the pictures of views that look along ``forward`` (v, 3)."""
        right, below = picture_axes(forward)
        depth = forward @ self.rays.T
        x, y = (right @ self.rays.T).abs(), (below @ self.rays.T).abs()
        return (depth > 0) & (x <= self.across * depth) & (y <= self.down * depth)

    def _is_good(self, rows: Tensor, distances: Tensor, valid: Tensor, shell: Tensor) -> Tensor:
        hits = valid & (rows >= 0)
        total = valid.sum(dim=1).clamp_min(1)
        share = hits.sum(dim=1) / total
        near = (hits & (distances < NEAR)).sum(dim=1) / total
        median = torch.where(hits, distances, torch.nan).nanmedian(dim=1).values
        least = torch.where(shell, _HITS_OUTSIDE, _HITS_INSIDE)
        return (share >= least) & (near <= _NEAR_HITS) & (median >= _AT_NOSE)

    def _once(self, rows: Tensor, distances: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Each patch once a view, none as their number, and how well it is seen."""
        patch, none = self.grid.patches
        patches = torch.where(valid & (rows >= 0), patch[rows.long()], none)
        patches, order = patches.sort(dim=1)
        quality = seeing_quality(distances, self.grid, self.focal).gather(1, order)
        again = torch.zeros_like(patches, dtype=torch.bool)
        again[:, 1:] = patches[:, 1:] == patches[:, :-1]
        patches = patches.masked_fill(again, none)
        return patches, quality.masked_fill(patches == none, 0.0)


def picture_axes(forward: Tensor) -> tuple[Tensor, Tensor]:
    """Right and down (v, 3) of pictures taken along unit vectors ``forward`` (v, 3), with z up."""
    up = torch.tensor([0.0, 0.0, 1.0], dtype=forward.dtype).expand_as(forward)
    steep = forward[:, 2:].abs() > 0.999
    up = torch.where(steep, torch.tensor([0.0, 1.0, 0.0], dtype=forward.dtype).expand_as(forward), up)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=1)
    return right, torch.linalg.cross(forward, right)


def _padded(parts: list[Tensor], value: float) -> Tensor:
    """The rows of ``parts`` (v, k) below one another, ``value`` where one is shorter."""
    width = max((part.shape[1] for part in parts), default=0)
    if not parts:
        return torch.zeros(0, 0)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1]), value=value) for part in parts])
