"""Batches by Gaussian: what lets a replayed step gather a Gaussian's gradient and move it at once.

``blend`` reads a batch by pixel. Its transpose adds to Gaussians, from many pixels in any order: atomically, into a
gradient of all Gaussians, with flags that tell Adam which of them. By Gaussian each is one sum in a fixed order, and
the batches of a fit do not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.ops.contributions import Contributions

WARP_ENTRIES = 32
"""Columns with more entries are taken by a whole warp on CUDA, others by a few lanes of one."""
BLOCK_ENTRIES = 256
"""Columns with more are taken by a block: one large Gaussian shows in many of a batch's pixels."""
CLASS = 4
"""Columns are sorted by how often they have so many entries, so that the lanes of a warp have equally much to do."""
AT_ONCE = 4_000_000
"""Entries that are sorted at a time, about: their keys and places take some 70 bytes each, for a moment."""


@dataclass(frozen=True, eq=False)
class PoolColumns:
    """The entries of all batches by batch and Gaussian, in CSC form over the positions of the batch's pixels.

    Takes 4 bytes per entry beside its weight (6 with float16 weights, as the pool itself) and 8 per column;
    a column has at least one entry. :func:`column_bytes` is the bound.

    Attributes:
        batch_columns: (batches, 4) int64: of batch b, columns from ``batch_columns[b, 0]`` have more than
            :data:`BLOCK_ENTRIES` entries, from ``[b, 1]`` more than :data:`WARP_ENTRIES`, from ``[b, 2]`` up to
            ``[b, 3]`` fewer.
        batch_entries: (batches,) int64 first entry of each batch.
        ids: (columns,) int32 Gaussian of each, once a batch.
        offsets: (columns + batches,) int32: column c of batch b has the entries ``offsets[c + b]:offsets[c + b + 1]``,
            at least one, counted from the batch's first.
        positions: (entries,) int32 row of each entry's pixel in its batch, ascending within a column.
        weights: (entries,) blending weights.
        most: the most columns of each of the three kinds that a batch has.
    """

    batch_columns: Tensor
    batch_entries: Tensor
    ids: Tensor
    offsets: Tensor
    positions: Tensor
    weights: Tensor
    most: tuple[int, int, int]

    @staticmethod
    def of(contributions: Contributions, batch_start: Tensor, held: Tensor | None = None) -> PoolColumns:
        """The columns of the batches of rows ``batch_start[b]:batch_start[b + 1]`` of ``contributions``, one at least.

        Args:
            contributions: rows of all batches.
            batch_start: (batches + 1,) int64.
            held: (n,) bool Gaussians to leave out.
        """
        starts, entries = batch_start.tolist(), contributions.offsets[batch_start].tolist()
        parts = [
            some_columns(contributions, starts[a : b + 1], entries[a : b + 1], held)
            for a, b in groups(entries, AT_ONCE)
        ]
        kinds = torch.cat([part.kinds for part in parts])
        ends = kinds.flatten().cumsum(0).reshape(-1, 3)
        own = torch.cat([part.entries for part in parts])
        block, warp, group = kinds.amax(dim=0).tolist()
        return PoolColumns(
            batch_columns=torch.cat([ends[:, :1] - kinds[:, :1], ends], dim=1),
            batch_entries=own.cumsum(0) - own,
            ids=torch.cat([part.ids for part in parts]),
            offsets=torch.cat([part.offsets for part in parts]),
            positions=torch.cat([part.positions for part in parts]),
            weights=torch.cat([part.weights for part in parts]),
            most=(block, warp, group),
        )

    @property
    def nbytes(self) -> int:
        """Memory of all tensors, in bytes."""
        tensors = (self.batch_columns, self.batch_entries, self.ids, self.offsets, self.positions, self.weights)
        return sum(t.nbytes for t in tensors)

    @property
    def arguments(self) -> tuple[Tensor | Sequence[int], ...]:
        """As ``pooled_transpose_adam_`` takes them."""
        return (
            self.batch_columns, self.batch_entries, self.ids, self.offsets, self.positions, self.weights, self.most,
        )  # fmt: skip


