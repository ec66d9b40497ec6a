"""A small world of solids: objects made of parts, standing in groups in a room, and the tree that names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from splatseg.core.errors import SplatsegError
from splatseg.core.truth import TruthNode

Vector = NDArray[np.float64]
Shape = Literal["box", "ellipsoid", "cylinder"]
Pattern = Literal["speckle", "stripes", "checker", "marble"]
_PATTERNS: tuple[Pattern, ...] = ("speckle", "stripes", "checker", "marble")

ROOM_HALF = np.array([3.2, 3.2, 3.0])  # world units; the floor is at z = 0, the ceiling is never in view
ROOM_FACES = ("room/wall_w", "room/wall_e", "room/wall_s", "room/wall_n", "room/floor", "room/ceiling")
GROUP_SIZE = 3  # objects that stand together
MAX_OBJECTS = 12


@dataclass(frozen=True)
class Material:
    """Two colors in [0, 1] mixed by a pattern of ``frequency`` cycles a world unit, shifted by ``offset``."""

    color: Vector
    accent: Vector
    pattern: Pattern
    frequency: float
    offset: Vector


@dataclass(frozen=True)
class Solid:
    """A box, ellipsoid or upright cylinder (in its own frame) of half sizes ``half``, named by a leaf of the tree.

    ``axes`` (3, 3) holds the local axes as columns: ``x_world = axes @ x_local + center``.
    """

    shape: Shape
    center: Vector
    axes: Vector
    half: Vector
    leaf: int
    material: Material


@dataclass(frozen=True)
class World:
    """Solids, the leaves and materials of the room's six faces (order of :data:`ROOM_FACES`), and the tree."""

    solids: tuple[Solid, ...]
    room_leaves: tuple[int, ...]
    room_materials: tuple[Material, ...]
    nodes: tuple[TruthNode, ...]
    footprints: Vector = field(repr=False)  # (objects, 3): x, y, radius of each object on the floor

    @property
    def depth(self) -> int:
        """Number of levels, parts to groups."""
        return 1 + max(node.depth for node in self.nodes)

    def level_table(self) -> NDArray[np.uint16]:
        """(K, number of nodes + 1): the node of every level, finest first, that a leaf belongs to; 0 for no surface.

        A leaf that is less deep than the finest level stands for itself there.
        """
        parents = {node.id: node.parent for node in self.nodes}
        depths = {node.id: node.depth for node in self.nodes}
        table = np.zeros((self.depth, len(self.nodes) + 1), np.uint16)
        for node in self.nodes:
            for level in range(self.depth):
                ancestor = node.id
                while depths[ancestor] > self.depth - 1 - level:
                    ancestor = parents[ancestor]
                table[level, node.id] = ancestor
        return table


@dataclass
class _Part:
    """A solid before it is placed: in the frame of its object, unit size about 1, standing on z = 0."""

    name: str
    shape: Shape
    center: tuple[float, float, float]
    half: tuple[float, float, float]
    turn: Literal["", "x", "y"] = ""  # lay a cylinder along this axis


def _mug() -> list[_Part]:
    return [
        _Part("body", "cylinder", (0, 0, 0.45), (0.36, 0.36, 0.45)),
        _Part("handle", "box", (0.5, 0, 0.68), (0.16, 0.06, 0.06)),
        _Part("handle", "box", (0.5, 0, 0.26), (0.16, 0.06, 0.06)),
        _Part("handle", "box", (0.64, 0, 0.47), (0.06, 0.06, 0.27)),
    ]


def _lamp() -> list[_Part]:
    return [
        _Part("base", "cylinder", (0, 0, 0.08), (0.36, 0.36, 0.08)),
        _Part("pole", "cylinder", (0, 0, 0.55), (0.08, 0.08, 0.4)),
        _Part("shade", "ellipsoid", (0, 0, 1.1), (0.4, 0.4, 0.28)),
    ]


def _table() -> list[_Part]:
    corners = [(x, y) for x in (-0.42, 0.42) for y in (-0.3, 0.3)]
    legs = [_Part("legs", "box", (x, y, 0.3), (0.07, 0.07, 0.3)) for x, y in corners]
    return [
        *legs,
        _Part("top", "box", (0, 0, 0.66), (0.56, 0.42, 0.06)),
        _Part("bowl", "ellipsoid", (0.1, 0, 0.82), (0.24, 0.24, 0.14)),
    ]


def _snowman() -> list[_Part]:
    return [
        _Part("belly", "ellipsoid", (0, 0, 0.38), (0.42, 0.42, 0.4)),
        _Part("chest", "ellipsoid", (0, 0, 0.92), (0.3, 0.3, 0.3)),
        _Part("hat", "cylinder", (0, 0, 1.28), (0.24, 0.24, 0.16)),
    ]


def _tower() -> list[_Part]:
    return [
        _Part("bottom", "box", (0, 0, 0.22), (0.42, 0.42, 0.22)),
        _Part("middle", "box", (0.04, 0, 0.64), (0.3, 0.3, 0.2)),
        _Part("roof", "box", (0, 0.03, 0.98), (0.2, 0.36, 0.14)),
    ]


def _mushroom() -> list[_Part]:
    return [
        _Part("stem", "cylinder", (0, 0, 0.32), (0.17, 0.17, 0.32)),
        _Part("cap", "ellipsoid", (0, 0, 0.72), (0.5, 0.5, 0.24)),
    ]


def _cart() -> list[_Part]:
    wheels = [
        _Part("wheels", "cylinder", (x, y, 0.17), (0.17, 0.17, 0.06), "y") for x in (-0.36, 0.36) for y in (-0.36, 0.36)
    ]
    return [
        *wheels,
        _Part("bed", "box", (0, 0, 0.34), (0.6, 0.3, 0.14)),
        _Part("cabin", "box", (0.32, 0, 0.66), (0.24, 0.27, 0.18)),
    ]


