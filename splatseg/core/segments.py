"""Segments: sets of Gaussians that the masks of several views agree on, how many do, and which nest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from splatseg.core.errors import SplatsegError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
SAME = 0.9  # overlap from which a node of a family stands for a segment


@dataclass(frozen=True, eq=False)
class Segments:
    """Sets of Gaussians that several views agree on.

    Attributes:
        inside: (n, s) sparse bool: Gaussian g belongs to segment k.
        weights: (n,) float32 mean blending weight of a Gaussian in the pools that see it; 0 where none does.
        views: (s,) int64 views with a mask of the segment.
        could: (s,) int64 views that see enough of the segment to have one; at least ``views``.
            0 of a region, which no view confirms (:mod:`splatseg.fit.regions`).
        agreed: (n,) float32 share of the views that see a Gaussian in which it lies in a mask of one of its segments.
        covered: (n,) float32 ... in which it lies in any mask.
    """

    inside: sparse.csr_matrix
    weights: Floats
    views: Ints
    could: Ints
    agreed: Floats
    covered: Floats

    def __len__(self) -> int:
        return int(self.inside.shape[1])

    @classmethod
    def none(cls, count: int) -> Segments:
        """No segment of ``count`` Gaussians that no view sees."""
        nothing = np.zeros(count, np.float32)
        nobody = np.zeros(0, np.int64)
        return cls(sparse.csr_matrix((count, 0), dtype=bool), nothing, nobody, nobody, nothing, nothing)

    @property
    def confidence(self) -> Floats:
        """(s,) views that agree / views that could."""
        return (self.views / np.maximum(self.could, 1)).astype(np.float32)

    @cached_property
    def patterns(self) -> tuple[Ints, Bools]:
        """(n,) pattern of each Gaussian, and (k, s) segments of each pattern: what lies in the same segments is one."""
        keys = _keys(self.inside)
        _, first, pattern = np.unique(keys, return_index=True, return_inverse=True)
        return pattern.ravel().astype(np.int64), self.inside[first].toarray().astype(bool)

    @cached_property
    def pattern_table(self) -> sparse.csr_matrix:
        """(k, s) float64 0/1 segments of each pattern; few of hundreds."""
        return sparse.csr_matrix(self.patterns[1], dtype=np.float64)

    def areas(self, weights: Tensor) -> NDArray[np.float64]:
        """(s,) share of all ``weights`` (n,) that each segment has; kept for the weights that were asked for last."""
        kept = self._areas_of
        if not kept or kept[0][0] is not weights:
            pattern = self.pattern_on(weights.device)
            summed = torch.bincount(pattern, weights, self.pattern_table.shape[0]).double().cpu().numpy()
            kept[:] = [(weights, self.pattern_table.T @ summed / max(float(weights.sum()), 1e-12))]
        return kept[0][1]

    @cached_property
    def _areas_of(self) -> list[tuple[Tensor, NDArray[np.float64]]]:
        return []

    def pattern_on(self, device: torch.device) -> Tensor:
        """(n,) int64 pattern of each Gaussian on ``device``, kept there."""
        if device not in self._patterns_on:
            self._patterns_on[device] = torch.from_numpy(self.patterns[0]).to(device)
        return self._patterns_on[device]

    @cached_property
    def _patterns_on(self) -> dict[torch.device, Tensor]:
        return {}

    def pattern_weights(self, weights: Floats | None = None) -> NDArray[np.float64]:
        """(k,) summed ``weights`` (the blending weights if not given) of the Gaussians of each pattern."""
        pattern, table = self.patterns
        return np.bincount(pattern, self.weights if weights is None else weights, len(table)).astype(np.float64)

    def to_tensors(self) -> dict[str, Tensor]:
        """What :meth:`from_tensors` reads: by pattern, which takes 4 bytes per Gaussian in place of 4 per entry."""
        pattern, table = self.patterns
        return {
            "segments.pattern": torch.from_numpy(pattern.astype(np.int32)),
            "segments.table": torch.from_numpy(table.astype(np.uint8)),
            "segments.weights": torch.from_numpy(self.weights.astype(np.float32)),
            "segments.views": torch.from_numpy(self.views.astype(np.int32)),
            "segments.could": torch.from_numpy(self.could.astype(np.int32)),
            "segments.agreed": torch.from_numpy(self.agreed.astype(np.float32)),
            "segments.covered": torch.from_numpy(self.covered.astype(np.float32)),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], count: int) -> Segments:
        """Segments of ``count`` Gaussians as :meth:`to_tensors` gave them.

        Raises:
            SplatsegError: a tensor is missing or of another shape.
        """
        try:
            found = {name.removeprefix("segments."): value.numpy() for name, value in tensors.items()}
            pattern, table = found["pattern"].astype(np.int64), found["table"].astype(bool)
            weights, agreed, covered = found["weights"], found["agreed"], found["covered"]
            views, could = found["views"].astype(np.int64), found["could"].astype(np.int64)
        except KeyError as error:
            raise SplatsegError(f"segments: expected a tensor {error}, found none") from None
        fits = pattern.shape == weights.shape == agreed.shape == covered.shape == (count,) and table.ndim == 2
        fits = fits and views.shape == could.shape == table.shape[1:] and pattern.min(initial=0) >= 0
        if not fits or pattern.max(initial=-1) >= len(table):
            raise SplatsegError(
                f"segments: expected tables of {count} Gaussians, found pattern {pattern.shape}, "
                f"table {table.shape}, views {views.shape}"
            )
        found_patterns = sparse.csr_matrix(table)
        segments = cls(found_patterns[pattern], weights, views, could, agreed, covered)
        if _is_canonical(found_patterns, pattern):
            segments.__dict__["patterns"] = (pattern, table)  # as they would be found again, in seconds
        return segments


def _keys(inside: sparse.csr_matrix) -> Ints:
    """(n,) sums of random 64-bit numbers, which stand for sets of segments: two different sets share one with
    probability 2^-64 a pair."""
    names = np.random.default_rng(0).integers(-(2**62), 2**62, inside.shape[1])
    return inside.astype(np.int64) @ names


def _is_canonical(table: sparse.csr_matrix, pattern: Ints) -> bool:
    """Whether these are the patterns of :attr:`Segments.patterns`: by ascending keys, each of some Gaussian."""
    keys = _keys(table)
    return bool((keys[1:] > keys[:-1]).all()) and bool((np.bincount(pattern, minlength=len(keys)) > 0).all())


@dataclass(frozen=True, eq=False)
class Family:
    """Segments that nest or are apart: a forest, each node a set of patterns.

    Attributes:
        member: (f, k) bool patterns of each node.
        parent: (f,) int64 node that it lies in directly, -1 at the top.
        node: (s,) int64 node that stands for each segment, -1 where better supported ones cross it.
    """

    member: Bools
    parent: Ints
    node: Ints

    def __len__(self) -> int:
        return len(self.parent)

    def deepest(self) -> Ints:
        """(k,) the smallest node around each pattern, -1 for none."""
        found = np.full(self.member.shape[1], -1, np.int64)
        for node in np.argsort(self.depth, kind="stable"):
            found[self.member[node]] = node
        return found

    def likeness(self, segments: Segments) -> NDArray[np.float64]:
        """(f,) overlap of each node with what it stands for, by blending weight; the least where that are several."""
        table, weight = segments.patterns[1], segments.pattern_weights()
        found = np.ones(len(self))
        for segment in np.flatnonzero(self.node >= 0):
            one, other = table[:, segment], self.member[self.node[segment]]
            overlap = weight[one & other].sum() / max(weight[one | other].sum(), 1e-12)
            found[self.node[segment]] = min(found[self.node[segment]], overlap)
        return found

    @cached_property
    def inner(self) -> Bools:
        """(f,) nodes that others lie in."""
        inner = np.zeros(len(self), bool)
        inner[self.parent[self.parent >= 0]] = True
        return inner

    @cached_property
    def depth(self) -> Ints:
        """(f,) nodes around each node."""
        depth = np.zeros(len(self), np.int64)
        above = self.parent.copy()
        while (above >= 0).any():
            depth[above >= 0] += 1
            above = np.where(above >= 0, self.parent[above], -1)
        return depth

    def ancestors(self, level: int) -> Ints:
        """(f,) the node at depth ``level`` around each node; itself where it is no deeper."""
        found = np.arange(len(self))
        for _ in range(int(self.depth.max(initial=0))):
            found = np.where(self.depth[found] > level, self.parent[found], found)
        return found


def nest(segments: Segments) -> Family:
    """The largest laminar family, greedily: the segments that most views confirm first.

    A segment that crosses those before it is trimmed to fit: it loses what it shares with one that lies mostly outside
    it, and takes in the rest of one that lies mostly inside. Where more than a tenth would change (:data:`SAME`), the
    views that agree on the others have outvoted it.
    """
    table, weight = segments.patterns[1], segments.pattern_weights()
    growing = _Forest(weight)
    node = np.full(len(segments), -1, np.int64)
    area = weight @ table
    for segment in np.lexsort((area, -segments.confidence, -segments.views)):
        if area[segment] > 0:
            node[segment] = growing.add(table[:, segment])
    return Family(np.array(growing.member, bool).reshape(-1, len(weight)), np.array(growing.parent, np.int64), node)


class _Forest:
    """A laminar family that grows by a set at a time."""

    def __init__(self, weight: NDArray[np.float64]) -> None:
        self.weight = weight
        self.member: list[Bools] = []
        self.parent: list[int] = []

    def add(self, wanted: Bools) -> int:
        """The node that stands for ``wanted``, made if there is none; -1 where it does not fit."""
        fitted, parent, children = wanted.copy(), -1, self._below(-1)
        while True:
            within = [child for child in children if self._relation(fitted, child) == "in"]
            if not within:
                break
            parent, children = within[0], self._below(within[0])
            fitted &= self.member[parent]
        inner = [child for child in children if self._relation(fitted, child) == "around"]
        for child in children:
            fitted = fitted | self.member[child] if child in inner else fitted & ~self.member[child]
        if not self._same(fitted, wanted):
            return -1
        if parent >= 0 and self._same(self.member[parent], wanted):
            return parent
        for child in inner:
            if self._same(self.member[child], wanted):
                return child
        self.member.append(fitted)
        self.parent.append(parent)
        for child in inner:
            self.parent[child] = len(self.parent) - 1
        return len(self.parent) - 1

    def _below(self, node: int) -> list[int]:
        return [child for child, parent in enumerate(self.parent) if parent == node]

    def _relation(self, one: Bools, node: int) -> str:
        """Whether ``one`` lies in ``node``, around it or apart, whichever changes least."""
        other = self.member[node]
        costs = {"apart": one & other, "in": one & ~other, "around": other & ~one}
        return min(costs, key=lambda name: float(self.weight[costs[name]].sum()))

    def _same(self, one: Bools, other: Bools) -> bool:
        union = float(self.weight[one | other].sum())
        return float(self.weight[one & other].sum()) >= SAME * union > 0
