"""Pools by Gaussian: what lets a replayed step gather a Gaussian's gradient and move it at once.

``blend`` reads a pool by pixel. Its transpose adds to Gaussians, from many pixels in any order: atomically, into a
gradient of all Gaussians, with flags that tell Adam which of them. By Gaussian each is one sum in a fixed order, and
the pool of a view does not change during a fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from splatseg.ops.contributions import Contributions
from splatseg.ops.reference.blend import select_rows

WARP_ENTRIES = 32
"""Columns with more entries are taken by a whole warp on CUDA, others by a few lanes of one."""
BLOCK_ENTRIES = 256
"""Columns with more are taken by a block: one large Gaussian shows in many of a view's pixels."""
CLASS = 4
"""Columns are sorted by how often they have so many entries, so that the lanes of a warp have equally much to do."""


@dataclass(frozen=True, eq=False)
class PoolColumns:
    """The entries of all views' pools by view and Gaussian, in CSC form over the positions of shuffled pixels.

    Takes 4 bytes per entry beside its weight (6 with float16 weights, as the pool itself) and 12 per column; a column
    has at least one entry. :func:`column_bytes` is the bound.

    Attributes:
        view_columns: (views, 4) int64: of view v, columns from ``view_columns[v, 0]`` have more than
            :data:`BLOCK_ENTRIES` entries, from ``[v, 1]`` more than :data:`WARP_ENTRIES`, from ``[v, 2]`` up to
            ``[v, 3]`` fewer.
        ids: (columns,) int32 Gaussian of each, once a view.
        offsets: (columns + 1,) int64: the entries of column c are ``offsets[c]:offsets[c + 1]``, at least one.
        positions: (entries,) int32 position of each entry's pixel in the shuffled rows of its view, ascending within a
            column.
        weights: (entries,) blending weights.
        most: the most columns of each of the three kinds that a view has.
    """

    view_columns: Tensor
    ids: Tensor
    offsets: Tensor
    positions: Tensor
    weights: Tensor
    most: tuple[int, int, int]

    @staticmethod
    def of(
        contributions: Contributions, view_start: Tensor, shuffled: Tensor, held: Tensor | None = None
    ) -> PoolColumns:
        """The columns of the views whose rows are ``shuffled[view_start[v]:view_start[v + 1]]``, at least one.

        Args:
            contributions: rows of all views.
            view_start: (views + 1,) int64.
            shuffled: (rows,) int64 rows of ``contributions``.
            held: (n,) bool Gaussians to leave out.
        """
        parts = [one_view(contributions, shuffled[a:b], held) for a, b in pairwise(view_start.tolist())]
        kinds = torch.stack([part.kinds for part in parts])
        ends = kinds.flatten().cumsum(0).reshape(-1, 3)
        counts = torch.cat([part.counts for part in parts])
        block, warp, group = kinds.amax(dim=0).tolist()
        return PoolColumns(
            view_columns=torch.cat([ends[:, :1] - kinds[:, :1], ends], dim=1),
            ids=torch.cat([part.ids for part in parts]),
            offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            positions=torch.cat([part.positions for part in parts]),
            weights=torch.cat([part.weights for part in parts]),
            most=(block, warp, group),
        )

    @property
    def nbytes(self) -> int:
        """Memory of all tensors, in bytes."""
        return sum(t.nbytes for t in (self.view_columns, self.ids, self.offsets, self.positions, self.weights))

    @property
    def arguments(self) -> tuple[Tensor | Sequence[int], ...]:
        """As ``pooled_transpose_adam_`` takes them."""
        return self.view_columns, self.ids, self.offsets, self.positions, self.weights, self.most


@dataclass(frozen=True, eq=False)
class ViewColumns:
    """One view's part of :class:`PoolColumns`; ``counts`` (columns,) int64 entries of each, ``kinds`` (3,) int64
    columns for a block, a warp and a group."""

    ids: Tensor
    counts: Tensor
    positions: Tensor
    weights: Tensor
    kinds: Tensor


def one_view(contributions: Contributions, rows: Tensor, held: Tensor | None) -> ViewColumns:
    """Columns of the entries of ``rows`` (r,), whose positions count from 0."""
    entries, positions = select_rows(contributions.offsets, rows)
    ids = contributions.ids[entries]
    if held is not None:
        kept = ~held[ids.long()]
        entries, positions, ids = entries[kept], positions[kept], ids[kept]
    ids, order = ids.sort(stable=True)
    ids, counts = ids.unique_consecutive(return_counts=True)
    columns = (-((counts + CLASS - 1) // CLASS)).argsort(stable=True)
    place, _ = select_rows(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), columns)
    order = order[place]
    counts = counts[columns]
    longer = torch.stack([(counts > bound).sum() for bound in (BLOCK_ENTRIES, WARP_ENTRIES, 0)])
    return ViewColumns(
        ids=ids[columns],
        counts=counts,
        positions=positions[order].to(torch.int32),
        weights=contributions.weights[entries[order]],
        kinds=longer.diff(prepend=longer.new_zeros(1)),
    )


def column_bytes(contributions: Contributions) -> int:
    """Bytes that the columns of these rows take at most, none of their Gaussians being held."""
    entries = contributions.ids.numel() * (4 + contributions.weights.element_size())
    return entries + 12 * contributions.ids.unique().numel()
