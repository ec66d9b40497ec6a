"""Sparse rows on a device, a block of them dense at a time: what products of masks are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

BLOCK_ENTRIES = 1 << 26
"""Entries of the largest table that is made at a time; at some 20 bytes per entry over all of them, about 1.3 GB."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A sparse matrix by rows: row r has the ``columns`` ``offsets[r]:offsets[r + 1]``, each once, and their
    ``values`` (None: ones). All on one device; ``offsets`` int64 (n + 1,), ``columns`` int64 or int32."""

    offsets: Tensor
    columns: Tensor
    width: int
    values: Tensor | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @staticmethod
    def of(row: Tensor, column: Tensor, shape: tuple[int, int], values: Tensor | None = None) -> Rows:
        """From entries in any order."""
        order = torch.argsort(row, stable=True)
        counts = torch.bincount(row, minlength=shape[0])
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Rows(offsets, column[order].to(torch.int32), shape[1], None if values is None else values[order])

    @staticmethod
    def from_scipy(matrix: sparse.csr_matrix, device: torch.device) -> Rows:
        offsets, columns = (
            torch.from_numpy(part.astype(np.int64)).to(device) for part in (matrix.indptr, matrix.indices)
        )
        return Rows(offsets, columns, matrix.shape[1])

    def entries(self, first: int, end: int) -> tuple[Tensor, Tensor, slice]:
        """Row, counted from ``first``, and column, both int64, of the entries of rows ``first:end``, and where they
        are."""
        begin, stop = self.offsets[[first, end]].tolist()
        row = torch.repeat_interleave(self.offsets[first : end + 1].diff())
        return row, self.columns[begin:stop].long(), slice(begin, stop)

    def dense(self, first: int, end: int, dtype: torch.dtype, columns: tuple[int, int] | None = None) -> Tensor:
        """(end - first, width) rows ``first:end``, of the columns in a half-open range where one is given.

        The range may end beyond the width: zeros follow.
        """
        row, column, where = self.entries(first, end)
        low, high = columns or (0, self.width)
        values = torch.ones((), dtype=dtype, device=row.device) if self.values is None else self.values[where].to(dtype)
        if columns is not None:
            inside = (column >= low) & (column < high)
            row, column = row[inside], column[inside] - low
            values = values if self.values is None else values[inside]
        block = torch.zeros(end - first, high - low, dtype=dtype, device=row.device)
        block[row, column] = values
        return block

    def select(self, index: Tensor) -> Rows:
        counts = self.offsets.diff()[index]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        start = torch.repeat_interleave(self.offsets[index] - offsets[:-1], counts)
        where = start + torch.arange(len(start), device=start.device)
        return Rows(offsets, self.columns[where], self.width, None if self.values is None else self.values[where])


def bfloat16_terms(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three bfloat16 tensors whose sum is ``values`` (float32, zero or above 2^-100) exactly."""
    first = values.bfloat16()
    second = (values - first.float()).bfloat16()
    return first, second, (values - first.float() - second.float()).bfloat16()


def product(left: Tensor, right: Tensor) -> Tensor:
    """(a, b) float32 matrix product of bfloat16 tensors (a, k) and (k, b), summed in float32 whatever the device."""
    if not left.is_cuda or "dtype" not in torch.ops.aten.mm.overloads():  # torch before 2.8; CPUs
        return left.float() @ right.float()  # with TF32, too: products of bfloat16 are exact there
    with _float32_sums():
        return torch.mm(left, right, out_dtype=torch.float32)


@contextmanager
def _float32_sums() -> Iterator[None]:
    """Partial sums of a bfloat16 product on CUDA are not rounded to bfloat16 (torch's default lets them be)."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before


def aligned(width: int) -> int:
    """``width`` or a little more: matrix units are fast on rows of 16 bytes' multiples."""
    return -(-width // 8) * 8


def aligned_step(width: int) -> int:
    """Rows, as many as :func:`aligned` says, of a table of about ``BLOCK_ENTRIES`` at ``width`` columns."""
    return aligned(max(BLOCK_ENTRIES // max(width, 1), 1))


def blocks(count: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges of ``count`` rows that make tables of at most ``BLOCK_ENTRIES`` at ``width`` columns; at least one."""
    step = max(BLOCK_ENTRIES // max(width, 1), 1)
    return ((first, min(first + step, count)) for first in range(0, max(count, 1), step))


def parts(low: int, table: Tensor) -> Iterator[tuple[int, Tensor]]:
    """``table``, whose first row is number ``low``, in parts that leave room for a handful of tables of their size."""
    step = max(BLOCK_ENTRIES // (8 * max(table.shape[1], 1)), 1)
    return ((low + start, table[start : start + step]) for start in range(0, len(table), step))
