"""Pools by Gaussian with columns of every length, and steps over them: for tests of the kernel and its reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splatseg.ops.blend import weights_beside
from splatseg.ops.columns import BLOCK_ENTRIES, WARP_ENTRIES, PoolColumns
from splatseg.ops.contributions import Contributions
from splatseg.ops.reference.adam import adam_
from splatseg.ops.reference.blend import blend_transpose, select_rows
from splatseg.ops.replay import run_op

ROWS = (650, 40, 3, 200)
"""Rows of the batches; the third's show nothing, the last one's are of Gaussians that the first shows too."""
LENGTHS = (600, BLOCK_ENTRIES + 1, BLOCK_ENTRIES, 100, WARP_ENTRIES + 1, WARP_ENTRIES, 20, 9, 8, 5, 4, 3, 2, 1, 1, 1)
"""Entries of Gaussians 3, 6, 9, ... in the first batch."""
GAUSSIANS = 3 * len(LENGTHS) + 10
SCHEDULE = (0, 1, 0, 2, 3)
"""Batch of each step."""


def contributions(weights: torch.dtype) -> Contributions:
    """Gaussians of the first batch show in as many of its rows as :data:`LENGTHS` says; four in each row of the second,
    two in each of the last one."""
    g = torch.Generator().manual_seed(0)
    pairs = []
    for k, length in enumerate(LENGTHS):
        rows = torch.randperm(ROWS[0], generator=g)[:length]
        pairs.append(torch.stack([rows, torch.full_like(rows, 3 * k + 3)], 1))
    rows = torch.arange(ROWS[0], sum(ROWS[:2])).repeat_interleave(4)
    pairs.append(torch.stack([rows, (5 * torch.arange(len(rows))) % 37], 1))
    rows = torch.arange(sum(ROWS[:3]), sum(ROWS)).repeat_interleave(2)
    pairs.append(torch.stack([rows, 3 * (torch.arange(len(rows)) % 11) + 3], 1))
    entries = torch.cat(pairs)
    entries = entries[entries[:, 0].argsort(stable=True)]
    total = sum(ROWS)
    counts = entries[:, 0].bincount(minlength=total)
    return Contributions(
        pixels=torch.zeros(total, 2, dtype=torch.int32),
        order=torch.arange(total),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        ids=entries[:, 1].to(torch.int32).contiguous(),
        weights=torch.rand(len(entries), generator=g).to(weights),
    )


def batch_start() -> Tensor:
    return torch.tensor([0, *ROWS]).cumsum(0)


def some_columns(weights: torch.dtype, held: Tensor | None = None) -> PoolColumns:
    return PoolColumns.of(contributions(weights), batch_start(), held)


@dataclass
class Step:
    """Arguments of ``pooled_transpose_adam_``, and what moves: ``state`` is parameters and both averages."""

    columns: PoolColumns
    cells: Tensor
    grad: Tensor
    rates: Tensor
    state: list[Tensor]
    bad: Tensor
    settings: tuple[float, float, float, float] = (0.9, 0.999, 1e-8, 5.0)

    def next(self, at: int) -> None:
        """Go to step number ``at``, which has a gradient of its own; the row of a zero gradient too."""
        g = torch.Generator().manual_seed(at)
        self.cells.copy_(torch.tensor([at + 1, at, SCHEDULE[at]]))
        self.grad.copy_(torch.randn(self.grad.shape, generator=g))
        self.grad[2] = 0
        self.rates[at] = torch.tensor([0.01 / (1 - 0.9 ** (at + 1)), (1 - 0.999 ** (at + 1)) ** -0.5])

    def to(self, device: torch.device) -> Step:
        """The same on another device."""

        def moved(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        columns = PoolColumns(**{name: moved(value) for name, value in vars(self.columns).items()})
        rest = {name: moved(value) for name, value in vars(self).items()}
        return Step(**{**rest, "columns": columns, "state": [moved(t) for t in self.state]})

    def move(self) -> None:
        """Make the step with the device's kernel, or the reference where it has none."""
        run_op("pooled_transpose_adam_", self.grad)(
            self.cells, *self.columns.arguments, self.grad, self.rates, *self.state, self.bad, *self.settings
        )

    def rows(self, at: int) -> Tensor:
        """Rows of the contributions that step ``at`` takes."""
        start = batch_start()[SCHEDULE[at] :].tolist()
        return torch.arange(start[0], start[1])

    def shown(self, at: int) -> Tensor:
        """(n,) bool: the Gaussians that step ``at`` shows."""
        c = contributions(torch.float32)
        entries, _ = select_rows(c.offsets, self.rows(at))
        shown = torch.zeros(len(self.state[0]), dtype=torch.bool)
        shown[c.ids[entries].long()] = True
        return shown

    def by_rows(self, at: int, weights: torch.dtype) -> None:
        """The same step as two ops: ``blend_transpose`` into a gradient and flags, then ``adam_``."""
        c, rows, n = contributions(weights), self.rows(at), len(self.state[0])
        total = blend_transpose(c.offsets, c.ids, c.weights, self.grad[: len(rows)], rows, n)
        touched = self.shown(at).to(torch.uint8)
        adam_(*self.state, total[None], touched[None], None, self.rates[at], self.bad, *self.settings, True)


def some_step(columns: PoolColumns, d: int, dtype: torch.dtype) -> Step:
    """Before the first step: random features, one of norm 0, and averages."""
    g = torch.Generator().manual_seed(2)
    state = [torch.randn(GAUSSIANS, d, generator=g, dtype=torch.float64).to(dtype) for _ in range(3)]
    state[2].square_()
    state[0][6] = 0
    return Step(
        columns=PoolColumns(**{**vars(columns), "weights": weights_beside(columns.weights, dtype)}),
        cells=torch.tensor([0, -1, -1]),
        grad=torch.zeros(max(ROWS), d, dtype=dtype),
        rates=torch.zeros(len(SCHEDULE), 2, dtype=torch.float64),
        state=state,
        bad=torch.tensor(torch.iinfo(torch.int64).max),
    )
