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
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.fit.neighbor_graph import edges_of, looks, usual_differences
from splatseg.ops.nearest import nearest

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
AT_ONCE = 1 << 18  # pairs that are compared
MEMBER = 1 << 20  # above the neighbors of any Gaussian
SAMPLE = 1 << 18  # Gaussians that suffice to tell what neighbors usually differ by


@dataclass(frozen=True)
class BorderConfig:
    """How borders are settled.

    Attributes:
        rounds: of taking means; 0 leaves segments as they are.
        pull: how much a neighbor that looks the same counts, a Gaussian itself counting 1.
        contrast: difference from which two neighbors are told apart, in units of what neighbors usually differ by.
        hops: along the graph of neighbors, from a border to what it may take in or lose.
        neighbors: of each Gaussian in the graph.
        max_gaussians: a splat with more keeps its borders: 12 processor seconds and 0.7 GB a million are much beside
            the rest of the features.
    """

    rounds: int = 10
    pull: float = 0.3
    contrast: float = 3.0
    hops: int = 2
    neighbors: int = 10
    max_gaussians: int = 500_000

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
    if not config.rounds or not inside.shape[1] or not 1 < len(seen) <= config.max_gaussians:
        return inside
    sets, own, kept = inside[seen], weights[seen].astype(np.float64), inside.tocoo()
    graph = border_graph(gaussians.select(torch.from_numpy(seen)), own, sets, config)
    near, walk = beside_borders(graph, sets, config.hops).tocsc(), _Walk(graph, own, config)
    by_set = sets.tocsc()
    settled = [seen[walk.settled(_column(by_set, k), _column(near, k))] for k in range(inside.shape[1])]
    unseen = weights[kept.row] <= 0
    rows = np.concatenate([*settled, kept.row[unseen]])
    columns = np.concatenate([np.repeat(np.arange(len(settled)), [len(one) for one in settled]), kept.col[unseen]])
    return sparse.csr_matrix((np.ones(len(rows), bool), (rows, columns)), inside.shape)


def border_graph(
    gaussians: Gaussians, own: Doubles, sets: sparse.csr_matrix, config: BorderConfig
) -> sparse.csr_matrix:
    """(m, m) how much each neighbor in 3D counts: its weight, the less the more the two differ in color and normal.

    Rows are whole of what lies up to ``config.hops`` from a border of ``sets`` (m, s), and mostly empty of the rest.
    """
    means = gaussians.means.detach().cpu().numpy()
    count = len(means)
    ids = nearest(means, count=min(config.neighbors + 1, count))[0]
    rows = around(ids, mixed(ids, sets), config.hops + 1)
    edges = edges_of(ids[rows], rows, count)
    within = np.zeros(count, bool)
    within[rows] = True
    edges = edges[within[edges].all(axis=1)]
    every = count // SAMPLE + 1
    usual = edges_of(ids[::every], np.arange(0, count, every), count)
    units = usual_differences(gaussians, usual)
    blocks = looks(gaussians.select(torch.from_numpy(rows)))
    seen = np.concatenate([block / unit for block, unit in zip(blocks, units, strict=True)], axis=1)
    place = np.zeros(count, np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    a, b = np.ascontiguousarray(edges.T)
    alike = likeness(torch.from_numpy(seen).float(), place[a], place[b], config.contrast)
    one_way = sparse.csr_matrix((alike, b, np.searchsorted(a, np.arange(count + 1))), (count, count))
    graph = (one_way + one_way.T).tocsr()
    graph.data *= own.astype(np.float32)[graph.indices]
    return graph


def likeness(looks_of: Tensor, a: NDArray[np.int32], b: NDArray[np.int32], contrast: float) -> NDArray[np.float32]:
    """(e,) 1 where ``looks_of`` (k, channels) are the same at ``a`` and ``b`` (e,), less where they differ."""
    alike = np.empty(len(a), np.float32)
    for first in range(0, len(a), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        one, other = (looks_of[torch.from_numpy(end[part])] for end in (a, b))
        alike[part] = torch.exp((one - other).square_().sum(1) / (-2 * contrast**2)).numpy()
    return alike


def mixed(ids: NDArray[np.int32], sets: sparse.csr_matrix) -> NDArray[np.bool_]:
    """(m,) whether a Gaussian lies in other ``sets`` (m, s) than one of its neighbors ``ids`` (m, near), or than one
    that it is a neighbor of."""
    lies_in = sets @ np.random.default_rng(0).random(sets.shape[1])  # the same where the sets are
    unlike = lies_in[ids] != lies_in[:, None]
    found = unlike.any(axis=1)
    found[ids[unlike]] = True
    return found


def around(ids: NDArray[np.int32], start: NDArray[np.bool_], hops: int) -> Ints:
    """The Gaussians, ascending, up to ``hops`` from those where ``start`` (m,), from either end of an edge."""
    near = start.copy()
    for _ in range(hops):
        wider = np.asarray(near[ids].any(axis=1))
        wider[ids[near]] = True
        near |= wider
    return np.flatnonzero(near)


def beside_borders(graph: sparse.csr_matrix, sets: sparse.csr_matrix, hops: int) -> sparse.csr_matrix:
    """(m, s) non-zero: what has a neighbor on the other side of a set's border, and what is up to ``hops`` from that.
    All sets at once: looking through the graph for each took a minute and a half with a million Gaussians."""
    touches = sparse.csr_matrix((np.ones(graph.nnz, np.int32), graph.indices, graph.indptr), graph.shape)
    degree = np.diff(touches.indptr)
    member = sets.astype(np.int32)
    near = (touches @ member + MEMBER * member).tocsr()  # neighbors inside, and whether it is inside itself
    near.data = (near.data != np.repeat(degree, np.diff(near.indptr)) + MEMBER).astype(np.int32)
    near.eliminate_zeros()  # what has its like all round
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
        first, rows = share[moving], self._graph[moving].astype(np.float64)
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
