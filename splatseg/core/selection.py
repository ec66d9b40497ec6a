"""Selections as sets of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims


@dataclass(frozen=True, eq=False)
class Selection:
    """A set of Gaussians: ``mask`` (n,) bool, True where selected. Immutable: every operation returns a new one."""

    mask: Tensor

    def __post_init__(self) -> None:
        check_dims("selection.mask", self.mask, ("n",))
        if self.mask.dtype != torch.bool:
            raise SplatsegError(f"selection.mask: expected bool, found {str(self.mask.dtype).removeprefix('torch.')}")

    @classmethod
    def none(cls, n: int, device: torch.device | str = "cpu") -> Selection:
        """The empty selection of a splat of ``n`` Gaussians."""
        return cls(torch.zeros(n, dtype=torch.bool, device=device))

    @classmethod
    def of(cls, ids: Tensor, n: int) -> Selection:
        """The selection of the Gaussians ``ids`` (m,) of a splat of ``n``.

        Raises:
            SplatsegError: an id is not in 0..n-1.
        """
        if len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < n):
            raise SplatsegError(f"ids: expected Gaussians 0..{n - 1}, found {int(ids.min())}..{int(ids.max())}")
        mask = torch.zeros(n, dtype=torch.bool, device=ids.device)
        mask[ids.long()] = True
        return cls(mask)

    def __len__(self) -> int:
        """Number of selected Gaussians."""
        return int(self.mask.sum())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and torch.equal(self.mask, other.mask)

    __hash__ = None  # type: ignore[assignment]

    @property
    def ids(self) -> Tensor:
        """(m,) int64 selected Gaussians, ascending."""
        return self.mask.nonzero()[:, 0]

    def union(self, other: Selection) -> Selection:
        self._check(other)
        return Selection(self.mask | other.mask)

    def intersect(self, other: Selection) -> Selection:
        self._check(other)
        return Selection(self.mask & other.mask)

    def subtract(self, other: Selection) -> Selection:
        self._check(other)
        return Selection(self.mask & ~other.mask)

    def invert(self) -> Selection:
        return Selection(~self.mask)

    __or__, __and__, __sub__, __invert__ = union, intersect, subtract, invert

    def _check(self, other: Selection) -> None:
        if self.mask.shape != other.mask.shape:
            raise SplatsegError(
                f"selection: expected a selection of {self.mask.shape[0]} Gaussians, found {other.mask.shape[0]}"
            )
