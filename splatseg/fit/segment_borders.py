"""Borders of segments, settled by what lies there: Gaussians that look alike, touch and face the same way go together.

Masks of a view end some pixels off, and so does what the masks of all views agree on, by less. Where a segment ends,
color or normal mostly change; there its border is drawn: near a border a Gaussian's membership becomes a mean of its
own and its neighbors', each the more the less it differs from them, again and again, as in a random walk that seldom
crosses an edge (Grady, "Random walks for image segmentation", 2006). Far from a border nothing changes. Of nested sets
the inner one stays inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.fit.neighbor_graph import appearance, neighbor_edges

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
AT_ONCE = 1 << 18  # pairs that are compared
MEMBER = 1 << 20  # above the neighbors of any Gaussian


@dataclass(frozen=True)
class BorderConfig:
    """How borders are settled.

    Attributes:
        rounds: of taking means; 0 leaves segments as they are.
        pull: how much a neighbor that looks the same counts, a Gaussian itself counting 1.
        contrast: difference from which two neighbors are told apart, in units of what neighbors usually differ by.
        hops: along the graph of neighbors, from a border to what it may take in or lose.
        neighbors: of each Gaussian in the graph.
    """

    rounds: int = 10
    pull: float = 0.3
    contrast: float = 3.0
    hops: int = 2
    neighbors: int = 10

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.hops < 1 or self.neighbors < 1 or not (self.pull >= 0 and self.contrast > 0):
            raise SplatsegError(
                "borders.rounds, hops, neighbors, pull, contrast: expected at least 0, 1, 1, 0 and above 0, found "
                f"{self.rounds}, {self.hops}, {self.neighbors}, {self.pull} and {self.contrast}"
            )


def settle(
    inside: sparse.csr_matrix,
    gaussians: Gaussians,
    weights: NDArray[np.float32],
    config: BorderConfig = BorderConfig(),
) -> sparse.csr_matrix:
    """(n, s) bool ``inside`` with settled borders.

    Args:
        inside: (n, s) bool sets of Gaussians.
        gaussians: n of them.
        weights: (n,) how much each counts; those of 0 stay as they are and count for nothing.
        config: settings.
    """
    seen = np.flatnonzero(weights > 0)
    if not config.rounds or not inside.shape[1] or len(seen) < 2:
        return inside
    own = weights[seen].astype(np.float64)
    graph = likeness(gaussians.select(torch.from_numpy(seen)), own, config)
    sets, kept = inside[seen].tocsc(), inside.tocoo()
    near, walk = beside_borders(graph, sets, config.hops).tocsc(), _Walk(graph, own, config)
    settled = [seen[walk.settled(_column(sets, k), _column(near, k))] for k in range(inside.shape[1])]
    unseen = weights[kept.row] <= 0
    rows = np.concatenate([*settled, kept.row[unseen]])
    columns = np.concatenate([np.repeat(np.arange(len(settled)), [len(one) for one in settled]), kept.col[unseen]])
    return sparse.csr_matrix((np.ones(len(rows), bool), (rows, columns)), inside.shape)


def likeness(gaussians: Gaussians, weights: Doubles, config: BorderConfig) -> sparse.csr_matrix:
    """(m, m) how much each neighbor in 3D counts: its weight, the less the more the two differ in color and normal."""
    count = len(weights)
    edges = neighbor_edges(gaussians.means.detach().cpu().numpy().astype(np.float64), config.neighbors)
    looks = appearance(gaussians, edges, 0.0)
    a, b = edges.T
    apart = np.empty(len(edges))
    for first in range(0, len(edges), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        apart[part] = ((looks[a[part]] - looks[b[part]]) ** 2).sum(axis=1)
    alike = np.exp(-apart / (2 * config.contrast**2))
    rows, columns = np.concatenate([a, b]), np.concatenate([b, a])
    return sparse.csr_matrix((np.concatenate([alike, alike]) * weights[columns], (rows, columns)), (count, count))


def beside_borders(graph: sparse.csr_matrix, sets: sparse.csc_matrix, hops: int) -> sparse.csr_matrix:
    """(m, s) non-zero: what has a neighbor on the other side of a set's border, and what is up to ``hops`` from that.

    All sets at once, and first those Gaussians whose neighbors lie in other sets: looking through the graph for each set
    took a minute and a half with a million of them.
    """
    touches = sparse.csr_matrix((np.ones(graph.nnz, np.int32), graph.indices, graph.indptr), graph.shape)
    member = sets.tocsr().astype(np.int32)
    degree = np.diff(touches.indptr)
    row = np.repeat(np.arange(len(degree)), degree)
    lies_in = member @ np.random.default_rng(0).random(member.shape[1])  # the same where the sets are
    mixed = np.flatnonzero(np.bincount(row[lies_in[row] != lies_in[touches.indices]], minlength=len(degree)))
    beside = (touches[mixed] @ member + MEMBER * member[mixed]).tocsr()  # neighbors inside, and whether it is itself
    beside.data = (beside.data != np.repeat(degree[mixed], np.diff(beside.indptr)) + MEMBER).astype(np.int32)
    beside.eliminate_zeros()  # what has its like all round
    counts = np.zeros(len(degree), np.int64)
    counts[mixed] = np.diff(beside.indptr)
    near = sparse.csr_matrix((beside.data, beside.indices, np.append(0, counts.cumsum())), member.shape)
    for _ in range(hops):
        near = (touches @ near + near).tocsr()
        near.data[:] = 1
    return near


class _Walk:
    """Means over neighbors near the border of one set after the other, in one table that is left as it was found."""

    def __init__(self, graph: sparse.csr_matrix, own: Doubles, config: BorderConfig) -> None:
        self._graph, self._own, self._config = graph, own, config
        self._total = own + config.pull * np.asarray(graph.sum(axis=1)).ravel()
        self._share = np.zeros(len(own))

    def settled(self, member: Ints, moving: Ints) -> Ints:
        """The Gaussians, ascending, of the set ``member`` after those ``moving`` near its border have settled."""
        share, own, total = self._share, self._own[moving], self._total[moving]
        share[member] = 1
        first, rows = share[moving], self._graph[moving]
        for _ in range(self._config.rounds):
            share[moving] = (own * first + self._config.pull * (rows @ share)) / total
        taken = moving[share[moving] > 0.5]
        share[moving] = 0
        stay = member[share[member] > 0]
        share[member] = 0
        return np.sort(np.concatenate([stay, taken]))


def _column(sets: sparse.csc_matrix, number: int) -> Ints:
    """Rows of a column, as they come."""
    return sets.indices[sets.indptr[number] : sets.indptr[number + 1]].astype(np.int64)
