"""A binary partition tree: adjacent regions merged pairwise, the most alike first, until one is left.

Salembier and Garrido, "Binary partition tree as an efficient representation for image processing" (2000).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RegionGraph:
    """n regions that tile an image and the borders between them.

    Attributes:
        labels: (h, w) int64 region of each pixel, 0..n-1.
        areas: (n,) pixels.
        colors: (n, 3) mean CIELAB color.
        borders: for each region its neighbors -> (length in pixel pairs, mean gradient across).
    """

    labels: NDArray[np.int64]
    areas: Floats
    colors: Floats
    borders: list[dict[int, tuple[float, float]]]


class MergeWeights(NamedTuple):
    """What makes two regions unlike: (border * mean gradient across their border + color * distance of mean colors)
    * (pixels of the smaller one) ** size."""

    border: float
    color: float
    size: float


@dataclass(frozen=True, eq=False)
class MergeTree:
    """Nodes 0..n-1 are the regions, node n + i the i-th merge, the last one the whole image.

    Attributes:
        leaves: n.
        parents: (2n - 1,) int64, -1 for the root. A parent's number is larger than its children's.
        areas: (2n - 1,) pixels.
    """

    leaves: int
    parents: NDArray[np.int64]
    areas: Floats

    def cut(self, regions: int) -> NDArray[np.int64]:
        """The nodes that tile the image when only ``regions`` of them (or all leaves, if fewer) are left unmerged."""
        first_undone = max(self.leaves, len(self.parents) - (regions - 1))
        parents = np.where(self.parents < 0, len(self.parents), self.parents)
        return np.flatnonzero((np.arange(len(parents)) < first_undone) & (parents >= first_undone))

    def leaf_ranges(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Rank of each leaf in an order in which every node's leaves are consecutive, and per node the ranks
        [begin, end) of its leaves."""
        counts = np.ones(len(self.parents), np.int64)
        counts[self.leaves :] = 0
        for node, parent in enumerate(self.parents[:-1].tolist()):
            counts[parent] += counts[node]
        begin = np.zeros(len(self.parents), np.int64)
        used = np.zeros(len(self.parents), np.int64)
        for node in range(len(self.parents) - 2, -1, -1):
            parent = self.parents[node]
            begin[node] = begin[parent] + used[parent]
            used[parent] += counts[node]
        return begin[: self.leaves], begin, begin + counts


class _Merger:
    """The state of the merging: arrays with room for all 2n - 1 nodes, and a heap of candidate pairs by unlikeness."""

    def __init__(self, graph: RegionGraph, weights: MergeWeights) -> None:
        n = len(graph.areas)
        self.weights = weights
        self.areas = _grown(graph.areas)
        self.colors = _grown(graph.colors)
        self.borders = [dict(one) for one in graph.borders] + [{} for _ in range(n - 1)]
        self.parents = np.full(2 * n - 1, -1, np.int64)
        self.alive = [True] * n + [False] * (n - 1)
        self.heap: list[tuple[float, int, int]] = []
        for node in range(n):
            self._push(node, [other for other in self.borders[node] if other < node])
        heapq.heapify(self.heap)

    def _push(self, node: int, others: list[int]) -> None:
        """Queue ``node`` with each of ``others``."""
        if not others:
            return
        index = np.array(others)
        gradient = np.array([self.borders[node][other][1] for other in others])
        color = np.sqrt(((self.colors[index] - self.colors[node]) ** 2).sum(1))
        w = self.weights
        unlike = w.border * gradient + w.color * color
        cost = unlike * np.minimum(self.areas[index], self.areas[node]) ** w.size
        for one, other in zip(cost.tolist(), others, strict=True):
            heapq.heappush(self.heap, (one, other, node))

    def merge_all(self, leaves: int) -> None:
        for node in range(leaves, len(self.parents)):
            a, b = self._pop()
            self._merge(a, b, node)

    def _pop(self) -> tuple[int, int]:
        while True:
            _, a, b = heapq.heappop(self.heap)
            if self.alive[a] and self.alive[b]:
                return a, b

    def _merge(self, a: int, b: int, node: int) -> None:
        area = self.areas[a] + self.areas[b]
        self.colors[node] = (self.colors[a] * self.areas[a] + self.colors[b] * self.areas[b]) / area
        self.areas[node] = area
        self.parents[a] = self.parents[b] = node
        self.alive[a] = self.alive[b] = False
        self.alive[node] = True
        joined = self.borders[node]
        for side in (a, b):
            for other, (length, gradient) in self.borders[side].items():
                if other in (a, b):
                    continue
                if other in joined:
                    so_far, mean = joined[other]
                    length, gradient = so_far + length, (so_far * mean + length * gradient) / (so_far + length)
                joined[other] = (length, gradient)
            self.borders[side] = {}
        for other, border in joined.items():
            theirs = self.borders[other]
            theirs.pop(a, None)
            theirs.pop(b, None)
            theirs[node] = border
        self._push(node, list(joined))


def _grown(values: Floats) -> Floats:
    """``values`` with n - 1 rows of zeros appended."""
    return np.concatenate([values, np.zeros((len(values) - 1, *values.shape[1:]))])


def merge_regions(graph: RegionGraph, weights: MergeWeights) -> MergeTree:
    """Merge the least unlike pair until one region is left; equal pairs in order of their numbers, so deterministic."""
    merger = _Merger(graph, weights)
    merger.merge_all(len(graph.areas))
    return MergeTree(len(graph.areas), merger.parents, merger.areas)
