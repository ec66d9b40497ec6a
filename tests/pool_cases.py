"""Pools of views with patches of every size, and replayed steps over their batches up to the gradient: for tests of the
kernels and their reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from loss_cases import nested_masks, pack
from torch import Tensor

from splatseg.fit.pixel_pools import PixelPool
from splatseg.ops.contributions import Contributions
from splatseg.ops.loss_config import LossConfig
from splatseg.ops.replay import BatchSize, PoolStack, loss_tables, run_op

CONFIG = LossConfig(min_pixels=4, weight=1.0)
GAUSSIANS = 40
SCHEDULE = (1, 0, 3, 2)
"""Batch of each step."""


def pool(rows: int, patches: int, seed: int, weights: torch.dtype, skew: float = 0.0) -> PixelPool:
    """Rows of 0 to 39 entries; the first of them show nothing and are in no batch, some others are in no mask."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 9, (rows,), generator=g)
    counts[:3], counts[5], counts[7] = 0, 39, 33
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    contributions = Contributions(
        pixels=torch.zeros(rows, 2, dtype=torch.int32),
        order=torch.arange(rows),
        offsets=offsets,
        ids=torch.randint(0, GAUSSIANS, (int(offsets[-1]),), generator=g, dtype=torch.int32),
        weights=torch.rand(int(offsets[-1]), generator=g).to(weights),
    )
    patch = torch.randint(0, patches, (rows,), generator=g)
    patch[torch.rand(rows, generator=g) < skew] = patches // 2
    return PixelPool(contributions, torch.arange(3, rows), patch, pack(nested_masks(patches, masks=6)))


@dataclass
class Steps:
    """Arguments of ``pooled_loss_``."""

    stack: PoolStack
    features: Tensor
    grad: Tensor
    losses: Tensor
    cells: Tensor
    config: LossConfig = CONFIG

    @staticmethod
    def of(dtype: torch.dtype, d: int, pools: Sequence[PixelPool], pixels: int, config: LossConfig = CONFIG) -> Steps:
        """Before the first step, with buffers full of NaN."""
        size = BatchSize(pixels, config.min_pixels)
        stack = PoolStack.of(pools, size, torch.Generator().manual_seed(0))
        features = torch.randn(GAUSSIANS, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
        grad = torch.full((int(stack.batch_start.diff().max()), d), torch.nan, dtype=dtype)
        losses = torch.full((len(SCHEDULE),), torch.nan, dtype=dtype)
        return Steps(stack, features, grad, losses, torch.tensor([0, -1, -1]), config)

    def to(self, device: torch.device) -> Steps:
        """The same on another device."""

        def moved(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor | Contributions) else value

        stack = PoolStack(**{name: moved(value) for name, value in vars(self.stack).items()})
        return Steps(**{**{name: moved(value) for name, value in vars(self).items()}, "stack": stack})

    def inputs(self) -> tuple[Tensor, ...]:
        """Schedule to features but the tables."""
        s, c = self.stack, self.stack.contributions
        schedule = torch.tensor(SCHEDULE, dtype=torch.int32, device=self.features.device)
        return schedule, s.batch_start, s.view, c.offsets, c.ids, c.weights, s.patch, s.membership, self.features

    def make(self) -> None:
        """Make the next step with the device's kernels, or the reference where it has none."""
        config = self.config
        constants = (config.phi_min, config.phi_max, config.phi_scale, config.level_decay, config.min_pixels)
        *tables, features = self.inputs()
        run_op("pooled_loss_", features)(
            self.cells, *tables, loss_tables(self.stack, config), features, self.grad, self.losses, *constants,
            config.weight, config.deterministic,
        )  # fmt: skip
