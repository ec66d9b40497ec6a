"""Where a camera could stand in a splat or around it, and what can be seen from there, by rays through the grid.

Nothing tells the two sides of a splat's surface apart, so that it is the positions that tell rooms from the space
behind their walls: one sees much of the scene, and the other the wall before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.core.sphere import fibonacci_sphere
from splatseg.fit.views.config import Kind
from splatseg.fit.views.grid import SurfaceGrid

RAYS = 3072  # from a position
_POSITIONS = 400  # inside the grid at most
_CLEARANCE = 0.12  # of the frame's unit: least room about a position
_OUTSKIRTS = 0.3  # of the frame's unit: how far positions inside the grid may be from the main part
_SHELLS, _ON_A_SHELL = (1.2, 1.7, 2.3), 80  # radii in those of the main part, and positions
_CAP = 50.0  # degrees about the direction to the middle that rays from a shell go to
_LOWEST = -0.17  # sine of the lowest elevation of a shell's positions, 10 degrees below the horizon
_ENCLOSED = 0.75  # share of the rays of a position that hit something, from which it is inside something
_PLACE = 0.55  # ... from which it is in a place (a floor and walls), not beside an object
_ROOM = 0.5  # share of the free positions in the main part that are inside a room, if it is one
_HIDDEN = 0.05  # share of the surface that is seen from inside alone, from which the inside is what was captured
_AT_ONCE = 1 << 16  # rays to surface cells: many small steps of a ray cost more than their numbers
_SEEN_FROM = 0.5  # of what the best position sees: the least that a position is to see


@dataclass(frozen=True, eq=False)
class Positions:
    """``places`` (p, 3); ``rays`` (p, r, 3) unit vectors; ``rows`` (p, r) int32 surface cell of each ray, -1 of none,
    and ``distances`` (p, r) to it, inf."""

    places: Tensor
    rays: Tensor
    rows: Tensor
    distances: Tensor

    @classmethod
    def traced(cls, grid: SurfaceGrid, places: Tensor, rays: Tensor) -> Positions:
        """Those at ``places`` (p, 3), with ``rays`` (p, r, 3) or (1, r, 3) for all of them."""
        rays = rays.expand(len(places), -1, -1)
        origins = places[:, None].expand(rays.shape)
        rows, distances = grid.trace(origins.reshape(-1, 3), rays.reshape(-1, 3))
        return cls(places, rays, rows.view(rays.shape[:2]), distances.view(rays.shape[:2]))

    def __len__(self) -> int:
        return len(self.places)

    def select(self, index: Tensor) -> Positions:
        return Positions(self.places[index], self.rays[index], self.rows[index], self.distances[index])

    @property
    def enclosure(self) -> Tensor:
        """(p,) share of the rays that hit something."""
        return (self.rows >= 0).float().mean(dim=1)

    def seen(self, count: int) -> Tensor:
        """(count,) bool: the surface cells that any of the positions sees."""
        seen = torch.zeros(count + 1, dtype=torch.bool)
        seen[self.rows.flatten().long()] = True  # -1, of none, is the last one
        return seen[:-1]

    def seeing(self, grid: SurfaceGrid, cells: Tensor, farthest: float) -> Tensor:
        """(c,) int64 how many of the positions see each of the surface ``cells`` (c,), or one next to it, from no
        farther than ``farthest``."""
        targets, count = grid.middles(grid.surface[cells]), torch.zeros(len(cells), dtype=torch.int64)
        if not len(self) or not len(cells):
            return count
        for places in self.places.split(max(1, _AT_ONCE // len(cells))):
            rays = targets - places[:, None]
            distances = rays.norm(dim=2)
            directions = (rays / distances[..., None].clamp_min(1e-9)).view(-1, 3)
            rows, _ = grid.trace(places[:, None].expand_as(rays).reshape(-1, 3), directions, 1.0)
            hit = (grid.neighbors[cells] == rows.view(*distances.shape, 1)).any(dim=2)
            count += (hit & (distances <= farthest)).sum(dim=0)
        return count

    def sees_much(self, weights: Tensor) -> Tensor:
        """(p,) bool: those that see at least half as much as the best of them; ``weights`` of all surface cells."""
        seen = torch.zeros(len(self), len(weights) + 1, dtype=torch.bool)
        seen.scatter_(1, torch.where(self.rows >= 0, self.rows, len(weights)).long(), True)
        amount = seen[:, :-1].float() @ weights
        return amount >= _SEEN_FROM * torch.cat([amount, torch.zeros(1)]).max()


def good_positions(
    grid: SurfaceGrid, half: Tensor, kind: Kind, generator: torch.Generator
) -> tuple[Positions, Positions, str]:
    """Positions in the scene and on shells around it, and the kind of plan that they are for, ``inside`` or
    ``outside``: ``kind``, or what the scene is."""
    within = Positions.traced(grid, _free_places(grid, half, generator), fibonacci_sphere(RAYS)[None])
    around = _shells(grid, half)
    chosen = _kind(within, around, grid, half) if kind == "auto" else kind
    if chosen == "inside":
        best = float(within.enclosure.quantile(0.95)) if len(within) else 0.0
        within = within.select(within.enclosure >= 0.85 * best)  # not those behind the walls
        around = around.select(torch.zeros(len(around), dtype=torch.bool))
    else:
        within = within.select(within.enclosure < _ENCLOSED)
        around = around.select(around.places[:, 2] >= _LOWEST * around.places.norm(dim=1))
        if float(torch.cat([within.enclosure, torch.zeros(1)]).quantile(0.95)) >= _PLACE:
            around = around.select(torch.zeros(len(around), dtype=torch.bool))  # they look across the backs of walls
    return within.select(within.sees_much(grid.weights)), around.select(around.sees_much(grid.weights)), chosen


def picture_axes(forward: Tensor) -> tuple[Tensor, Tensor]:
    """Right and down (v, 3) of pictures taken along unit vectors ``forward`` (v, 3), with z up."""
    up = torch.tensor([0.0, 0.0, 1.0], dtype=forward.dtype).expand_as(forward)
    steep = forward[:, 2:].abs() > 0.999
    up = torch.where(steep, torch.tensor([0.0, 1.0, 0.0], dtype=forward.dtype).expand_as(forward), up)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=1)
    return right, torch.linalg.cross(forward, right)


def _free_places(grid: SurfaceGrid, half: Tensor, generator: torch.Generator) -> Tensor:
    """Middles of cells with room about them, in the main part or just outside of it."""
    places = grid.middles((grid.clearance >= _CLEARANCE).nonzero()[:, 0])
    places = places[(places.abs() <= half + _OUTSKIRTS).all(dim=1)]
    return places[torch.randperm(len(places), generator=generator)[:_POSITIONS]]


def _shells(grid: SurfaceGrid, half: Tensor) -> Positions:
    """Positions all around the main part, where there is room, with rays towards it: most of the others would miss."""
    places = torch.cat([radius * half.norm() * fibonacci_sphere(_ON_A_SHELL) for radius in _SHELLS])
    flat, inside = grid.cells_of(places)
    places = places[~inside | (grid.clearance[flat] >= _CLEARANCE)]
    towards = torch.nn.functional.normalize(-places, dim=1)
    axes = torch.stack([*picture_axes(towards), towards], dim=1)
    return Positions.traced(grid, places, fibonacci_sphere(RAYS, math.cos(math.radians(_CAP))) @ axes)


def _kind(within: Positions, around: Positions, grid: SurfaceGrid, half: Tensor) -> str:
    """``inside`` where most positions in the main part are enclosed, and show what cannot be seen from around the
    scene. A room shows its walls to both sides and what stands in it to one; an object that is hollow shows nothing
    more from inside."""
    main = (within.places.abs() <= half).all(dim=1)
    enclosed = within.enclosure >= _ENCLOSED
    if not bool(enclosed.any()) or int((enclosed & main).sum()) < _ROOM * int(main.sum()):
        return "outside"
    outer = grid.around(around.seen(len(grid.surface)))
    inner = within.select(enclosed).seen(len(grid.surface))
    return "inside" if float(grid.weights[inner & ~outer].sum()) >= _HIDDEN else "outside"
