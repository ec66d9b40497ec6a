"""Growing and shrinking a selection, filling its holes and keeping one piece of it.

*By neighborhood* is by the graph of Gaussians that touch: two do where one is among the ``NEIGHBORS`` nearest of the
other and their centers are no further apart than ``REACH`` times the geometric mean of their middle standard deviations
(the second largest: of a flat Gaussian the smaller one of its disc; by their sum a large one would reach across the air
to small ones that are far from each other). Only what is visible is part of it.

*By feature* is by the similarity to the selection: the largest cosine to one of up to eight features that stand for it
(:func:`splatseg.segment.clicks.representatives` of an even sample).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.segment.clicks import representatives
from splatseg.segment.neighbors import nearest_neighbors

NEIGHBORS = 8
REACH = 4.0
HOLE = 0.1  # a hole has at most so many Gaussians, as a share of the selection's
SHARE = 0.1  # of the selection that comes or goes at a step by feature
SAMPLE = 1024  # selected Gaussians whose features are looked at
Mask = NDArray[np.bool_]


class Touching:
    """Which Gaussians touch: a symmetric graph, made once a splat. Masks are (n,) bool.

    Args:
        gaussians: the splat.
        report: called with the share done; it may raise to stop.
    """

    def __init__(self, gaussians: Gaussians, report: Callable[[float], None] = lambda share: None) -> None:
        report(0.0)
        means = gaussians.means.detach().cpu().numpy()
        middle = gaussians.log_scales.detach().cpu().sort(dim=1).values[:, 1].exp().numpy().astype(np.float64)
        ids, distances = nearest_neighbors(means, NEIGHBORS)
        report(0.8)
        near = distances <= REACH * np.sqrt(middle[:, None] * middle[ids])
        rows = np.repeat(np.arange(len(means)), near.sum(1))
        ones = np.ones(int(near.sum()), np.float32)
        graph = sparse.coo_matrix((ones, (rows, ids[near])), shape=(len(means), len(means))).tocsr()
        self.graph: sparse.csr_matrix = graph.maximum(graph.T).tocsr()
        report(1.0)

    def grow(self, mask: Mask, steps: int = 1, allowed: Mask | None = None) -> Mask:
        """``mask`` and what touches it, ``steps`` times; only ``allowed`` Gaussians (all if not given) are added."""
        for _ in range(steps):
            touched = self.graph @ mask.astype(np.float32) > 0
            mask = mask | (touched if allowed is None else touched & allowed)
        return mask

    def shrink(self, mask: Mask, steps: int = 1, allowed: Mask | None = None) -> Mask:
        """What of ``mask`` touches nothing outside of it, ``steps`` times: what is left when the ``allowed`` rest
        grows."""
        visible = np.ones_like(mask) if allowed is None else allowed
        return mask & ~self.grow(visible & ~mask, steps, visible)

    def pieces(self, mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids (m,) of ``mask``, ascending, and the number 0, 1, ... of the connected piece of each."""
        ids = np.flatnonzero(mask)
        return ids, connected_components(self.graph[ids][:, ids], directed=False)[1].astype(np.int64)

    def piece(self, mask: Mask, seed: int | None = None) -> Mask:
        """The connected piece of ``mask`` that holds the Gaussian ``seed``, or the largest: by the number of Gaussians,
        the first of equals.

        Raises:
            SplatsegError: ``mask`` is empty or does not hold ``seed``.
        """
        if not mask.any() or (seed is not None and not mask[seed]):
            raise SplatsegError(f"piece: expected a selection{'' if seed is None else ' around the click'}, found none")
        ids, numbers = self.pieces(mask)
        kept = np.bincount(numbers).argmax() if seed is None else numbers[np.searchsorted(ids, seed)]
        result = np.zeros_like(mask)
        result[ids[numbers == kept]] = True
        return result

    def fill_holes(self, mask: Mask, allowed: Mask | None = None, largest: float = HOLE) -> Mask:
        """``mask`` and its holes: connected pieces of the ``allowed`` rest that touch it (and hence nothing else), with
        at most ``largest`` times as many Gaussians as ``mask``."""
        rest = ~mask if allowed is None else allowed & ~mask
        ids, numbers = self.pieces(rest)
        if not len(ids):
            return mask
        touching = self.graph @ mask.astype(np.float32) > 0
        counts, touched = np.bincount(numbers), np.bincount(numbers, touching[ids])
        holes = (touched > 0) & (counts <= largest * mask.sum())
        result = mask.copy()
        result[ids[holes[numbers]]] = True
        return result


def similarity(unit: Tensor, mask: Tensor) -> Tensor:
    """(n,) largest cosine of the unit features ``unit`` (n, d) to one of those that stand for ``mask`` (n,) bool."""
    ids = mask.nonzero()[:, 0]
    picked = ids[torch.linspace(0, len(ids) - 1, min(len(ids), SAMPLE)).round().long().to(ids.device)]
    return (unit @ representatives(unit[picked]).T).max(1).values


def grow_by_feature(unit: Tensor, mask: Tensor, allowed: Tensor, share: float = SHARE) -> Tensor:
    """``mask`` (n,) bool and the most similar of the ``allowed`` rest: ``share`` of the selection's number, at least
    one; what is equally similar comes with them."""
    rest = allowed & ~mask
    count = min(max(round(share * int(mask.sum())), 1), int(rest.sum()))
    if not count or not bool(mask.any()):
        return mask
    scores = similarity(unit, mask).masked_fill(~rest, -2.0)
    return mask | (rest & (scores >= scores.topk(count).values[-1]))


def shrink_by_feature(unit: Tensor, mask: Tensor, share: float = SHARE) -> Tensor:
    """``mask`` (n,) bool without the least similar ``share`` of it, at least one; what is equally similar goes with
    them, unless it is all of it: then nothing does."""
    if not bool(mask.any()):
        return mask
    scores = similarity(unit, mask)
    selected = scores[mask]
    limit = selected.kthvalue(max(round(share * len(selected)), 1)).values
    left = mask & (scores > limit)
    return left if bool(left.any()) else mask
