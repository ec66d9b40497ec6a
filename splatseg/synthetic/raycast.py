"""Ray casting of a :class:`World`: exact leaf labels and depths at pixel centers, antialiased textured colors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from splatseg.core.camera import Camera
from splatseg.synthetic.world import ROOM_HALF, Material, Solid, Vector, World

_LIGHT = np.array([0.45, -0.3, 0.84])  # towards the light, of unit length to a percent
_AMBIENT = 0.55
_NOISE_SIDE = 64  # cells of the periodic noise cube
_NEAR = 1e-3  # world units
_SUBPIXELS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))


@dataclass(frozen=True, eq=False)
class Frame:
    """What a camera sees: ``color`` (h, w, 3) uint8, ``leaf`` (h, w) uint16 node ids, ``depth`` (h, w) float32 z."""

    color: NDArray[np.uint8]
    leaf: NDArray[np.uint16]
    depth: NDArray[np.float32]


@cache
def _noise_cube() -> NDArray[np.float32]:
    """Periodic smooth noise in about [-1, 1], the same in every world."""
    white = np.random.default_rng(0).standard_normal((_NOISE_SIDE,) * 3)
    smooth = gaussian_filter(white, 0.8, mode="wrap")
    return (smooth / (2.5 * smooth.std())).astype(np.float32)


def _noise(points: Vector) -> NDArray[np.float32]:
    """(n,) noise at (n, 3) points, two octaves, one cell a unit."""
    total = np.zeros(len(points), np.float32)
    for octave, weight in ((1.0, 0.65), (2.7, 0.35)):
        total += weight * map_coordinates(_noise_cube(), (points * octave).T, order=1, mode="grid-wrap")
    return total


def texture(material: Material, points: Vector) -> Vector:
    """(n, 3) colors in [0, 1] of a ``material`` at (n, 3) points of its own frame, world units."""
    scaled = points * material.frequency + material.offset
    noise = _noise(scaled)
    if material.pattern == "speckle":
        mix = 3.0 * noise + 0.4
    elif material.pattern == "marble":
        mix = 0.5 + 0.5 * np.sin(1.2 * scaled.sum(1) + 5 * noise)
    elif material.pattern == "stripes":
        mix = 0.5 + 2.0 * np.sin(0.9 * scaled[:, 2] + 0.5 * scaled[:, 0] + 0.8 * noise)
    else:
        cells = np.sin(0.8 * scaled + 0.15).prod(axis=1)
        mix = 0.5 + 3.0 * cells + 0.4 * noise
    mix = np.clip(mix, 0, 1)[:, None]
    grain = 1 + 0.4 * noise[:, None]
    return np.clip((material.color * (1 - mix) + material.accent * mix) * grain, 0, 1)


def _unit_hit(shape: str, origin: Vector, rays: Vector) -> Vector:
    """Distance along each ray (h, w, 3) from ``origin`` to the unit box, ball or cylinder; inf where it is missed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if shape == "box":
            near, far = np.sort(np.stack([(-1 - origin) / rays, (1 - origin) / rays]), axis=0)
            entry, exit_ = near.max(-1), far.min(-1)
        else:
            flat = slice(None) if shape == "ellipsoid" else slice(0, 2)
            a = (rays[..., flat] ** 2).sum(-1)
            b = (rays[..., flat] * origin[flat]).sum(-1)
            root = np.sqrt(b**2 - a * ((origin[flat] ** 2).sum() - 1))  # NaN where the ray misses
            entry, exit_ = (-b - root) / a, (-b + root) / a
            if shape == "cylinder":
                caps = np.sort(np.stack([(-1 - origin[2]) / rays[..., 2], (1 - origin[2]) / rays[..., 2]]), axis=0)
                entry, exit_ = np.maximum(entry, caps[0]), np.minimum(exit_, caps[1])
        return np.where((entry <= exit_) & (entry > _NEAR), entry, np.inf)


def _unit_normal(shape: str, points: Vector) -> Vector:
    """(n, 3) outward normals, of any length, at points of the surface of the unit shape."""
    if shape == "ellipsoid":
        return points
    if shape == "box":
        axis = np.abs(points).argmax(1)
        return np.eye(3)[axis] * np.sign(points)
    cap = np.abs(points[:, 2]) > np.hypot(points[:, 0], points[:, 1])
    return np.where(cap[:, None], points * [0, 0, 1], points * [1, 1, 0])


