"""Masks of many views compared on the Gaussians they show: the heavy products of ``mask_clustering``.

Implementations of :class:`MaskEvidence`. :class:`~splatseg.ops.reference.mask_products.SparseEvidence`, the
specification, multiplies sparse matrices of scipy on one core; :class:`~splatseg.ops.mask_rows.RowEvidence` walks
sparse rows on all cores; :class:`BlockedEvidence` makes dense 0/1 matrices of a block of Gaussians at a time and
multiplies those, some hundred times the operations, which a device with matrix units does in a hundredth of the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from splatseg.ops.mask_rows import EvidenceRows, RowEvidence, can_walk_rows, mask_bits
from splatseg.ops.reference.mask_products import SparseEvidence
from splatseg.ops.replay import Pool
from splatseg.ops.sparse_rows import Rows, aligned, aligned_step, bfloat16_terms, blocks, parts, product

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class MaskEvidence(Protocol):
    """Masks of all views on the same n Gaussians: m masks, ``view`` (m,) int64 of each, ``weights`` (n,) float32 mean
    blending weight of a Gaussian in the views that see it. A set of Gaussians is a column of an (n, s) 0/1 matrix."""

    @property
    def view(self) -> Ints: ...
    @property
    def weights(self) -> Floats: ...

    def rows(self, index: Ints) -> MaskEvidence:
        """The same masks on the Gaussians ``index`` only."""
        ...

    def agreement(self, least: float) -> sparse.coo_matrix:
        """(m, m) overlap of masks of different views on the Gaussians that both views see, from ``least`` on."""
        ...

    def matches(self, sets: sparse.csr_matrix, least: float) -> tuple[sparse.coo_matrix, Floats]:
        """(m, s) overlap of masks and sets on what the mask's view sees, from ``least`` on, and the weight (s, views)
        that each view sees of a set."""
        ...

    def shares(self, owner: Ints, least: float) -> sparse.csr_matrix:
        """(n, s) float32 share of what the views of a set's masks show of a Gaussian in which these hold it, where that
        is more than ``least``; ``owner`` (m,) set of each mask, -1 for none."""
        ...

    def mutual(self, sets: sparse.csr_matrix) -> Floats:
        """(s, s) weight that each two sets share; on the diagonal, of each."""
        ...

    def shown(self, sets: sparse.csr_matrix | None = None) -> Floats:
        """(s, views) weight that each view sees of each set; of the masks where none are given."""
        ...

    def masked(self, sets: sparse.csr_matrix) -> Floats:
        """(s, views) weight of each set that lies in any mask of each view."""
        ...

    def agreed(self, owner: Ints, sets: sparse.csr_matrix) -> Floats:
        """(n,) share of the views that see a Gaussian in which a mask holds it whose set (``owner``, -1 for none) does,
        too; 0 where no view sees it."""
        ...


def gather(pools: Iterable[Pool], count: int, min_weight: float) -> MaskEvidence | None:
    """What all views say of ``count`` Gaussians; None where there are no pools.

    Args:
        pools: one a view, all on one device, which decides the implementation; taken one at a time.
        count: Gaussians.
        min_weight: a view sees a Gaussian whose blending weights sum to more in its pool.
    """
    remaining = iter(pools)
    first = next(remaining, None)
    if first is None:
        return None
    pools = itertools.chain([first], remaining)
    if has_matrix_units(first.patch):
        return BlockedEvidence.gather(pools, count, min_weight)
    kind = RowEvidence if can_walk_rows(first.patch) else SparseEvidence
    return kind.gather(pools, count, min_weight)


def vote(evidence: MaskEvidence, owner: Ints) -> sparse.csr_matrix:
    """(n, s) 0/1 sets of ``owner`` (m,), -1 for none: a set's masks hold the Gaussian in more than half of what their
    views show of it."""
    sets = evidence.shares(owner, 0.5)
    sets.data[:] = 1
    return sets


def has_matrix_units(tensor: Tensor) -> bool:
    """Whether dense products on the device of ``tensor`` beat sparse ones on the CPU."""
    return tensor.is_cuda


@dataclass(frozen=True, eq=False)
class BlockedEvidence(EvidenceRows):
    """:class:`MaskEvidence` as tensors of the pools' device.

    Beside the entries (4 bytes for each mask that a Gaussian lies in, 8 for each view that sees it; four times that
    while they are sorted) and results of m x views and views x s, tables of ``BLOCK_ENTRIES`` are held. Sums
    of blending weights are taken in float64, where they are exact (weights are multiples of 2^-33 below 1) and hence do
    not depend on the order of atomic additions.
    """

    @staticmethod
    def gather(pools: Iterable[Pool], count: int, min_weight: float) -> BlockedEvidence:
        """What all of ``pools``, at least one, say."""
        gaussians, masks, views, seen, weights = [], [], [], [], []
        first = 0
        for number, pool in enumerate(pools):
            part = observe(pool, count, min_weight)
            gaussians.append(part.gaussians[part.row])
            masks.append(part.mask + first)
            views.append(torch.full((part.width,), number, device=part.mask.device))
            seen.append(part.gaussians)
            weights.append(part.weight)
            first += part.width
        viewer = torch.repeat_interleave(torch.tensor([len(one) for one in seen], device=seen[0].device))
        table = Rows.of(torch.cat(seen), viewer, (count, len(seen)), torch.cat(weights))
        total = torch.zeros(count, dtype=torch.float64, device=viewer.device)
        total.index_add_(0, torch.cat(seen), torch.cat(weights).double())
        mean = (total / table.offsets.diff().clamp_min(1)).float()
        return BlockedEvidence(
            Rows.of(torch.cat(gaussians), torch.cat(masks), (count, first)), table, torch.cat(views), mean
        )

    def agreement(self, least: float) -> sparse.coo_matrix:
        view, count = self.mask_view, self.masks.width
        shown = self._shown(self.masks)
        own = shown.gather(1, view[:, None])[:, 0]
        found = []
        for low, shared in self._products(self.masks, self.masks):
            for start, part in parts(low, shared):
                rows = slice(start, start + len(part))
                here, there = shown[rows][:, view], shown[:, view[rows]].T
                # A view that sees only a corner of a mask can neither confirm nor refute it.
                fair = (here > 0.3 * own[rows, None]) & (there > 0.3 * own)
                union = here + there - part
                same = fair & (view[rows, None] != view) & (part >= least * union)
                row, col = same.nonzero().unbind(1)
                found.append((row + start, col, part[row, col] / union[row, col]))
        return _to_coo(found, (count, count))

    def matches(self, sets: sparse.csr_matrix, least: float) -> tuple[sparse.coo_matrix, Floats]:
        chosen = Rows.from_scipy(sets, self.mean.device)
        shown, own = self._shown(chosen), self._mask_weights
        found = []
        for low, shared in self._products(self.masks, chosen):
            for start, part in parts(low, shared):
                rows = slice(start, start + len(part))
                union = own[rows, None] + shown[:, self.mask_view[rows]].T - part
                overlap = part / union.clamp_min(1e-9)
                row, col = (overlap >= least).nonzero().unbind(1)
                found.append((row + start, col, overlap[row, col]))
        return _to_coo(found, (self.masks.width, chosen.width)), shown.cpu().numpy()

    def shares(self, owner: Ints, least: float) -> sparse.csr_matrix:
        segments, views = int(owner.max(initial=-1)) + 1, self.seen.width
        of_mask = torch.from_numpy(owner).to(self.mean.device)
        used = of_mask >= 0
        in_view = torch.zeros(views, segments, dtype=torch.float64, device=self.mean.device)
        in_view[self.mask_view[used], of_mask[used]] = 1
        columns, counts, values = [], [], []
        for first, end in blocks(len(self.masks), max(segments, views)):
            row, mask, _ = self.masks.entries(first, end)
            row, mask = row[used[mask]], mask[used[mask]]
            seen = self.seen.dense(first, end, torch.float64)
            votes = torch.zeros((end - first) * segments, dtype=torch.float64, device=row.device)
            votes.index_add_(0, row * segments + of_mask[mask], seen[row, self.mask_view[mask]])
            votes, total = votes.view(end - first, segments), seen @ in_view
            enough = votes > least * total
            columns.append(enough.nonzero()[:, 1].to(torch.int32).cpu())
            counts.append(enough.sum(1).cpu())
            values.append((votes[enough] / total[enough]).float().cpu())
        indptr = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(0)]).numpy()
        table = (torch.cat(values).numpy(), torch.cat(columns).numpy(), indptr)
        return sparse.csr_matrix(table, (len(self.masks), segments))

    def mutual(self, sets: sparse.csr_matrix) -> Floats:
        chosen = Rows.from_scipy(sets, self.mean.device)
        blocks = [shared.cpu() for _, shared in self._products(chosen, chosen)]
        return torch.cat(blocks).numpy() if blocks else np.zeros((0, 0), np.float32)

    def shown(self, sets: sparse.csr_matrix | None = None) -> Floats:
        return self._shown(self.masks if sets is None else Rows.from_scipy(sets, self.mean.device)).cpu().numpy()

    def masked(self, sets: sparse.csr_matrix) -> Floats:
        return self._shown(Rows.from_scipy(sets, self.mean.device), self.in_views).cpu().numpy()

    def agreed(self, owner: Ints, sets: sparse.csr_matrix) -> Floats:
        of_mask, chosen = torch.from_numpy(owner).to(self.mean.device), Rows.from_scipy(sets, self.mean.device)
        views, shares = self.seen.width, []
        for first, end in blocks(len(self.masks), max(chosen.width, views)):
            row, mask, _ = self.masks.entries(first, end)
            row, mask = row[of_mask[mask] >= 0], mask[of_mask[mask] >= 0]
            member = chosen.dense(first, end, torch.bool)
            held = member[row, of_mask[mask]]
            agreeing = torch.zeros((end - first) * views, dtype=torch.bool, device=row.device)
            agreeing[row[held] * views + self.mask_view[mask[held]]] = True
            seen = self.seen.offsets[first : end + 1].diff().clamp_min(1)
            shares.append((agreeing.view(end - first, views).sum(1) / seen).float().cpu())
        return torch.cat(shares).numpy()

    @cached_property
    def _mask_weights(self) -> Tensor:
        """(m,) float32 weight of each mask."""
        own = torch.zeros(self.masks.width, dtype=torch.float64, device=self.mean.device)
        of_entry = torch.repeat_interleave(self.mean.double(), self.masks.offsets.diff())
        return own.index_add_(0, self.masks.columns.long(), of_entry).float()

    def _shown(self, sets: Rows, views: Rows | None = None) -> Tensor:
        """(s, views) float32 weight that each set has in each of ``views``; in what each sees where none are given."""
        if views is None:
            views = Rows(self.seen.offsets, self.seen.columns, self.seen.width)
        blocks = [shared for _, shared in self._products(sets, views)]
        return torch.cat(blocks) if blocks else self.mean.new_zeros(0, views.width)

    def _products(self, left: Rows, right: Rows) -> Iterator[tuple[int, Tensor]]:
        """Shared weight, float32, of the sets ``left`` and ``right``: tables (some of left, right) and the first of
        left's columns in each.

        A weight is the sum of three bfloat16 terms, exactly (8 bits each of float32's 24), and a product with 0/1 is
        exact: only the sums, in float32, are rounded.
        """
        wide = aligned(right.width)
        step = aligned_step(wide)
        for low in range(0, left.width, step):
            high = min(low + step, aligned(left.width))
            total = self.mean.new_zeros(high - low, wide)
            for first, end in blocks(len(left), max(high - low, wide)):
                ones = right.dense(first, end, torch.bfloat16, (0, wide))
                sets = left.dense(first, end, torch.bfloat16, (low, high))
                narrow = wide < high - low  # the weights go to the smaller table
                for term in bfloat16_terms(self.mean[first:end]):
                    weighted = (ones if narrow else sets) * term[:, None]
                    total += product(sets.T, weighted) if narrow else product(weighted.T, ones)
            yield low, total[: left.width - low, : right.width]


@dataclass(frozen=True, eq=False)
class Observed:
    """What a view says of the Gaussians that it sees.

    Attributes:
        gaussians: (k,) int64 ascending.
        weight: (k,) float32 summed blending weights.
        row: place among ``gaussians``, and
        mask: number, int64 both, of each pair where most of the Gaussian's weight lies on pixels of the mask.
        width: number of masks.
    """

    gaussians: Tensor
    weight: Tensor
    row: Tensor
    mask: Tensor
    width: int


def observe(pool: Pool, count: int, min_weight: float) -> Observed:
    """Tables of the Gaussians seen by the view's patches, and by its masks, at most ``BLOCK_ENTRIES`` at a time: the
    device is asked for sizes once or twice, however many entries there are. Sums are exact, in float64."""
    c, bits = pool.contributions, mask_bits(pool.membership).double()
    patches, width = bits.shape
    device, ids = c.ids.device, c.ids.long()
    values, patch = c.weights.double(), pool.patch[c.entry_rows()]
    total = torch.zeros(count, dtype=torch.float64, device=device).index_add_(0, ids, values)
    gaussians = (total.float() > min_weight).nonzero()[:, 0]
    place = torch.full((count,), len(gaussians), device=device)
    place[gaussians] = torch.arange(len(gaussians), device=device)
    place, weight = place[ids], total[gaussians]
    found = []
    for first, end in blocks(len(gaussians), patches + width):
        # What lies in another block, or is not seen, goes to a row of its own.
        row = torch.where((place >= first) & (place < end), place - first, end - first)
        table = torch.zeros((end - first + 1) * patches, dtype=torch.float64, device=device)
        on_patch = table.index_add_(0, row * patches + patch, values).view(-1, patches)[:-1]
        most = (on_patch @ bits).float() > 0.5 * weight[first:end, None].float()
        found.append(most.nonzero() + torch.tensor([first, 0], device=device))
    row, mask = torch.cat(found).unbind(1)
    return Observed(gaussians, weight.float(), row, mask, width)


def _to_coo(parts: list[tuple[Tensor, Tensor, Tensor]], shape: tuple[int, int]) -> sparse.coo_matrix:
    """(row, column, value) triples as a matrix on the CPU."""
    if not parts:
        return sparse.coo_matrix(shape, dtype=np.float32)
    row, col, value = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    return sparse.coo_matrix((value, (row, col)), shape=shape)
