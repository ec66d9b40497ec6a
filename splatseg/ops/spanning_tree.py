"""Minimum spanning tree of mutual reachability (Campello et al. 2013): what single-linkage clustering by density needs.

Exact, by Boruvka's rounds over distinct points. Kernels of the CPU skip most pairs by a tree of boxes, on all cores; on
other devices a block of all pairs is looked at at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims
from splatseg.ops.extension import compiled, has_kernel

BLOCK_PAIRS = 1 << 24  # distances held at a time; at some 30 bytes each, 0.5 GB
LARGEST = 1e150  # of a coordinate: its square is a number

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def reachability_tree(points: Tensor, min_samples: int) -> tuple[Tensor, Tensor]:
    """Edges (n - 1, 2) int64 and lengths (n - 1,) float64, ascending, on the CPU, of a minimum spanning tree.

    The distance of two points is the largest of their Euclidean distance and the core distances of both; a point's core
    distance is that to the ``min_samples``-th nearest other point. Equal points make copies: a copy's shortest edge is
    the one to its first, of the core distance of both. Of equal lengths the edge between the points that
    come first when all are sorted is taken, so that the tree is the same on every device but for the rounding of
    distances (float64), whatever the number of threads.

    Args:
        points: (n, d) float64, n > min_samples.
        min_samples: at least 1.

    Raises:
        SplatsegError: another type, too few points, or coordinates that are not within 1e150.
    """
    check_dims("points", points, ("n", "d"))
    if points.dtype != torch.float64:
        raise SplatsegError(f"points: expected float64, found {points.dtype}")
    if not 1 <= min_samples < len(points):
        raise SplatsegError(f"min_samples: expected 1..{len(points) - 1} for as many points, found {min_samples}")
    if not bool((points.abs() <= LARGEST).all()):
        raise SplatsegError(f"points: expected coordinates within {LARGEST:g}, found others")
    distinct, index, counts = torch.unique(points, dim=0, return_inverse=True, return_counts=True)
    if has_kernel("reachability_edges", points):
        core, *tree = torch.ops.splatseg.reachability_edges(distinct.contiguous(), counts, min_samples)
        edges, lengths = (part.numpy() for part in tree)
    else:
        core = core_distances(distinct, counts, min_samples)
        edges, lengths = _boruvka(distinct, core)
    index_of = index.cpu().numpy()
    _, first = np.unique(index_of, return_index=True)
    copies = np.setdiff1d(np.arange(len(points)), first)
    to_first = np.stack([first[index_of[copies]], copies], axis=1)
    edges = np.concatenate([first[edges], to_first])
    lengths = np.concatenate([lengths, core.cpu().numpy()[index_of[copies]]])
    order = np.lexsort((edges.max(1), edges.min(1), lengths))
    return torch.from_numpy(edges[order]), torch.from_numpy(lengths[order])


def core_distances(distinct: Tensor, counts: Tensor, min_samples: int) -> Tensor:
    """(m,) float64 distance of each of ``distinct`` (m, d), of which there are ``counts`` (m,), to the
    ``min_samples``-th nearest other point, copies counted."""
    result = []
    for _, rows in _row_blocks(distinct):
        near, who = _distances(rows, distinct).topk(min(min_samples + 1, len(distinct)), dim=1, largest=False)
        enough = counts[who].cumsum(1) > min_samples  # the point itself, and its copies, are the nearest
        result.append(near.gather(1, enough.int().argmax(1, keepdim=True))[:, 0])
    return torch.cat(result)


def _boruvka(points: Tensor, core: Tensor) -> tuple[Ints, Floats]:
    """Edges (m - 1, 2) and lengths of the tree over distinct points: in each round every component takes its shortest
    edge to another, the first of equal ones by the numbers of its points, which is why no round closes a circle."""
    count = len(points)
    component = np.arange(count)
    edges, lengths = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    while (components := int(component.max()) + 1) > 1:
        length, other = (part.cpu().numpy() for part in _nearest_outside(points, core, torch.from_numpy(component)))
        pairs = np.stack([np.minimum(np.arange(count), other), np.maximum(np.arange(count), other)], axis=1)
        order = np.lexsort((pairs[:, 1], pairs[:, 0], length, component))
        _, first = np.unique(component[order], return_index=True)
        taken, where = np.unique(pairs[order[first]], axis=0, return_index=True)  # two may take the same edge
        edges.append(taken)
        lengths.append(length[order[first]][where])
        component = _joined(component[taken], components)[component]
    return np.concatenate(edges), np.concatenate(lengths)


def _joined(pairs: Ints, count: int) -> Ints:
    """(count,) 0..c-1: the connected piece of each component after the edges ``pairs``."""
    root = np.arange(count)

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for a, b in pairs.tolist():
        root[find(a)] = find(b)
    return np.unique([find(node) for node in range(count)], return_inverse=True)[1].ravel()


def _nearest_outside(points: Tensor, core: Tensor, component: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (m,) to the nearest point of another component, and that point (m,), the first of equally near ones."""
    component = component.to(points.device)
    lengths, others = [], []
    for start, rows in _row_blocks(points):
        mine = slice(start, start + len(rows))
        distances = torch.maximum(_distances(rows, points), core).maximum(core[mine, None])
        distances.masked_fill_(component[mine, None] == component, torch.inf)
        shortest = distances.amin(1)
        # Not min's own index: which of several it names is the device's choice.
        first = (distances == shortest[:, None]).to(torch.uint8).argmax(1)
        lengths.append(shortest)
        others.append(first)
    return torch.cat(lengths), torch.cat(others)


def _distances(rows: Tensor, points: Tensor) -> Tensor:
    """Euclidean, from differences: products would round those of near points away."""
    return torch.cdist(rows, points, compute_mode="donot_use_mm_for_euclid_dist")


def _row_blocks(points: Tensor) -> Iterator[tuple[int, Tensor]]:
    step = max(BLOCK_PAIRS // len(points), 1)
    return ((start, points[start : start + step]) for start in range(0, len(points), step))


def _reachability_edges_fake(points: Tensor, copies: Tensor, min_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    m = len(points)
    return points.new_empty(m), copies.new_empty((m - 1, 2)), points.new_empty(m - 1)


if compiled():
    torch.library.register_fake("splatseg::reachability_edges", _reachability_edges_fake)
