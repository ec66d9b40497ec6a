"""The label tree: nested labels of every Gaussian, coarse to fine, with names and colors."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splatseg.core.errors import SplatsegError
from splatseg.core.numbering import numbered
from splatseg.core.palette import color_from_json, hue_color
from splatseg.core.selection import Selection

MAX_ID = 1 << 24  # of labels; a tree holds some thousand


@dataclass(frozen=True)
class LabelNode:
    """A label.

    Attributes:
        id: 1, 2, ...; unique in the tree. 0 is no label.
        parent: id of the label it is part of, 0 at the top.
        level: the coarsest level at which it stands.
        count: number of Gaussians.
        name: as shown to people; a path such as "3.1" unless renamed.
        color: (r, g, b), 0..255.
        category: the class of thing that it is, such as "chair"; "" where nobody has said.
    """

    id: int
    parent: int
    level: int
    count: int
    name: str
    color: tuple[int, int, int]
    category: str = ""

    def to_json(self) -> dict[str, Any]:
        """The label as JSON holds it; its class only where it has one."""
        entry = {
            "id": self.id,
            "parent": self.parent,
            "level": self.level,
            "name": self.name,
            "color": list(self.color),
            "count": self.count,
        }
        return entry | ({"class": self.category} if self.category else {})

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> LabelNode:
        """What :meth:`to_json` gave; raises what :data:`splatseg.core.errors.DAMAGED` lists."""
        number, parent, level, count = (int(entry[name]) for name in ("id", "parent", "level", "count"))
        color, category = color_from_json(entry["color"]), str(entry.get("class", ""))
        return cls(number, parent, level, count, str(entry["name"]), color, category)


@dataclass(frozen=True)
class TreeOutline:
    """A label tree without the labels of the Gaussians: what ``labels.json`` and saved sessions hold of it.

    ``levels`` may be 0 in what an older version saved: not known.
    """

    nodes: tuple[LabelNode, ...]
    default_level: int
    levels: int = 0

    def to_json(self) -> dict[str, Any]:
        """The outline as JSON holds it."""
        nodes = [node.to_json() for node in self.nodes]
        return {"levels": self.levels, "default_level": self.default_level, "nodes": nodes}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TreeOutline:
        """What :meth:`to_json` gave, in a larger mapping or not; raises what ``DAMAGED`` lists."""
        nodes = tuple(LabelNode.from_json(entry) for entry in content["nodes"])
        return cls(nodes, int(content["default_level"]), int(content.get("levels", 0)))


@dataclass(frozen=True, eq=False)
class LabelTree:
    """Labels of n Gaussians at K nested levels.

    Attributes:
        labels: (n, K) int32 label ids, column 0 coarsest; 0 where unlabeled. A label that does not divide at a finer
            level keeps its id there.
        nodes: every label, ascending ids.
        default_level: the level a person should see first.

    Raises:
        SplatsegError: labels that are no nodes, or a label whose Gaussians lie in more than one parent.
    """

    labels: NDArray[np.int32]
    nodes: tuple[LabelNode, ...]
    default_level: int = 0

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.shape[1] < 1:
            raise SplatsegError(f"labels: expected shape (n, K) with K >= 1, found {self.labels.shape}")
        if not 0 <= self.default_level < self.levels:
            raise SplatsegError(f"default_level: expected 0..{self.levels - 1}, found {self.default_level}")
        for node in self.nodes:  # before a table of that many rows is made
            if not 0 < node.id < MAX_ID or not all(0 <= value <= 255 for value in node.color):
                raise SplatsegError(
                    f"nodes: expected ids in 1..{MAX_ID - 1} and colors in 0..255, found {node.id} and {node.color}"
                )
        table = np.zeros(max(self._by_id, default=0) + 1, np.int32)
        if self.labels.min(initial=0) < 0 or self.labels.max(initial=0) >= len(table):
            raise SplatsegError(f"labels: expected ids of the tree's nodes, found {self.labels.max()}")
        missing = set(np.flatnonzero(np.bincount(self.labels.ravel())).tolist()) - {0} - set(self._by_id)
        if missing:
            raise SplatsegError(f"labels: expected ids of the tree's nodes, found {min(missing)}")
        for coarse, fine in itertools.pairwise(self.labels.T):
            table[fine] = coarse
            torn = (table[fine] != coarse) & (fine != 0)
            if torn.any():
                raise SplatsegError(f"labels: expected nested levels, found label {fine[torn][0]} in two parents")

    def __len__(self) -> int:
        """Number of Gaussians."""
        return self.labels.shape[0]

    @property
    def levels(self) -> int:
        return self.labels.shape[1]

    @cached_property
    def _by_id(self) -> dict[int, LabelNode]:
        return {node.id: node for node in self.nodes}

    def node(self, label: int) -> LabelNode:
        """The node with id ``label``.

        Raises:
            SplatsegError: there is none.
        """
        if label not in self._by_id:
            raise SplatsegError(f"label: expected an id of the tree (1..{len(self.nodes)}), found {label}")
        return self._by_id[label]

    def children(self, label: int) -> tuple[LabelNode, ...]:
        """The nodes whose parent is ``label``; the top of the tree for 0."""
        return tuple(node for node in self.nodes if node.parent == label)

    def at_level(self, level: int) -> tuple[LabelNode, ...]:
        """The nodes that stand at ``level``, ascending ids."""
        return tuple(self.node(int(i)) for i in np.unique(self.labels[:, level]) if i != 0)

    def selection(self, label: int) -> Selection:
        """The Gaussians of ``label``."""
        node = self.node(label)
        return Selection(torch.from_numpy(self.labels[:, node.level] == label))

    def outline(self) -> TreeOutline:
        """All but the labels of the Gaussians; :meth:`TreeOutline.to_json` writes it."""
        return TreeOutline(self.nodes, self.default_level, self.levels)

    def colors(self, level: int) -> NDArray[np.uint8]:
        """(n, 3) colors of the Gaussians at ``level``; gray where unlabeled."""
        return self.palette()[self.labels[:, level]]

    def palette(self) -> NDArray[np.uint8]:
        """(largest id + 1, 3) color of each label id; gray for 0."""
        table = np.full((max(self._by_id, default=0) + 1, 3), 128, np.uint8)
        for node in self.nodes:
            table[node.id] = node.color
        return table

    def renamed(self, label: int, name: str) -> LabelTree:
        """The tree with another name for ``label``; raises :class:`SplatsegError` for a label that is not in it."""
        return self._with(replace(self.node(label), name=name))

    def recolored(self, label: int, color: tuple[int, int, int]) -> LabelTree:
        """The tree with another color, 0..255 each, for ``label``; errors as :meth:`renamed`."""
        return self._with(replace(self.node(label), color=color))

    def classified(self, label: int, category: str) -> LabelTree:
        """The tree in which ``label`` is a ``category``; "" takes its class away."""
        return self._with(replace(self.node(label), category=category))

    def named(self, wanted: str) -> LabelNode:
        """The label of this name, else of this id.

        Raises:
            SplatsegError: there is none, or several have the name.
        """
        found = [n for n in self.nodes if n.name == wanted] or [n for n in self.nodes if str(n.id) == wanted]
        if len(found) != 1:
            names = ", ".join(node.name for node in self.at_level(self.default_level)[:20])
            times = "which is none" if not found else f"which {len(found)} have (give its id)"
            raise SplatsegError(
                f"label: expected the name or id of one label ({names}, ...), found '{wanted}', {times}"
            )
        return found[0]

    def _with(self, changed: LabelNode) -> LabelTree:
        nodes = tuple(changed if node.id == changed.id else node for node in self.nodes)
        return LabelTree(self.labels, nodes, self.default_level)

    def merge(self, a: int, b: int) -> LabelTree:
        """One label in place of two siblings: ``b`` disappears into ``a``, whose name and color stay.

        Both become leaves of the tree if either had children: what was inside them is found again by :meth:`split`.

        Raises:
            SplatsegError: the labels are the same, unknown, or have different parents.
        """
        first, second = self.node(a), self.node(b)
        if a == b or first.parent != second.parent:
            raise SplatsegError(f"merge: expected two labels with one parent, found {a} and {b}")
        level = min(first.level, second.level)
        inside = (self.labels[:, first.level] == a) | (self.labels[:, second.level] == b)
        labels = self.labels.copy()
        labels[inside, level:] = a
        return self._rebuilt(labels)

    def split(self, label: int, parts: NDArray[np.int64]) -> LabelTree:
        """Divide a leaf in place: ``parts`` (count,) numbers its Gaussians 0..k-1; part 0 keeps the id, others get
        new ones.

        Raises:
            SplatsegError: the label has children, or ``parts`` does not number its Gaussians.
        """
        node = self.node(label)
        children = self.children(label)
        if children:
            raise SplatsegError(f"split: expected a label without parts, found {label} with {len(children)}")
        ids = np.flatnonzero(self.labels[:, node.level] == label)
        if parts.shape != ids.shape or len(np.unique(parts)) != parts.max() + 1:
            raise SplatsegError(f"split: expected parts 0..k-1 of {len(ids)} Gaussians, found shape {parts.shape}")
        labels = self.labels.copy()
        free = max(self._by_id) + 1
        names = {}
        for part in range(1, int(parts.max()) + 1):
            labels[ids[parts == part], node.level :] = free + part - 1
            names[free + part - 1] = f"{node.name}'" if part == 1 else f"{node.name}'{part}"
        return self._rebuilt(labels, names)

    def _rebuilt(self, labels: NDArray[np.int32], names: dict[int, str] | None = None) -> LabelTree:
        """The tree of changed ``labels``: nodes that are gone leave, new ones get ``names`` and colors."""
        nodes = []
        for fresh in build_nodes(labels):
            old = self._by_id.get(fresh.id)
            if old:
                nodes.append(replace(fresh, name=old.name, color=old.color, category=old.category))
            else:
                nodes.append(replace(fresh, name=(names or {})[fresh.id]))
        return LabelTree(labels, tuple(nodes), self.default_level)


def build_nodes(labels: NDArray[np.int32]) -> tuple[LabelNode, ...]:
    """Nodes of nested ``labels`` (n, K), named by their path: "2" is the second of the coarsest level, "2.1" its
    first part."""
    found: dict[int, LabelNode] = {}
    order: dict[int, int] = {}
    for level in range(labels.shape[1]):
        ids, number = numbered(labels[:, level])
        counts, first = np.bincount(number), np.zeros(len(ids), np.int64)
        first[number[::-1]] = np.arange(len(number))[::-1]  # of equal numbers the last one is kept
        for label, row, count in zip(ids.tolist(), first.tolist(), counts.tolist(), strict=True):
            if label == 0 or label in found:
                continue
            parent = int(labels[row, level - 1]) if level else 0
            order[parent] = order.get(parent, 0) + 1
            name = f"{found[parent].name}.{order[parent]}" if parent else str(order[parent])
            found[label] = LabelNode(label, parent, level, count, name, hue_color(label))
    return tuple(found[label] for label in sorted(found))


def tree_from_leaves(leaves: NDArray[np.int64], cuts: Sequence[NDArray[np.int64]], default_level: int) -> LabelTree:
    """A tree from leaf numbers (n,) 0..L-1 (-1: unlabeled) and, coarse to fine, the group (L,) of each leaf at
    each level.

    Ids are given level by level, larger labels first; a group that equals its parent keeps the parent's id.
    """
    sizes = np.bincount(leaves[leaves >= 0], minlength=len(cuts[0]))
    table = np.zeros((len(cuts[0]), len(cuts)), np.int32)
    taken = 0
    for level, groups in enumerate(cuts):
        for group in _by_size(groups, sizes):
            members = groups == group
            above = np.unique(table[members, level - 1]) if level else np.zeros(0, np.int32)
            if len(above) == 1 and bool((members == (table[:, level - 1] == above[0])).all()):
                table[members, level] = above[0]
            else:
                taken += 1
                table[members, level] = taken
    padded = np.concatenate([table, np.zeros((1, len(cuts)), np.int32)])  # row -1: unlabeled
    labels = padded[leaves]
    return LabelTree(labels, build_nodes(labels), default_level)


def tree_from_columns(columns: Sequence[NDArray[np.integer[Any]]], default_level: int = 0) -> LabelTree:
    """A tree from labels (n,) of any numbers at each level, coarse to fine; 0 and below is no label. Levels that do not
    nest are made to: a label that lies in several of the level above becomes one per label there.

    Raises:
        SplatsegError: nothing is labeled.
    """
    groups = np.zeros((len(columns[0]), 0), np.int64)
    for column in columns:
        groups = np.concatenate([groups, np.maximum(column.astype(np.int64), 0)[:, None]], axis=1)
    paths, leaves = np.unique(groups, axis=0, return_inverse=True)
    labeled = paths[:, 0] > 0
    if not labeled.any():
        raise SplatsegError("labels: expected numbers above 0, found none")
    paths = np.where(np.minimum.accumulate(paths > 0, axis=1), paths, -1)  # nothing finer in what has no label
    above = [paths[:, : level + 1] for level in range(paths.shape[1])]
    cuts = [np.unique(path, axis=0, return_inverse=True)[1].reshape(-1) for path in above]
    numbers = np.where(labeled, np.arange(len(paths)), -1)
    return tree_from_leaves(numbers[leaves.reshape(-1)], cuts, default_level)


def _by_size(groups: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterable[int]:
    totals = np.bincount(groups, weights=sizes)
    return (int(group) for group in np.argsort(-totals, kind="stable") if (groups == group).any())
