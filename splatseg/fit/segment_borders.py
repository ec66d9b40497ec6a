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
Bools = NDArray[np.bool_]


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
    graph = likeness(gaussians.select(torch.from_numpy(seen)), weights[seen].astype(np.float64), config)
    sets, kept = inside[seen].tocsc(), inside.tocoo()
    settled = [seen[_settled(graph, _column(sets, k), weights[seen], config)] for k in range(inside.shape[1])]
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
    apart = ((looks[a] - looks[b]) ** 2).sum(axis=1)
    alike = np.exp(-apart / (2 * config.contrast**2))
    rows, columns = np.concatenate([a, b]), np.concatenate([b, a])
    return sparse.csr_matrix((np.concatenate([alike, alike]) * weights[columns], (rows, columns)), (count, count))


def _settled(graph: sparse.csr_matrix, member: Bools, weights: NDArray[np.float32], config: BorderConfig) -> Ints:
    """The Gaussians, ascending, of a set (m,) ``member`` after its border has settled."""
    near = _border(graph, member)
    for _ in range(config.hops):
        near |= _touching(graph, near)
    moving = np.flatnonzero(near)
    rows = graph[moving]
    own = weights[moving].astype(np.float64)
    total = own + config.pull * np.asarray(rows.sum(axis=1)).ravel()
    share = member.astype(np.float64)
    first = share[moving]
    for _ in range(config.rounds):
        share[moving] = (own * first + config.pull * (rows @ share)) / total
    return np.flatnonzero(share > 0.5)


def _border(graph: sparse.csr_matrix, member: Bools) -> Bools:
    """(m,) whether a Gaussian has a neighbor on the other side."""
    return member & _touching(graph, ~member) | ~member & _touching(graph, member)


def _touching(graph: sparse.csr_matrix, member: Bools) -> Bools:
    """(m,) whether a Gaussian has a neighbor in the set."""
    found = np.zeros(len(member), bool)
    chosen = np.flatnonzero(member)
    begin, end = graph.indptr[chosen], graph.indptr[chosen + 1]
    count = end - begin
    where = np.repeat(begin - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
    found[graph.indices[where]] = True
    return found


def _column(sets: sparse.csc_matrix, number: int) -> Bools:
    member = np.zeros(sets.shape[0], bool)
    member[sets.indices[sets.indptr[number] : sets.indptr[number + 1]]] = True
    return member
