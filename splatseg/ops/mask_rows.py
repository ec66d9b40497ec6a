"""Masks of many views compared on the Gaussians they show, by kernels that walk sparse rows on all cores.

Products are the same sums in the same order as those of the specification,
:class:`~splatseg.ops.reference.mask_products.SparseEvidence`, whatever the number of threads. Blending
weights and votes are summed in float64, where they are exact, as on other devices: whether a mask holds a Gaussian in
more than half of what is shown of it does not hang on rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.replay import Pool
from splatseg.ops.sparse_rows import Rows

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def can_walk_rows(tensor: Tensor) -> bool:
    """Whether there are kernels for the device of ``tensor``."""
    return has_kernel("mask_votes", tensor)


@dataclass(frozen=True, eq=False)
class EvidenceRows:
    """What :class:`~splatseg.ops.mask_products.MaskEvidence` holds, as sparse rows of a device.

    Attributes:
        masks: (n, m) 0/1.
        seen: (n, views) float32 summed blending weights, where above ``min_weight``.
        mask_view: (m,) int64, ascending.
        mean: (n,) float32.
    """

    masks: Rows
    seen: Rows
    mask_view: Tensor
    mean: Tensor

    @property
    def view(self) -> Ints:
        return self.mask_view.cpu().numpy()

    @property
    def weights(self) -> Floats:
        return self.mean.cpu().numpy()

    @cached_property
    def in_views(self) -> Rows:
        """(n, views) 0/1 whether any mask of a view holds the Gaussian."""
        masks = self.masks
        view = self.mask_view.int()[masks.columns.long()]  # ascending within a row, as masks are numbered by view
        first = torch.ones(len(view), dtype=torch.bool, device=view.device)
        first[1:] = view[1:] != view[:-1]
        first[masks.offsets[:-1][masks.offsets.diff() > 0]] = True
        counted = torch.cat([first.new_zeros(1, dtype=torch.int64), first.cumsum(0)])
        return Rows(counted[masks.offsets], view[first], self.seen.width)

    def rows(self, index: Ints) -> Self:
        chosen = torch.from_numpy(index).to(self.mean.device)
        return type(self)(self.masks.select(chosen), self.seen.select(chosen), self.mask_view, self.mean[chosen])


def mask_bits(membership: Tensor) -> Tensor:
    """(p, m) 0/1 whether each of a view's p patches lies in each of its masks, by the bits of ``membership``
    (p, words) int64; masks without a patch are left out."""
    bits = ((membership[:, :, None] >> torch.arange(64, device=membership.device)) & 1).flatten(1)
    return bits[:, bits.any(0)]


@dataclass(frozen=True, eq=False)
class RowEvidence(EvidenceRows):
    """:class:`~splatseg.ops.mask_products.MaskEvidence` as sparse rows of the CPU.

    4 bytes for each mask that a Gaussian lies in and 8 for each view that sees it, twice while it is put together.
    """

    @cached_property
    def _by_mask(self) -> tuple[Tensor, Tensor]:
        """Offsets (m + 1,) and Gaussians of each mask."""
        return _transposed(self.masks)

    @staticmethod
    def gather(pools: Iterable[Pool], count: int, min_weight: float) -> RowEvidence:
        """What all of ``pools``, at least one, say."""
        parts: list[_Part] = []
        in_masks, in_views = torch.zeros(count, dtype=torch.int32), torch.zeros(count, dtype=torch.int32)
        total = torch.zeros(count, dtype=torch.float64)
        for pool in pools:
            part = _observed(pool, count).above(min_weight)
            rows = part.gaussians.long()
            in_masks[rows] += part.masks.offsets.diff().int()
            in_views[rows] += 1
            total[rows] += part.weight
            parts.append(part)
        masks, first = _Stack(in_masks), 0
        view: list[Tensor] = []
        seen, weights = _Stack(in_views), torch.empty(int(in_views.sum(dtype=torch.int64)))
        parts.reverse()
        while parts:
            part, number = parts.pop(), len(view)
            weights[seen.cursor[part.gaussians.long()]] = part.weight
            ones = torch.arange(len(part.gaussians) + 1), torch.zeros(len(part.gaussians), dtype=torch.int32)
            seen.place(part.gaussians, Rows(*ones, 1), number)
            masks.place(part.gaussians, part.masks, first)
            view.append(torch.full((part.masks.width,), number))
            first += part.masks.width
        mean = (total / in_views.clamp_min(1)).float()
        return RowEvidence(masks.rows(first), seen.rows(len(view), weights), torch.cat(view), mean)

    def agreement(self, least: float) -> sparse.coo_matrix:
        row, col, value = torch.ops.splatseg.mask_agreement(
            *self._by_mask, *_csr(self.masks), self.mean, self.mask_view, self._mask_shown, least
        )
        pairs = (torch.cat([row, col]).numpy(), torch.cat([col, row]).numpy())
        return sparse.coo_matrix((torch.cat([value, value]).numpy(), pairs), shape=(len(self.view), len(self.view)))

    def matches(self, sets: sparse.csr_matrix, least: float) -> tuple[sparse.coo_matrix, Floats]:
        chosen = _rows(sets)
        shown = self._shown(_transposed(chosen))
        own = self._mask_shown.gather(1, self.mask_view[:, None])[:, 0]
        row, col, value = torch.ops.splatseg.mask_matches(
            *self._by_mask, *_csr(chosen), self.mean, self.mask_view, own, shown, least
        )
        shape = (len(self.view), chosen.width)
        return sparse.coo_matrix((value.numpy(), (row.numpy(), col.numpy())), shape=shape), shown.numpy()

    def shares(self, owner: Ints, least: float) -> sparse.csr_matrix:
        sets = int(owner.max(initial=-1)) + 1
        assert self.seen.values is not None
        offsets, columns, share = torch.ops.splatseg.mask_votes(
            *_csr(self.masks),
            *_csr(self.seen),
            self.seen.values,
            self.mask_view,
            torch.from_numpy(owner),
            self.seen.width,
            sets,
            least,
        )
        return sparse.csr_matrix((share.numpy(), columns.numpy(), offsets.numpy()), (len(self.masks), sets))

    def mutual(self, sets: sparse.csr_matrix) -> Floats:
        chosen = _rows(sets)
        return self._shared(_transposed(chosen), chosen).numpy()

    def shown(self, sets: sparse.csr_matrix | None = None) -> Floats:
        return (self._mask_shown if sets is None else self._shown(_transposed(_rows(sets)))).numpy()

    def masked(self, sets: sparse.csr_matrix) -> Floats:
        return self._shared(_transposed(_rows(sets)), self.in_views).numpy()

    def agreed(self, owner: Ints, sets: sparse.csr_matrix) -> Floats:
        chosen = _rows(sets)
        views = torch.ops.splatseg.masks_agreed(
            *_csr(self.masks), self.mask_view, torch.from_numpy(owner), *_csr(chosen), chosen.width
        )
        return (views.double() / self.seen.offsets.diff().clamp_min(1)).float().numpy()

    @cached_property
    def _mask_shown(self) -> Tensor:
        """(m, views) weight that each view sees of each mask."""
        return self._shown(self._by_mask)

    def _shown(self, by_set: tuple[Tensor, Tensor]) -> Tensor:
        return self._shared(by_set, self.seen)

    def _shared(self, left: tuple[Tensor, Tensor], right: Rows) -> Tensor:
        """(sets, width) float32 weight that sets, given by their Gaussians, share with the columns of ``right``."""
        found: Tensor = torch.ops.splatseg.shared_weights(*left, *_csr(right), self.mean, right.width)
        return found


@dataclass(frozen=True, eq=False)
class _Part:
    """What a view says of the Gaussians that it shows.

    Attributes:
        gaussians: (k,) int32 ascending.
        weight: (k,) float32 summed blending weights.
        masks: (k, masks of the view): most of the Gaussian's weight lies on pixels of the mask.
    """

    gaussians: Tensor
    weight: Tensor
    masks: Rows

    def above(self, least: float) -> _Part:
        """Of the Gaussians whose weight is more than ``least``."""
        kept = self.weight > least
        return _Part(self.gaussians[kept], self.weight[kept], self.masks.select(kept.nonzero()[:, 0]))


def _observed(pool: Pool, count: int) -> _Part:
    c = pool.contributions
    bits = mask_bits(pool.membership)
    of_patch, mask = bits.nonzero().unbind(1)
    masks_of = Rows.of(of_patch, mask, (len(bits), bits.shape[1]))
    gaussians, weight, offsets, masks = torch.ops.splatseg.observe_masks(
        c.offsets, c.ids, c.weights.float(), pool.patch, *_csr(masks_of), masks_of.width, count
    )
    return _Part(gaussians, weight, Rows(offsets, masks, masks_of.width))


class _Stack:
    """Rows of a matrix whose columns come part by part, ascending; ``counts`` (n,) of each row are known before."""

    def __init__(self, counts: Tensor) -> None:
        self._offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        self._columns = torch.empty(int(self._offsets[-1]), dtype=torch.int32)
        self.cursor = self._offsets[:-1].clone()
        """(n,) where the next entry of each row goes."""

    def place(self, gaussians: Tensor, part: Rows, first: int) -> None:
        """The rows of ``part`` are of ``gaussians`` (k,) int32, their columns are counted from ``first``."""
        torch.ops.splatseg.place_rows_(self._columns, self.cursor, gaussians, *_csr(part), first)

    def rows(self, width: int, values: Tensor | None = None) -> Rows:
        return Rows(self._offsets, self._columns, width, values)


def _csr(rows: Rows) -> tuple[Tensor, Tensor]:
    return rows.offsets, rows.columns


def _rows(sets: sparse.csr_matrix) -> Rows:
    """An (n, s) 0/1 matrix without stored zeros."""
    offsets, columns = torch.from_numpy(sets.indptr).long(), torch.from_numpy(sets.indices).int()
    return Rows(offsets, columns, sets.shape[1])


def _transposed(rows: Rows) -> tuple[Tensor, Tensor]:
    """Offsets (width + 1,) int64 and int32 rows of each column."""
    offsets, found = torch.ops.splatseg.transpose_rows(*_csr(rows), rows.width)
    return offsets, found


def _unknown(like: Tensor, *dtypes: torch.dtype) -> list[Tensor]:
    """Vectors of one length that the data decides."""
    size = torch.library.get_ctx().new_dynamic_size()
    return [like.new_empty(size, dtype=dtype) for dtype in dtypes]


def _observe_fake(offsets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    (gaussians,), (masks,) = _unknown(offsets, torch.int32), _unknown(offsets, torch.int32)
    weight = gaussians.new_empty(gaussians.shape[0], dtype=torch.float32)
    return gaussians, weight, offsets.new_empty(gaussians.shape[0] + 1), masks


def _pairs_fake(offsets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(_unknown(offsets, torch.int64, torch.int64, torch.float32))


if compiled():
    torch.library.register_fake("splatseg::observe_masks", _observe_fake)
    torch.library.register_fake("splatseg::place_rows_", lambda *arguments: None)
    torch.library.register_fake(
        "splatseg::transpose_rows",
        lambda offsets, columns, width: (offsets.new_empty(width + 1), torch.empty_like(columns)),
    )
    torch.library.register_fake(
        "splatseg::shared_weights",
        lambda left, rows, right, columns, weights, width: weights.new_empty(left.shape[0] - 1, width),
    )
    torch.library.register_fake("splatseg::mask_agreement", _pairs_fake)
    torch.library.register_fake("splatseg::mask_matches", _pairs_fake)
    torch.library.register_fake(
        "splatseg::mask_votes",
        lambda offsets, *rest: (torch.empty_like(offsets), *_unknown(offsets, torch.int32, torch.float32)),
    )
    torch.library.register_fake(
        "splatseg::masks_agreed", lambda offsets, columns, *rest: columns.new_empty(offsets.shape[0] - 1)
    )
