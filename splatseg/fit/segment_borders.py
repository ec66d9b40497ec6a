"""Which Gaussians a segment holds where its masks disagree.

A mask ends some pixels off, and so do the votes of all views, by less: Gaussians along a border are held by some of the
masks and not by others. What is in doubt there is settled twice, and what is not stays as the masks say:

1. *By looks.* Where a thing ends, color or normal mostly change. The share of the votes that holds a Gaussian becomes a
   mean of its own and its neighbors', each the more the less it differs from them, again and again: a random walk that
   seldom crosses an edge (Grady, "Random walks for image segmentation", 2006).
2. *By company.* A small thing before a large one lies within the errors of the larger one's border: half of a block may
   count as table. It is in the table, or it is not: Gaussians of a segment that are in doubt for a larger one go where
   most of the segment goes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.fit.neighbor_graph import looks
from splatseg.ops.nearest import nearest

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
SAMPLED = 20_000  # Gaussians that tell what neighbors usually differ by
CHUNK = 2**17  # votes whose neighbors are looked up at a time


@dataclass(frozen=True)
class BorderConfig:
    """How borders are settled.

    Attributes:
        doubt: shares of the votes from this one to one less this are in doubt; 0.5 leaves everything to the votes.
        rounds: of taking means.
        pull: how much a neighbor that looks the same counts, a Gaussian itself counting 1.
        contrast: difference from which two neighbors are told apart, in units of what neighbors usually differ by.
        neighbors: that a Gaussian looks at.
    """

    doubt: float = 0.07
    rounds: int = 10
    pull: float = 0.5
    contrast: float = 1.5
    neighbors: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.doubt <= 0.5:
            raise SplatsegError(f"borders.doubt: expected a share in (0, 0.5], found {self.doubt}")
        if self.rounds < 0 or self.neighbors < 1 or not (self.pull >= 0 and self.contrast > 0):
            raise SplatsegError(
                "borders.rounds, neighbors, pull, contrast: expected at least 0, 1, 0 and above 0, found "
                f"{self.rounds}, {self.neighbors}, {self.pull} and {self.contrast}"
            )


@dataclass(frozen=True, eq=False)
class Votes:
    """What masks say of Gaussians, an entry for each Gaussian and segment, by Gaussian and then by segment.

    Attributes:
        gaussian, segment: (e,) of each entry.
        share: (e,) float64 of the votes for it, 0..1.
        doubtful: (e,) bool.
        offsets: (n + 1,) where the entries of each Gaussian begin.
        segments: number of segments.
    """

    gaussian: Ints
    segment: Ints
    share: Doubles
    doubtful: Bools
    offsets: Ints
    segments: int

    @classmethod
    def of(cls, shares: sparse.csr_matrix, doubt: float) -> Votes:
        """From a table (n, s) of shares."""
        shares.sort_indices()
        share = np.minimum(shares.data.astype(np.float64), 1)
        gaussian = np.repeat(np.arange(shares.shape[0]), np.diff(shares.indptr))
        doubtful = (share > doubt) & (share < 1 - doubt)
        segment, offsets = shares.indices.astype(np.int64), shares.indptr.astype(np.int64)
        return cls(gaussian, segment, share, doubtful, offsets, shares.shape[1])

    def of_gaussians(self, gaussians: Ints) -> Ints:
        """Numbers of all entries of some Gaussians."""
        begin, count = self.offsets[gaussians], self.offsets[gaussians + 1] - self.offsets[gaussians]
        return np.repeat(begin - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))

    def find(self, gaussian: Ints, segment: Ints) -> Ints:
        """Numbers of entries, -1 where there is none."""
        wanted = gaussian * self.segments + segment
        place = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[place] == wanted, place, -1)

    @cached_property
    def _keys(self) -> Ints:
        return self.gaussian * self.segments + self.segment


def settle(
    shares: sparse.csr_matrix, gaussians: Gaussians, weights: Floats, config: BorderConfig = BorderConfig()
) -> sparse.csr_matrix:
    """(n, s) float32 0/1 sets of Gaussians.

    Args:
        shares: (n, s) share of the votes that holds a Gaussian, where that is more than ``config.doubt``.
        gaussians: n of them.
        weights: (n,) how much each counts; those of 0, which no view sees, have no votes.
        config: settings.
    """
    votes = Votes.of(shares, config.doubt)
    member = votes.share > 0.5
    if votes.doubtful.any():
        votes = replace(votes, share=by_looks(votes, gaussians, weights, config))
        member = by_company(votes, weights.astype(np.float64))
    table = (member[member].astype(np.float32), (votes.gaussian[member], votes.segment[member]))
    return sparse.csr_matrix(table, shares.shape)


def by_looks(votes: Votes, gaussians: Gaussians, weights: Floats, config: BorderConfig) -> Doubles:
    """(e,) shares of the votes, in doubt ones drawn to those of neighbors that look alike."""
    asking = np.unique(votes.gaussian[votes.doubtful])
    alike = _alike(asking, gaussians, weights, config)
    moving = np.flatnonzero(votes.doubtful)
    asker = np.searchsorted(asking, votes.gaussian[moving])
    number = np.full(len(votes.share), -1)
    number[moving] = np.arange(len(moving))
    held = np.empty(len(moving))  # by neighbors that are not in doubt
    blocks = []
    for first in range(0, len(moving), CHUNK):
        entries = moving[first : first + CHUNK]
        rows = alike[asker[first : first + CHUNK]].tocoo()
        there = votes.find(rows.col.astype(np.int64), votes.segment[entries][rows.row])
        fixed = (there >= 0) & ~votes.doubtful[there]
        summed = np.bincount(rows.row[fixed], rows.data[fixed] * votes.share[there[fixed]], len(entries))
        held[first : first + len(entries)] = summed
        free = (there >= 0) & votes.doubtful[there]
        place = (rows.row[free], number[there[free]])
        blocks.append(sparse.csr_matrix((rows.data[free], place), (len(entries), len(moving))))
    system = sparse.vstack(blocks).tocsr()
    own = weights[votes.gaussian[moving]].astype(np.float64)
    around = np.asarray(alike.sum(axis=1)).ravel()[asker]
    first_share = votes.share[moving]
    settled = first_share
    for _ in range(config.rounds):
        settled = (own * first_share + config.pull * (held + system @ settled)) / (own + config.pull * around)
    share = votes.share.copy()
    share[moving] = settled
    return share


def _alike(asking: Ints, gaussians: Gaussians, weights: Floats, config: BorderConfig) -> sparse.csr_matrix:
    """(k, n) how much the neighbors of each of the Gaussians ``asking`` (k,) count for it: their weight, the less the
    more the two differ."""
    means, seen = gaussians.means.detach().cpu().numpy(), np.flatnonzero(weights > 0)
    count = min(config.neighbors + 1, len(seen))
    sample = seen[:: max(len(seen) // SAMPLED, 1)]
    wanted = np.concatenate([asking, sample])
    ends = seen[nearest(means[seen], means[wanted], count=count)[0]]
    pairs = np.stack([np.repeat(wanted, count), ends.ravel()], axis=1)
    involved = np.zeros(len(means), bool)
    involved[pairs] = True
    chosen, edges = np.flatnonzero(involved), (np.cumsum(involved) - 1)[pairs]
    usual = edges[len(asking) * count :]
    found = looks(gaussians.select(torch.from_numpy(chosen)), usual[usual[:, 0] != usual[:, 1]])
    a, b = edges[: len(asking) * count].T
    apart = ((found[a] - found[b]) ** 2).sum(axis=1)
    counts = np.exp(-apart / (2 * config.contrast**2)) * weights[chosen[b]] * (a != b)
    rows = np.repeat(np.arange(len(asking)), count)
    return sparse.csr_matrix((counts, (rows, chosen[b])), (len(asking), len(means)))


def by_company(votes: Votes, weights: Doubles) -> Bools:
    """(e,) whether the segment of each entry holds its Gaussian: by the majority of the votes, or, where they are in
    doubt and a smaller segment holds it, by whether the larger one holds most of that; the smallest one decides.

    Segments are taken by size, the largest first, so that what a smaller one finds in a larger is settled.
    """
    member = votes.share > 0.5
    of_entry = weights[votes.gaussian]
    order = np.argsort(-np.bincount(votes.segment, of_entry * member, votes.segments), kind="stable")
    rank = np.empty(votes.segments, np.int64)
    rank[order] = np.arange(votes.segments)
    held = np.flatnonzero(member)
    held = held[np.argsort(votes.segment[held], kind="stable")]
    ends = np.cumsum(np.bincount(votes.segment[held], minlength=votes.segments))
    for segment in order:
        inside = votes.gaussian[held[ends[segment - 1] if segment else 0 : ends[segment]]]
        if not len(inside):
            continue
        entries = votes.of_gaussians(inside)
        of_larger = entries[rank[votes.segment[entries]] < rank[segment]]
        shared = np.bincount(votes.segment[of_larger], of_entry[of_larger] * member[of_larger], votes.segments)
        doubtful = of_larger[votes.doubtful[of_larger]]
        member[doubtful] = shared[votes.segment[doubtful]] > 0.5 * weights[inside].sum()
    return member
