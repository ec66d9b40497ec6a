"""Points on the surfaces of a :class:`World`, each with its leaf."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splatseg.synthetic.world import ROOM_FACES, ROOM_HALF, Solid, Vector, World

_STUFF_SHARE = 0.3  # of the points; by area the room would take nearly all


def _sphere(count: int, rng: np.random.Generator) -> Vector:
    points = rng.standard_normal((count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _sample_solid(solid: Solid, count: int, rng: np.random.Generator) -> Vector:
    """(count, 3) world points on a solid, even by area (nearly so on an ellipsoid)."""
    a, b, c = solid.half
    if solid.shape == "ellipsoid":
        local = _sphere(count, rng) * solid.half
    elif solid.shape == "box":
        areas = np.array([b * c, a * c, a * b])
        axis = rng.choice(3, count, p=areas / areas.sum())
        local = rng.uniform(-1, 1, (count, 3))
        local[np.arange(count), axis] = rng.choice([-1.0, 1.0], count)
        local *= solid.half
    else:
        on_cap = rng.uniform(size=count) < a / (a + 2 * c)  # caps 2 pi a^2, side 4 pi a c
        angle = rng.uniform(0, 2 * np.pi, count)
        radius = np.where(on_cap, np.sqrt(rng.uniform(size=count)), 1.0)
        z = np.where(on_cap, rng.choice([-1.0, 1.0], count), rng.uniform(-1, 1, count))
        local = np.stack([a * radius * np.cos(angle), b * radius * np.sin(angle), c * z], 1)
    return local @ solid.axes.T + solid.center


def _area(solid: Solid) -> float:
    """Surface area, by Knud Thomsen's formula for an ellipsoid (1 % off at most)."""
    a, b, c = (float(h) for h in solid.half)
    if solid.shape == "box":
        return 8 * (a * b + a * c + b * c)
    if solid.shape == "cylinder":
        return 2 * np.pi * a * (a + 2 * c)
    power = 1.6075
    mean = ((a * b) ** power + (a * c) ** power + (b * c) ** power) / 3
    return 4 * np.pi * mean ** (1 / power)


def inside(solid: Solid, points: Vector, margin: float = 1e-4) -> NDArray[np.bool_]:
    """(n,) whether (n, 3) world points lie in a solid, deeper than about ``margin`` world units."""
    local = np.abs((points - solid.center) @ solid.axes) / np.maximum(solid.half - margin, 1e-9)
    if solid.shape == "box":
        within = local < 1
    elif solid.shape == "ellipsoid":
        within = (local**2).sum(1, keepdims=True) < 1
    else:
        within = np.stack([local[:, 2], (local[:, :2] ** 2).sum(1)], 1) < 1
    return np.asarray(within.all(1))


def _sample_room(count: int, rng: np.random.Generator) -> tuple[Vector, NDArray[np.int64]]:
    """Points on the floor and walls, evenly over the faces, and the face of each; the ceiling gets none."""
    faces = rng.integers(0, len(ROOM_FACES) - 1, count)
    points = rng.uniform(-1, 1, (count, 3)) * ROOM_HALF + [0, 0, ROOM_HALF[2]]
    axis, side = faces // 2, faces % 2
    ends = np.where(side == 0, -ROOM_HALF[axis], ROOM_HALF[axis]) + np.where(axis == 2, ROOM_HALF[2], 0)
    points[np.arange(count), axis] = ends
    return points, faces


def sample_surface(world: World, count: int, rng: np.random.Generator) -> tuple[Vector, NDArray[np.int64]]:
    """Points (count, 3) on surfaces that are not buried in another solid, and their leaves (count,)."""
    areas = np.array([_area(solid) for solid in world.solids])
    found: list[Vector] = []
    leaves: list[NDArray[np.int64]] = []
    missing = count - round(_STUFF_SHARE * count)
    while missing > 0:
        for index, number in enumerate(rng.multinomial(missing, areas / areas.sum())):
            points = _sample_solid(world.solids[index], int(number), rng)
            buried = np.zeros(len(points), bool)
            for other, solid in enumerate(world.solids):
                if other != index:
                    buried |= inside(solid, points)
            found.append(points[~buried])
            leaves.append(np.full(len(found[-1]), world.solids[index].leaf, np.int64))
            missing -= len(found[-1])
    points, faces = _sample_room(round(_STUFF_SHARE * count), rng)
    found.append(points)
    leaves.append(np.array(world.room_leaves, np.int64)[faces])
    return np.concatenate(found), np.concatenate(leaves)
