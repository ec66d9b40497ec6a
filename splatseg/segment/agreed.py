"""Label trees that hold every agreed segment: their family first, clusters of features where no segment is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splatseg.core.numbering import numbered
from splatseg.core.segments import SAME, Family, Segments
from splatseg.segment.neighbors import MOST_PIECES, absorb_small

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Leaves:
    """The undivided labels of a scene and the nodes of a family around each.

    Attributes:
        leaf: (n,) int64 0..l-1 leaf of each Gaussian.
        chain: (l, d) int64 what stands for the leaf at each depth of the family, coarse to fine: a node, or a number
            beyond the nodes that is the leaf's own.
    """

    leaf: Ints
    chain: Ints


def family_leaves(
    segments: Segments, family: Family, pieces: Ints, neighbors: NDArray[np.int32], smallest: int
) -> Leaves:
    """Leaves of ``family`` (what a node has beside its children is one) and, where it has no node, the ``pieces``.

    Crumbs (fewer than ``smallest`` Gaussians) that are no node go to the leaves around them, unless a segment would
    then be another one: they stay leaves, or, of more leaves than :data:`MOST_PIECES`, those at the same leaf are one.

    Args:
        pieces: (n,) number of a piece; read where a Gaussian is in no node.
        neighbors: (n, k) ids of the nearest Gaussians.
    """
    deepest = family.deepest()[segments.patterns[0]]
    names, leaf = numbered(np.where(deepest >= 0, deepest, len(family) + pieces))
    is_node = (names < len(family)) & ~np.append(family.inner, True)[np.minimum(names, len(family))]
    absorbed = absorb_small(leaf, np.zeros_like(leaf), neighbors, smallest, is_node)
    joined = _undo(absorbed, leaf, names, segments, family)
    if len(numbered(joined)[0]) > MOST_PIECES:  # a hundred thousand crumbs are no labels: those in one place are one
        crumbs = joined != absorbed
        joined = np.where(crumbs, len(names) + absorbed, joined)
        names = np.concatenate([names, names[-1] + 1 + np.arange(len(names))])
    present, joined = numbered(joined)
    names = names[present]
    return Leaves(joined, _chains(names, family))


def _undo(joined: Ints, leaf: Ints, names: Ints, segments: Segments, family: Family) -> Ints:
    """``joined`` without the changes after which a node might stand for one of its segments no more.

    1 - IoU is a distance: a node that overlaps its segment by q may become one that overlaps it by SAME + 1 - q.
    """
    chain, weight = _chains(names, family), segments.weights
    least = np.minimum(1 + SAME - family.likeness(segments), 1)
    before_of = [np.bincount(column[leaf], weight, len(family) + len(names) + 1) for column in chain.T]
    for _ in range(len(family)):
        worst = []
        moved = np.flatnonzero(joined != leaf)
        for column, before in zip(chain.T, before_of, strict=True):
            was, now = column[leaf[moved]], column[joined[moved]]
            lost = np.bincount(was, weight[moved] * (was != now), len(before))
            gained = np.bincount(now, weight[moved] * (was != now), len(before))
            worst.append((before - lost)[: len(family)] < least * (before + gained)[: len(family)] - 1e-9)
        broken = np.append(np.any(worst, axis=0), np.zeros(len(names) + 1, bool))
        touched = (broken[chain[leaf[moved]]] | broken[chain[joined[moved]]]).any(axis=1)
        if not touched.any():
            return joined
        joined = joined.copy()
        joined[moved[touched]] = leaf[moved[touched]]
    return joined


def _chains(names: Ints, family: Family) -> Ints:
    """(l, depths) what stands for the leaf ``names`` (nodes, or numbers beyond them) at each depth of the family."""
    own = len(family) + np.arange(len(names))
    if not len(family):
        return own[:, None]
    node = np.minimum(names, len(family) - 1)
    columns = []
    for level in range(int(family.depth.max()) + 1):
        around = family.ancestors(level)[node]
        # What a node has beside its children stands on its own below it.
        beside = family.inner[node] & (family.depth[node] < level)
        columns.append(np.where((names < len(family)) & ~beside, around, own))
    return np.stack(columns, axis=1)


def recall(tree_labels: NDArray[np.int32], segments: Segments, chosen: NDArray[np.bool_], least: float = SAME) -> float:
    """Share of the ``chosen`` (s,) segments that some label overlaps by ``least``, by blending weight; 1 of none."""
    weight = segments.weights.astype(np.float64)
    inside = segments.inside[:, np.flatnonzero(chosen)].T.tocsr()
    area = inside @ weight
    best = np.zeros(inside.shape[0])
    for column in tree_labels.T:
        size = np.bincount(column, weight)
        for row in range(inside.shape[0]):
            ids = inside.indices[inside.indptr[row] : inside.indptr[row + 1]]
            shared = np.bincount(column[ids], weight[ids], len(size))
            iou = shared[1:] / np.maximum(area[row] + size[1:] - shared[1:], 1e-12)
            best[row] = max(best[row], float(iou.max(initial=0)))
    return float((best >= least - 1e-6).mean()) if len(best) else 1.0
