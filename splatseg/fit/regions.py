"""What no mask covers, divided by geometry and color: a tree of regions that stand in for segments there.

Masks say nothing about a table that the segmenter never marked, but its Gaussians touch, look alike and face the same
way. Regions grow on the graph of 3D neighbors: the two neighboring regions whose union costs least (Ward's criterion:
the rise of the summed squares of color, normal and place about the region's mean) become one, and so on. Color and
normal are measured in units of what neighbors differ by in this splat, so that noise costs the same everywhere.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.segments import Segments
from splatseg.fit.neighbor_graph import distinct_pairs, looks, neighbor_edges, places
from splatseg.ops.nearest import nearest

COARSEST = 6  # regions at least, so that ground and sky are not one thing beside a table
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RegionConfig:
    """How what no mask covers is divided.

    Attributes:
        most: regions of the finest division; 0 leaves what no mask covers without a feature of its own.
        levels: nested divisions, each finer by about the same factor.
        covered: a Gaussian that lies in masks in more than this share of the views that see it is left to the loss.
        neighbors: of each Gaussian in the graph.
        place: weight of the place beside color and normal; more makes rounder regions.
    """

    most: int = 48
    levels: int = 3
    covered: float = 0.5
    neighbors: int = 10
    place: float = 1.0

    def __post_init__(self) -> None:
        if self.most < 0 or self.levels < 1 or self.neighbors < 1:
            raise SplatsegError(
                "regions.most, levels, neighbors: expected at least 0, 1 and 1, "
                f"found {self.most}, {self.levels} and {self.neighbors}"
            )
        if not 0 <= self.covered <= 1 or self.place < 0:
            raise SplatsegError(
                f"regions.covered, place: expected a share and at least 0, found {self.covered} and {self.place}"
            )


def complete(segments: Segments, gaussians: Gaussians, config: RegionConfig = RegionConfig()) -> Segments:
    """``segments`` with regions of what no mask covers behind them, as sets that no view confirms (``views`` 0).

    A Gaussian that no view sees lies where the nearest seen one does.
    """
    seen = segments.weights > 0
    if config.most < 2 or not seen.any():
        return segments
    free = np.diff(segments.inside.indptr) == 0
    loose = np.flatnonzero(seen & free & (segments.covered <= config.covered))
    columns = [segments.inside.astype(bool)]
    if len(loose) > 1:
        columns += _columns(
            divide(gaussians.select(torch.from_numpy(loose)), segments.weights[loose], config), loose, len(free)
        )
    inside = sparse.hstack(columns).tocsr()
    home = _nearest_seen(gaussians.means.detach().cpu().numpy(), seen)
    nobody = np.zeros(inside.shape[1] - len(segments), np.int64)
    return replace(
        segments,
        inside=inside[home],
        views=np.concatenate([segments.views, nobody]),
        could=np.concatenate([segments.could, nobody]),
        agreed=segments.agreed[home],
        covered=segments.covered[home],
    )


def _columns(divisions: list[Ints], loose: Ints, count: int) -> list[sparse.csr_matrix]:
    """A (count, regions) table for each division of the Gaussians ``loose``."""
    ones = np.ones(len(loose), bool)
    return [sparse.csr_matrix((ones, (loose, part)), (count, int(part.max()) + 1)) for part in divisions]


def _nearest_seen(means: NDArray[np.float32], seen: NDArray[np.bool_]) -> Ints:
    """(n,) each seen Gaussian itself, and for the others the nearest seen one."""
    home = np.arange(len(means))
    sources = np.flatnonzero(seen)
    if len(sources) < len(means):
        home[~seen] = sources[nearest(means[sources], means[~seen])[0][:, 0]]
    return home


def divide(gaussians: Gaussians, weights: NDArray[np.float32], config: RegionConfig) -> list[Ints]:
    """Region (m,) 0..r-1 of each Gaussian at up to ``config.levels`` nested divisions, coarse to fine.

    Args:
        gaussians: m > 1 of them.
        weights: (m,) how much each counts, > 0.
        config: settings.
    """
    means = gaussians.means.detach().cpu().numpy().astype(np.float64)
    edges = neighbor_edges(means, config.neighbors)
    values = np.concatenate([looks(gaussians, edges), config.place * places(means)], axis=1)
    merges, heights = merge_tree(values, weights.astype(np.float64), edges, means)
    count = len(means)
    most = max(min(config.most, count), 2)
    bands = np.unique(np.geomspace(min(COARSEST, most), most, config.levels + 1).round().astype(int))
    bands = bands if len(bands) > 1 else np.array([bands[0], bands[0] + 1])
    rise = np.log(np.maximum(heights, 1e-300))
    divisions = []
    for low, high in itertools.pairwise(bands):
        regions = np.arange(low, high)
        gaps = [rise[count - r] - rise[count - r - 1] if r < count else 0.0 for r in regions]
        divisions.append(cut(merges, count, int(regions[int(np.argmax(gaps))])))
    return divisions


def merge_tree(values: Doubles, weights: Doubles, edges: Ints, means: Doubles) -> tuple[Ints, Doubles]:
    """All m - 1 merges of m regions to one, cheapest first, and the rising cost of each.

    In a round every two regions that are each other's cheapest neighbor become one; for Ward's criterion that is the
    tree of merging one pair at a time. Where the graph falls apart, pieces are joined to those nearest to them.

    Args:
        values: (m, d) what is compared.
        weights: (m,) > 0.
        edges: (e, 2) pairs a < b that touch.
        means: (m, 3) places, for pieces that touch nothing.
    """
    first = np.arange(len(values))  # one Gaussian of each region
    height = np.zeros(len(values))
    merges, heights = [], []
    while len(first) > 1:
        if not len(edges):
            edges = neighbor_edges(means, 3)
        a, b = edges.T
        cost = weights[a] * weights[b] / (weights[a] + weights[b]) * ((values[a] - values[b]) ** 2).sum(axis=1)
        mutual = _mutual(cost, edges, len(first))
        chosen, price = edges[mutual], cost[mutual]
        a, b = chosen.T
        height[a] = np.maximum(np.maximum(price, height[a]), height[b])
        merges.append(first[chosen])
        heights.append(height[a])
        share = (weights[a] / (weights[a] + weights[b]))[:, None]
        values[a] = share * values[a] + (1 - share) * values[b]
        means[a] = share * means[a] + (1 - share) * means[b]
        weights[a] += weights[b]
        kept = np.ones(len(first), bool)
        kept[b] = False
        number = np.cumsum(kept) - 1
        number[b] = number[a]
        values, weights, means = values[kept], weights[kept], means[kept]
        first, height = first[kept], height[kept]
        edges = distinct_pairs(np.sort(number[edges], axis=1), len(first))
    together, costs = np.concatenate(merges or [np.zeros((0, 2), np.int64)]), np.concatenate(heights or [np.zeros(0)])
    order = np.argsort(costs, kind="stable")
    return together[order], costs[order]


def _mutual(cost: Doubles, edges: Ints, count: int) -> NDArray[np.bool_]:
    """(e,) bool: the edge is the cheapest of both its ends; of equal ones the first."""
    least, first = np.full(count, np.inf), np.full(count, len(cost), np.int64)
    for end in edges.T:
        np.minimum.at(least, end, cost)
    for end in edges.T:
        cheapest = np.flatnonzero(cost == least[end])
        np.minimum.at(first, end[cheapest], cheapest)
    return np.asarray((first[edges] == np.arange(len(cost))[:, None]).all(axis=1))


def cut(merges: Ints, count: int, regions: int) -> Ints:
    """(count,) region 0..regions-1 of each of ``count`` Gaussians after all but the last ``regions`` - 1 merges."""
    done = merges[: max(count - regions, 0)]
    graph = sparse.coo_matrix((np.ones(len(done), bool), (done[:, 0], done[:, 1])), (count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)