def groups(entries: Sequence[int], at_once: int) -> Iterator[tuple[int, int]]:
    """Batches a up to b that have about ``at_once`` entries together, one batch at least; ``entries``: their ends."""
    first = 0
    for k in range(1, len(entries)):
        if k == len(entries) - 1 or entries[k + 1] - entries[first] > at_once:
            yield first, k
            first = k


@dataclass(frozen=True, eq=False)
class BatchColumns:
    """Some batches' part of :class:`PoolColumns`; ``kinds`` (batches, 3) int64 columns for a block, a warp and a group,
    ``entries`` (batches,) int64."""

    ids: Tensor
    offsets: Tensor
    positions: Tensor
    weights: Tensor
    kinds: Tensor
    entries: Tensor


def some_columns(
    contributions: Contributions, starts: Sequence[int], ends: Sequence[int], held: Tensor | None
) -> BatchColumns:
    """Columns of neighboring batches, sorted together: their rows are ``starts[0]:starts[1]`` and so on, with the
    entries ``ends[0]:ends[1]``. Waits for the device once, twice where Gaussians are held."""
    device, batches, total = contributions.ids.device, len(starts) - 1, ends[-1] - ends[0]
    ids, weights = (t[ends[0] : ends[-1]] for t in (contributions.ids, contributions.weights))
    batch_of_row, first_rows = repeated(torch.tensor(starts, device=device).diff(), starts[-1] - starts[0])
    row, _ = repeated(contributions.offsets[starts[0] : starts[-1] + 1].diff(), total)
    batch, position = batch_of_row[row], row - first_rows[batch_of_row[row]]
    order = None
    if held is not None:
        order = (~held[ids.long()]).nonzero()[:, 0]
        ids, batch = ids[order], batch[order]
    key, place = ((batch << 32) + ids).sort(stable=True)
    order = place if order is None else order[place]
    key, counts = key.unique_consecutive(return_counts=True)
    # By batch, then by falling class; what is in a class stays in order of id.
    highest = 1 << 30
    rank, columns = ((key >> 32 << 32) + highest - (counts + CLASS - 1) // CLASS).sort(stable=True)
    bounds = torch.tensor([0, *(highest - bound // CLASS for bound in (BLOCK_ENTRIES, WARP_ENTRIES, 0))], device=device)
    at = torch.searchsorted(rank, (torch.arange(batches, device=device)[:, None] << 32) + bounds)
    before = counts.cumsum(0) - counts
    key, counts, before = key[columns], counts[columns], before[columns]
    column, starts_now = repeated(counts, order.numel())
    order = order[before[column] + torch.arange(order.numel(), device=device) - starts_now[column]]
    entries = torch.cat([starts_now, starts_now.new_tensor([order.numel()])])[torch.cat([at[:, 0], at[-1:, 3]])]
    return BatchColumns(
        ids=(key & 0xFFFFFFFF).to(torch.int32),
        offsets=batch_offsets(starts_now, at, entries),
        positions=position[order].to(torch.int32),
        weights=weights[order],
        kinds=at.diff(dim=1),
        entries=entries.diff(),
    )


def batch_offsets(starts: Tensor, at: Tensor, entries: Tensor) -> Tensor:
    """``offsets`` of :class:`PoolColumns` from the first entry ``starts`` (columns,) of each column, the columns ``at``
    (batches, 4) of each batch and its first entry (batches + 1,)."""
    columns, batches = len(starts), len(at)
    batch, _ = repeated(at[:, 3] - at[:, 0], columns)
    out = starts.new_empty(columns + batches)
    out[torch.arange(columns, device=starts.device) + batch] = starts - entries[batch]
    out[at[:, 3] + torch.arange(batches, device=starts.device)] = entries.diff()
    return out.to(torch.int32)


def repeated(counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """0, 1, 2, ... each as often as ``counts`` (k,) says, ``total`` together, and how many come before each (k,)."""
    places = torch.arange(len(counts), device=counts.device).repeat_interleave(counts, output_size=total)
    return places, counts.cumsum(0) - counts


def column_bytes(contributions: Contributions) -> int:
    """Bytes that the columns of these rows take at most, as one batch, none of their Gaussians being held."""
    entries = contributions.ids.numel() * (4 + contributions.weights.element_size())
    return entries + 8 * contributions.ids.unique().numel()
