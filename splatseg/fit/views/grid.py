"""Where a splat has surfaces and where there is room: a grid of cells, and rays through it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from splatseg.fit.views.frame import Discs

CELLS = 96  # along the longest side of the grid
MARGIN = 0.35  # of the frame's unit, around the main part
_SOLID = 0.3  # sum of opacity x area in a cell, in areas of its side, from which it is a surface
_REACH = 1.5  # standard deviations of a Gaussian that are laid into cells
_MOST_PIECES = 400  # of a Gaussian
_FAINT = 0.05  # opacity below which a Gaussian is no surface
_WINDOW = 7  # cells about one that say whether it is part of a plane
_PLANE = (0.06, 0.25)  # smallest by middle variance of the cells about one: of a plane, and of an edge
_PATCH = 4
_STEPS = 96  # of a ray at most
_CHUNK = 1 << 19  # rays traced at once


@dataclass(frozen=True, eq=False)
class SurfaceGrid:
    """Cells of a :class:`splatseg.fit.views.frame.PlanFrame`; all of it in the frame's units.

    Attributes:
        origin: (3,) corner of the first cell.
        cell: side of a cell.
        shape: cells along x, y, z.
        surface: (k,) int64 flat numbers of the cells that are surface.
        weights: (k,) how much surface each holds, summing to 1: opacities of the Gaussians in it, none above the 99th
            percentile.
        detail: (k,) in 0..1, how far the surface about each is from a plane: objects and edges, not walls.
        index: (cells,) int32 row in ``surface`` of the nearest surface cell.
        clearance: (cells,) float32 distance to it, middle to middle.
    """

    origin: Tensor
    cell: float
    shape: tuple[int, int, int]
    surface: Tensor
    weights: Tensor
    detail: Tensor
    index: Tensor
    clearance: Tensor

    @cached_property
    def patches(self) -> tuple[Tensor, int]:
        """(k,) int64 patch of each surface cell, and their number: cubes of ``_PATCH`` cells, so large that few rays
        hit all of those in a picture."""
        patch = self.places(self.surface) // _PATCH
        numbers = (patch[:, 0] * self.shape[1] + patch[:, 1]) * self.shape[2] + patch[:, 2]
        unique, inverse = numbers.unique(return_inverse=True)
        return inverse, len(unique)

    def places(self, flat: Tensor) -> Tensor:
        """(n, 3) int64 places along x, y, z of the cells with numbers ``flat`` (n,)."""
        x, rest = flat // (self.shape[1] * self.shape[2]), flat % (self.shape[1] * self.shape[2])
        return torch.stack([x, rest // self.shape[2], rest % self.shape[2]], dim=1)

    @cached_property
    def neighbors(self) -> Tensor:
        """(k, 27) int64 rows of the surface cells about each, itself among them; k where there is none."""
        rows = torch.full([side + 2 for side in self.shape], len(self.surface))
        places = self.places(self.surface) + 1
        rows[places[:, 0], places[:, 1], places[:, 2]] = torch.arange(len(self.surface))
        steps = torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 3)
        return rows[tuple((places[:, None] + steps).unbind(2))]

    def around(self, rows: Tensor) -> Tensor:
        """(k,) bool of surface cells: those of ``rows`` (k,) bool and their neighbors."""
        return torch.cat([rows, torch.zeros(1, dtype=torch.bool)])[self.neighbors].any(dim=1)

    def cells_of(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Flat cell (n,) int64 of each of ``points`` (n, 3), and whether it is inside the grid; 0 where not."""
        place = ((points - self.origin) / self.cell).floor().long()
        size = torch.tensor(self.shape)
        inside = ((place >= 0) & (place < size)).all(dim=1)
        flat = (place[:, 0] * self.shape[1] + place[:, 1]) * self.shape[2] + place[:, 2]
        return torch.where(inside, flat, 0), inside

    def middles(self, flat: Tensor) -> Tensor:
        """Middles (n, 3) of the cells with numbers ``flat`` (n,)."""
        return self.origin + (self.places(flat).float() + 0.5) * self.cell

    def nearest_surface(self, points: Tensor, within: float) -> Tensor:
        """(n,) int64 rows in ``surface`` of the cells at ``points`` (n, 3); -1 where none is ``within`` cells."""
        flat, inside = self.cells_of(points)
        near = inside & (self.clearance[flat] <= within * self.cell)
        return torch.where(near, self.index[flat].long(), -1)

    def trace(self, origins: Tensor, directions: Tensor, within: float = 0.0) -> tuple[Tensor, Tensor]:
        """The first surface along rays, or what is ``within`` cells of one (1: no ray goes through a hole of one cell):
        rows (n,) int32 in ``surface``, -1 of none, and distances (n,), inf of none."""
        rows, distances = [], []
        for start in range(0, len(origins), _CHUNK):
            part = slice(start, start + _CHUNK)
            row, distance = self._trace(origins[part], directions[part], within * self.cell)
            rows.append(row)
            distances.append(distance)
        return torch.cat(rows), torch.cat(distances)

    def _trace(self, origins: Tensor, directions: Tensor, thickness: float) -> tuple[Tensor, Tensor]:
        rows = torch.full((len(origins),), -1, dtype=torch.int32)
        distances = torch.full((len(origins),), float("inf"))
        along, last = self._span(origins, directions)
        active = (along < last).nonzero()[:, 0]
        for _ in range(_STEPS):
            if len(active) == 0:
                break
            t = along[active]
            flat, inside = self.cells_of(origins[active] + t[:, None] * directions[active])
            clear = torch.where(inside, self.clearance[flat], self.cell)
            hit = clear <= thickness
            rows[active[hit]] = self.index[flat[hit]]
            distances[active[hit]] = t[hit]
            # The nearest surface cell is a cube about its middle, and the point anywhere in its own: at most 2 cells.
            t = t + (clear - 1.5 * self.cell).clamp_min(0.5 * self.cell)
            along[active] = t
            active = active[~hit & (t < last[active])]
        return rows, distances

    def _span(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Distances at which rays enter and leave the grid."""
        size = torch.tensor(self.shape) * self.cell
        safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
        a, b = (self.origin - origins) / safe, (self.origin + size - origins) / safe
        return torch.minimum(a, b).amax(dim=1).clamp_min(0), torch.maximum(a, b).amin(dim=1)


def surface_grid(discs: Discs, half: Tensor, seed: int = 0) -> SurfaceGrid | None:
    """The grid about the box of half sides ``half`` (3,); None where nothing in it is solid."""
    reach = half + MARGIN
    cell = float(2 * reach.max() / CELLS)
    shape = tuple(int(n) for n in (2 * reach / cell).ceil().clamp_min(1).tolist())
    origin = -torch.tensor(shape) * cell / 2
    empty = torch.zeros(0)
    grid = SurfaceGrid(origin, cell, (shape[0], shape[1], shape[2]), empty, empty, empty, empty, empty)
    count = shape[0] * shape[1] * shape[2]
    points, masses = _pieces(discs, cell, seed)
    flat, inside = grid.cells_of(points)
    mass = torch.bincount(flat[inside], masses[inside].double(), count) / cell**2
    solid = mass >= _SOLID
    if not bool(solid.any()):
        return None
    at, within = grid.cells_of(discs.means)
    weight = torch.bincount(at[within], discs.opacities[within].double(), count)[solid]
    weight = (weight.clamp_max(float(weight.quantile(0.99))) + 1e-9).float()
    distance, nearest = ndimage.distance_transform_edt(~solid.reshape(shape).numpy(), return_indices=True)
    row = torch.cumsum(solid, 0).int() - 1
    index = row[torch.from_numpy(np.ravel_multi_index(tuple(nearest), shape).ravel())]
    clearance = torch.from_numpy(distance.astype(np.float32).ravel()) * cell
    surface, detail = solid.nonzero()[:, 0], _detail(solid.reshape(shape).numpy())
    return SurfaceGrid(origin, cell, grid.shape, surface, weight / weight.sum(), detail, index, clearance)


def _detail(solid: NDArray[np.bool_]) -> Tensor:
    """(k,) of the k solid cells, how far those around each are from a plane: by their second moments."""
    places = np.indices(solid.shape).astype(np.float64)

    def around(values: NDArray[np.float64]) -> NDArray[np.float64]:
        smooth: NDArray[np.float64] = ndimage.uniform_filter(values * solid, _WINDOW, mode="constant")[solid]
        return smooth

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the solid cells about each solid cell."""
        return around(values) / share

    share = around(np.ones(solid.shape))
    middle = [mean(places[axis]) for axis in range(3)]
    moments = np.zeros((len(share), 3, 3))
    for a in range(3):
        for b in range(a, 3):
            moments[:, a, b] = moments[:, b, a] = mean(places[a] * places[b]) - middle[a] * middle[b]
    thin, wide = torch.linalg.eigvalsh(torch.from_numpy(moments))[:, :2].unbind(1)
    return ((thin / wide.clamp_min(0.1) - _PLANE[0]) / (_PLANE[1] - _PLANE[0])).clamp(0, 1).float()


def _pieces(discs: Discs, cell: float, seed: int) -> tuple[Tensor, Tensor]:
    """Points (m, 3) on the discs, about one for each cell's side of area, and the opacity x area that each stands for:
    a wall of few large Gaussians has no holes."""
    seen = (discs.opacities > _FAINT).nonzero()[:, 0]
    lengths = discs.axes[seen].norm(dim=2)
    area = 2 * torch.pi * lengths[:, 0] * lengths[:, 1]
    patch = torch.pi * _REACH**2 * lengths.clamp_min(cell / 4).prod(dim=1)
    count = (3 * patch / cell**2).ceil().clamp(1, _MOST_PIECES).long()
    owner = torch.repeat_interleave(torch.arange(len(seen)), count)
    generator = torch.Generator().manual_seed(seed)
    radius = _REACH * torch.rand(len(owner), generator=generator).sqrt()
    angle = 2 * torch.pi * torch.rand(len(owner), generator=generator)
    radius[count[owner] == 1] = 0.0
    shift = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    points = discs.means[seen][owner] + (shift[:, :, None] * discs.axes[seen][owner]).sum(dim=1)
    return points, (discs.opacities[seen] * area / count)[owner]