def _bounds(solid: Solid, K: Vector, cam_from_world: Vector, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the image that a solid can cover: those of the corners of its box."""
    corners = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3) * solid.half
    cam = (corners @ solid.axes.T + solid.center) @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    width, height = size
    if (cam[:, 2] < 0.05).any():
        return slice(0, height), slice(0, width)
    image = cam @ K.T
    image = image[:, :2] / image[:, 2:]
    (u0, v0), (u1, v1) = np.floor(image.min(0)).astype(int) - 1, np.ceil(image.max(0)).astype(int) + 1
    return slice(max(v0, 0), max(min(v1, height), 0)), slice(max(u0, 0), max(min(u1, width), 0))


@dataclass(frozen=True, eq=False)
class _Hits:
    """Per pixel: z-depth, index of the solid, or ``len(solids) + face`` of the room."""

    depth: Vector
    index: NDArray[np.int32]


def _cast(world: World, camera: Camera, shift: tuple[float, float]) -> tuple[_Hits, Vector, Vector]:
    """Hits of the rays through (column + shift[0], row + shift[1]), the camera center, and the rays (h, w, 3)."""
    K = camera.K.double().numpy()
    cam_from_world = camera.cam_from_world.double().numpy()
    rotation = cam_from_world[:3, :3]
    origin = -rotation.T @ cam_from_world[:3, 3]
    v, u = np.mgrid[0 : camera.height, 0 : camera.width].astype(np.float64)
    x, y = (u + shift[0] - K[0, 2]) / K[0, 0], (v + shift[1] - K[1, 2]) / K[1, 1]
    rays = np.stack([x, y, np.ones_like(x)], -1) @ rotation  # z in the camera is 1: distances along them are depths
    with np.errstate(divide="ignore"):
        center = np.array([0, 0, ROOM_HALF[2]])
        walls = np.maximum((-ROOM_HALF - (origin - center)) / rays, (ROOM_HALF - (origin - center)) / rays)
    axis = walls.argmin(-1)
    depth = np.take_along_axis(walls, axis[..., None], -1)[..., 0]
    positive = np.take_along_axis(rays, axis[..., None], -1)[..., 0] > 0
    index = (len(world.solids) + 2 * axis + positive).astype(np.int32)
    for number, solid in enumerate(world.solids):
        rows, columns = _bounds(solid, K, cam_from_world, (camera.width, camera.height))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        local_origin = (origin - solid.center) @ solid.axes / solid.half
        distance = _unit_hit(solid.shape, local_origin, rays[rows, columns] @ solid.axes / solid.half)
        closer = distance < depth[rows, columns]
        depth[rows, columns][closer] = distance[closer]
        index[rows, columns][closer] = number
    return _Hits(depth, index), origin, rays


def _shade(world: World, hits: _Hits, origin: Vector, rays: Vector) -> Vector:
    """(h, w, 3) linear colors in [0, 1]."""
    points = (origin + rays * hits.depth[..., None]).reshape(-1, 3)
    color = np.zeros_like(points)
    count = len(world.solids)
    order = np.argsort(hits.index, axis=None, kind="stable")
    numbers, starts = np.unique(hits.index.reshape(-1)[order], return_index=True)
    for number, where in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
        surface = points[where]
        if number < count:
            solid = world.solids[number]
            local = (surface - solid.center) @ solid.axes
            normal = (_unit_normal(solid.shape, local / solid.half) / solid.half) @ solid.axes.T
            normal /= np.linalg.norm(normal, axis=1, keepdims=True)
            light = _AMBIENT + (1 - _AMBIENT) * np.clip(normal @ _LIGHT, 0, 1)
            color[where] = texture(solid.material, local) * light[:, None]
        else:
            face = number - count
            light = np.full(len(surface), (0.8, 0.85, 0.75, 0.9, 1.0, 1.0)[face])
            if face == 4:  # the floor is darker under and around what stands on it
                for x, y, radius in world.footprints:
                    near = ((surface[:, 0] - x) ** 2 + (surface[:, 1] - y) ** 2) / radius**2
                    light *= 1 - 0.45 * np.exp(-near)
            color[where] = texture(world.room_materials[face], surface) * light[:, None]
    return color.reshape(rays.shape)


def cast_view(world: World, camera: Camera) -> Frame:
    """What ``camera``, inside the room, sees: four samples a pixel for color, its center for label and depth."""
    hits, _, _ = _cast(world, camera, (0.5, 0.5))
    leaves = np.array([solid.leaf for solid in world.solids] + list(world.room_leaves), np.uint16)
    color = np.zeros((camera.height, camera.width, 3))
    for shift in _SUBPIXELS:
        color += _shade(world, *_cast(world, camera, shift))
    encoded = np.clip(color / len(_SUBPIXELS), 0, 1) ** (1 / 1.5)
    return Frame((encoded * 255 + 0.5).astype(np.uint8), leaves[hits.index], hits.depth.astype(np.float32))