def _barrel() -> list[_Part]:
    hoops = [_Part("hoops", "cylinder", (0, 0, z), (0.41, 0.41, 0.06)) for z in (0.16, 0.74)]
    return [
        *hoops,
        _Part("staves", "cylinder", (0, 0, 0.45), (0.37, 0.37, 0.45)),
        _Part("lid", "cylinder", (0, 0, 0.94), (0.3, 0.3, 0.04)),
    ]


_OBJECTS: dict[str, Callable[[], list[_Part]]] = {
    "lamp": _lamp,
    "cart": _cart,
    "mushroom": _mushroom,
    "table": _table,
    "snowman": _snowman,
    "mug": _mug,
    "tower": _tower,
    "barrel": _barrel,
}


def _material(rng: np.random.Generator, hue: float, frequency: float, saturation: float = 0.7) -> Material:
    """A random material about ``hue`` (0..1 around the color circle)."""
    value, saturation = rng.uniform(0.55, 0.95), saturation * rng.uniform(0.7, 1.2)
    phases = np.array([0.0, 2 / 3, 1 / 3])
    color = value * (1 - saturation * (0.5 - 0.5 * np.cos(2 * np.pi * (hue + phases))))
    accent = color * rng.uniform(0.45, 0.7)
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))]
    return Material(color.clip(0, 1), accent.clip(0, 1), pattern, frequency, rng.uniform(0, 50, 3))


def _turn(part: _Part, yaw: float) -> Vector:
    """(3, 3) local axes of a part of an object turned by ``yaw`` about z."""
    c, s = np.cos(yaw), np.sin(yaw)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    lay = {"": np.eye(3), "x": np.eye(3)[[2, 1, 0]], "y": np.eye(3)[[0, 2, 1]]}[part.turn]
    return about_z @ lay


def _placements(count: int, rng: np.random.Generator) -> list[tuple[int, Vector, float, float]]:
    """(group, center on the floor, yaw, size) of each object: groups on a circle, their objects around a point."""
    groups = -(-count // GROUP_SIZE)
    placements = []
    for index in range(count):
        group = index % groups
        angle = 2 * np.pi * (group / groups) + rng.uniform(-0.1, 0.1)
        middle = np.array([np.cos(angle), np.sin(angle)]) * (0.0 if groups == 1 else 0.4 + 0.15 * groups)
        members = len(range(group, count, groups))
        inner = 2 * np.pi * (index // groups) / members + angle + 0.6
        center = middle + (0.0 if members == 1 else 0.44) * np.array([np.cos(inner), np.sin(inner)])
        placements.append((group, center, float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.5, 0.6))))
    return placements


def _tree(names: list[str]) -> tuple[TruthNode, ...]:
    """The nodes of slash-separated leaf ``names`` and all their ancestors, numbered from 1 by depth, then name."""
    every = {"/".join(name.split("/")[: i + 1]) for name in names for i in range(name.count("/") + 1)}
    ordered = sorted(every, key=lambda name: (name.count("/"), name))
    ids = {name: index + 1 for index, name in enumerate(ordered)}
    return tuple(
        TruthNode(ids[n], n, ids.get(n.rpartition("/")[0], 0), n.count("/"), n.split("/")[0] == "room") for n in ordered
    )


def build_world(objects: int, seed: int) -> World:
    """A room with ``objects`` objects of 2-3 parts each, in groups of up to three; the same for the same ``seed``.

    Raises:
        SplatsegError: fewer than 1 or more than 12 objects.
    """
    if not 1 <= objects <= MAX_OBJECTS:
        raise SplatsegError(f"objects: expected 1..{MAX_OBJECTS}, found {objects}")
    rng = np.random.default_rng(seed)
    kinds = list(_OBJECTS)
    parts: list[tuple[str, _Part, Vector, float, float, Material]] = []
    footprints = []
    for index, (group, center, yaw, size) in enumerate(_placements(objects, rng)):
        kind = kinds[index % len(kinds)]
        suffix = "" if index < len(kinds) else f"_{index // len(kinds) + 1}"
        hue = rng.uniform()
        materials: dict[str, Material] = {}
        for part in _OBJECTS[kind]():
            if part.name not in materials:
                # A third of the color circle between parts: their borders are visible, as a segmenter needs.
                part_hue = hue + len(materials) / 3
                materials[part.name] = _material(rng, part_hue, rng.uniform(14, 22))
            name = f"group_{group}/{kind}{suffix}/{part.name}"
            parts.append((name, part, center, yaw, size, materials[part.name]))
        footprints.append([*center, 0.55 * size])
    nodes = _tree([name for name, *_ in parts] + list(ROOM_FACES))
    ids = {node.name: node.id for node in nodes}
    solids = []
    for name, part, center, yaw, size, material in parts:
        offset = _turn(_Part("", "box", (0, 0, 0), (1, 1, 1)), yaw) @ np.array(part.center) * size
        place = np.array([*center, 0.0]) + offset
        solids.append(Solid(part.shape, place, _turn(part, yaw), np.array(part.half) * size, ids[name], material))
    # Floor and walls are speckled: a pattern that repeats would let structure from motion match the wrong places.
    frequencies = (14.0 if face == "room/floor" else 8.0 for face in ROOM_FACES)
    room = tuple(replace(_material(rng, rng.uniform(), f, 0.25), pattern="speckle") for f in frequencies)
    return World(tuple(solids), tuple(ids[face] for face in ROOM_FACES), room, nodes, np.array(footprints))
