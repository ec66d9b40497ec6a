"""The nearest points to others, in the memory of the answer and in the order that a processor's cache likes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from splatseg.core.morton import morton_order

QUERIES = 1 << 20  # places asked for at a time: scipy answers with 16 bytes for each neighbor


def nearest(
    points: NDArray[np.floating[Any]], places: NDArray[np.floating[Any]] | None = None, count: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ids and distances, (m, count) each, nearest first, of the ``count`` nearest of ``points`` (n, 3) to each of
    ``places`` (m, 3), or to the points themselves, which are then among their own.

    Both are looked at along a Z curve, so that one query finds in the cache what the last one read: in any other order
    a million queries take three times as long. ``count`` is at most n.
    """
    order = _along_curve(points)
    # Cut in the middle of space, with nodes as large as the cut leaves them: made in half the time, and places far from
    # all points, like those that no photo shows, are answered in less than half.
    tree = cKDTree(points[order], balanced_tree=False, compact_nodes=False)
    wanted = points if places is None else places
    asked = order if places is None else _along_curve(places)
    ids, distances = np.empty((len(wanted), count), np.int32), np.empty((len(wanted), count), np.float32)
    for start in range(0, len(wanted), QUERIES):
        rows = asked[start : start + QUERIES]
        found = tree.query(wanted[rows], k=count, workers=torch.get_num_threads())
        distances[rows] = found[0].reshape(len(rows), count)
        ids[rows] = order[found[1].reshape(len(rows), count)]
    return ids, distances


def _along_curve(points: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    return morton_order(torch.from_numpy(np.ascontiguousarray(points, np.float32))).numpy()
