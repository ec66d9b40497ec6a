"""Which Gaussians a pixel shows, and how much of each: the sparse matrix that rendering features multiplies by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims

WEIGHT_TYPES = (torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Contributions:
    """Blending weights of m pixels in CSR form, one row per pixel. Constants: no gradient flows into them.

    Attributes:
        pixels: (m, 2) int32 [column, row] of each row; rows are sorted by 16x16 tile.
        order: (m,) int64: row r belongs to input pixel ``order[r]``; a permutation of 0..m-1.
        offsets: (m + 1,) int64: the entries of row r are ``offsets[r]:offsets[r + 1]``; a row may be empty.
        ids: (e,) int32 Gaussian ids, front to back within a row.
        weights: (e,) float32 in (0, 1], alpha times transmittance; float16 (:meth:`half`) takes two bytes less an
            entry at a relative rounding error of 2^-11; float64 is for gradient checks.
    """

    pixels: Tensor
    order: Tensor
    offsets: Tensor
    ids: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        sizes = check_dims("contributions.pixels", self.pixels, ("m", 2))
        check_dims("contributions.order", self.order, ("m",), sizes)
        check_dims("contributions.offsets", self.offsets, (sizes["m"] + 1,))
        entries = check_dims("contributions.ids", self.ids, ("e",))
        check_dims("contributions.weights", self.weights, ("e",), entries)
        expected = {"pixels": torch.int32, "order": torch.int64, "offsets": torch.int64, "ids": torch.int32}
        for name, dtype in expected.items():
            found = getattr(self, name).dtype
            if found != dtype:
                raise SplatsegError(f"contributions.{name}: expected {dtype}, found {found}")
        if self.weights.dtype not in WEIGHT_TYPES:
            raise SplatsegError(f"contributions.weights: expected float16, 32 or 64, found {self.weights.dtype}")
        if self.weights.requires_grad:
            raise SplatsegError("contributions.weights: expected constants, found a tensor that requires a gradient")

    def __len__(self) -> int:
        return self.pixels.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory of all five tensors, in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    @property
    def counts(self) -> Tensor:
        """(m,) int64 entries of each row."""
        return self.offsets.diff()

    @property
    def alpha(self) -> Tensor:
        """(m,) float32 sum of each row's weights: the opacity of the pixel as far as kept weights tell."""
        total = torch.zeros(len(self), dtype=torch.float32, device=self.weights.device)
        return total.index_add_(0, self.entry_rows(), self.weights.to(torch.float32))

    def entry_rows(self) -> Tensor:
        """(e,) int64 row of each entry."""
        rows = torch.arange(len(self), device=self.ids.device)
        return rows.repeat_interleave(self.counts, output_size=self.ids.numel())  # which the host knows

    def add_by_label(self, table: Tensor, labels: Tensor) -> Tensor:
        """``table`` (n, k), to which each Gaussian's weight is added, by the label of the pixel that shows it.

        Args:
            table: changed in place; contiguous.
            labels: (m,) int64 of the input pixels, in 0..k-1.
        """
        of_entry = labels[self.order][self.entry_rows()]
        table.view(-1).index_add_(0, self.ids.long() * table.shape[1] + of_entry, self.weights.to(table.dtype))
        return table

    def rows(self, index: Tensor) -> Tensor:
        """(r,) int64 rows that hold the input pixels ``index`` (r,): the inverse of ``order``.

        Raises:
            SplatsegError: an index that no input pixel has.
        """
        check_dims("index", index, ("r",))
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise SplatsegError(
                f"index: expected input pixels 0..{len(self) - 1}, found {int(index.min())}..{int(index.max())}"
            )
        inverse = torch.empty_like(self.order)
        inverse[self.order] = torch.arange(len(self), device=self.order.device)
        return inverse[index.to(torch.int64)]

    def only(self, kept: Tensor) -> Contributions:
        """The same rows with the entries ``kept`` (e,) bool."""
        ends = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
        return replace(self, offsets=ends[self.offsets], ids=self.ids[kept], weights=self.weights[kept])

    def half(self) -> Contributions:
        """The same with float16 weights."""
        return replace(self, weights=self.weights.to(torch.float16))

    def each(self, act: Callable[[Tensor], Tensor]) -> Contributions:
        """The same with each of its tensors as ``act`` returns it."""
        return Contributions(**{name: act(tensor) for name, tensor in self._tensors().items()})

    def to(self, device: torch.device | str) -> Contributions:
        return self.each(lambda tensor: tensor.to(device))

    def _tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


Tracer = Callable[[Tensor, float], Contributions]
"""Contributions of ``pixels`` (m, 2) from ``min_weight`` on, of one splat in one view."""
