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
from splatseg.ops.reference.replay import pool_batch_
from splatseg.ops.replay import run_op

VIEW_ROWS = (650, 40, 3)
"""Rows of the views; the last view's show nothing."""
LENGTHS = (600, BLOCK_ENTRIES + 1, BLOCK_ENTRIES, 100, WARP_ENTRIES + 1, WARP_ENTRIES, 20, 9, 8, 5, 4, 3, 2, 1, 1, 1)
"""Entries of Gaussians 3, 6, 9, ... in the first view."""
GAUSSIANS = 3 * len(LENGTHS) + 10
SCHEDULE = ((0, 500), (1, 13), (0, 3), (2, 1))
"""Views and starts: a window of the first view wraps around, one does not; the other views are smaller than a batch."""
BATCH = 300


def contributions(weights: torch.dtype) -> Contributions:
    """Gaussians of the first view show in as many of its rows as :data:`LENGTHS` says; four in each of the second's."""
    g = torch.Generator().manual_seed(0)
    pairs = []
    for k, length in enumerate(LENGTHS):
        rows = torch.randperm(VIEW_ROWS[0], generator=g)[:length]
        pairs.append(torch.stack([rows, torch.full_like(rows, 3 * k + 3)], 1))
    rows = torch.arange(VIEW_ROWS[0], VIEW_ROWS[0] + VIEW_ROWS[1]).repeat_interleave(4)
    pairs.append(torch.stack([rows, (5 * torch.arange(len(rows))) % 37], 1))
    entries = torch.cat(pairs)
    entries = entries[entries[:, 0].argsort(stable=True)]
    total = sum(VIEW_ROWS)
    counts = entries[:, 0].bincount(minlength=total)
    return Contributions(
        pixels=torch.zeros(total, 2, dtype=torch.int32),
        order=torch.arange(total),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        ids=entries[:, 1].to(torch.int32).contiguous(),
        weights=torch.rand(len(entries), generator=g).to(weights),
    )


def views() -> tuple[Tensor, Tensor]:
    """``view_start`` and the shuffled rows of each view."""
    g = torch.Generator().manual_seed(1)
    start = torch.tensor([0, *VIEW_ROWS]).cumsum(0)
    orders = [a + torch.randperm(n, generator=g) for a, n in zip(start[:-1].tolist(), VIEW_ROWS, strict=True)]
    return start, torch.cat(orders)


def some_columns(weights: torch.dtype, held: Tensor | None = None) -> PoolColumns:
    return PoolColumns.of(contributions(weights), *views(), held)


@dataclass
class Step:
    """Arguments of ``pooled_transpose_adam_``, and what moves: ``state`` is parameters and both averages."""

    columns: PoolColumns
    step: Tensor
    schedule: Tensor
    view_start: Tensor
    grad: Tensor
    rates: Tensor
    state: list[Tensor]
    bad: Tensor
    settings: tuple[float, float, float, float] = (0.9, 0.999, 1e-8, 5.0)

    def next(self, at: int) -> None:
        """Go to step number ``at``, which has a gradient of its own; the row of a zero gradient too."""
        g = torch.Generator().manual_seed(at)
        self.step.fill_(at)
        self.grad.copy_(torch.randn(self.grad.shape, generator=g))
        self.grad[3] = 0
        self.rates.copy_(torch.tensor([0.01 / (1 - 0.9 ** (at + 1)), (1 - 0.999 ** (at + 1)) ** -0.5]))

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
            self.step, self.schedule, self.view_start, *self.columns.arguments, self.grad, self.rates, *self.state,
            self.bad, *self.settings,
        )  # fmt: skip

    def rows(self, at: int) -> Tensor:
        """(batch,) rows of the contributions that step ``at`` draws; one without entries where there are fewer."""
        start, shuffled = views()
        out = (torch.zeros(BATCH, dtype=torch.int64), torch.zeros(BATCH, dtype=torch.int32))
        rest = (torch.zeros(1, 1, dtype=torch.int64), torch.zeros(2, dtype=torch.float64))
        tables = (torch.zeros(len(SCHEDULE), 2, dtype=torch.float64), start, shuffled, torch.zeros(len(shuffled)).int())
        empty = int(start[-1]) - 1  # a row of the last view
        pool_batch_(torch.tensor(at), self.schedule, *tables, torch.zeros(3, 1, 1).long(), empty, *out, *rest)
        return out[0]

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
        total = blend_transpose(c.offsets, c.ids, c.weights, self.grad, rows, n)
        touched = self.shown(at).to(torch.uint8)
        adam_(*self.state, total[None], touched[None], None, self.rates, self.bad, *self.settings, True)


def some_step(columns: PoolColumns, d: int, dtype: torch.dtype) -> Step:
    """Before the first step: random features, one of norm 0, and averages."""
    g = torch.Generator().manual_seed(2)
    state = [torch.randn(GAUSSIANS, d, generator=g, dtype=torch.float64).to(dtype) for _ in range(3)]
    state[2].square_()
    state[0][6] = 0
    return Step(
        columns=PoolColumns(**{**vars(columns), "weights": weights_beside(columns.weights, dtype)}),
        step=torch.tensor(0),
        schedule=torch.tensor(SCHEDULE, dtype=torch.int32),
        view_start=views()[0],
        grad=torch.zeros(BATCH, d, dtype=dtype),
        rates=torch.zeros(2, dtype=torch.float64),
        state=state,
        bad=torch.tensor(torch.iinfo(torch.int64).max),
    )
