"""Steps of the feature fit that the device makes on its own: one captured graph, replayed.

A step of some sixty microseconds' work must not wait for the host between its kernels. Everything that changes from
step to step - the view, its pixels, the learning rate, the number of the step - is therefore read from the device's
memory, and the same sequence of kernels serves every step. Where no graph can be captured the same code runs kernel by
kernel.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.ops.adam import SparseFeatureAdam
from splatseg.ops.blend import blend, weights_beside
from splatseg.ops.columns import PoolColumns
from splatseg.ops.contributions import Contributions
from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.loss import hierarchical_contrastive_loss_and_grad
from splatseg.ops.loss_config import LossConfig
from splatseg.ops.reference import columns as column_reference
from splatseg.ops.reference import replay as pool_reference

EAGER_STEPS = 3
"""Steps made kernel by kernel before the capture, so that lazily made things exist by then."""


class Pool(Protocol):
    """What a pool of pixels has (:class:`splatseg.fit.pixel_pools.PixelPool`)."""

    @property
    def contributions(self) -> Contributions: ...
    @property
    def rows(self) -> Tensor: ...
    @property
    def patch(self) -> Tensor: ...
    @property
    def membership(self) -> Tensor: ...


def can_replay(features: Tensor) -> bool:
    """Whether the device of ``features`` has the kernels that steps without the host need."""
    return has_kernel("pooled_transpose_adam_", features)


@dataclass(frozen=True, eq=False)
class PoolStack:
    """Pools of all views end to end.

    Attributes:
        contributions: all rows, and one without entries at the end.
        view_start: (views + 1,) int64: the usable rows of view v are ``view_start[v]:view_start[v + 1]`` of the next.
        shuffled: (rows,) int64 rows of ``contributions``, those of each view in random order.
        patch: (rows,) int32 patch of each, in the numbers of its view; 0 is no patch.
        membership: (views, p, words) int64 mask bits of each view's patches, padded with zeros.
    """

    contributions: Contributions
    view_start: Tensor
    shuffled: Tensor
    patch: Tensor
    membership: Tensor

    @staticmethod
    def of(pools: Sequence[Pool], generator: torch.Generator) -> PoolStack:
        """Join ``pools``, at least one. ``generator`` shuffles; it must be one of the pools' device."""
        if not pools:
            raise SplatsegError("pools: expected at least one, found none")
        rows, patches, starts, before = [], [], [0], 0
        for pool in pools:
            order = torch.randperm(len(pool.rows), generator=generator, device=generator.device)
            chosen = pool.rows[order.to(pool.rows.device)]
            rows.append(chosen + before)
            patches.append(pool.patch[chosen].to(torch.int32))
            starts.append(starts[-1] + len(chosen))
            before += len(pool.contributions)
        patch_count, words = (max(pool.membership.shape[axis] for pool in pools) for axis in (0, 1))
        membership = pools[0].membership.new_zeros(len(pools), patch_count, words)
        for padded, pool in zip(membership, pools, strict=True):
            padded[: pool.membership.shape[0], : pool.membership.shape[1]] = pool.membership
        start = torch.tensor(starts, device=membership.device)
        return PoolStack(
            joined([p.contributions for p in pools]), start, torch.cat(rows), torch.cat(patches), membership
        )


def joined(parts: Sequence[Contributions]) -> Contributions:
    """The rows of ``parts`` one after the other, and a row without entries after them."""
    device = parts[0].ids.device
    offsets, rows, entries = [], 0, 0
    for part in parts:
        offsets.append(part.offsets[:-1] + entries)
        rows, entries = rows + len(part), entries + part.ids.numel()
    offsets.append(torch.tensor([entries, entries], device=device))
    nowhere = torch.zeros(1, 2, dtype=torch.int32, device=device)
    return Contributions(
        pixels=torch.cat([*(p.pixels for p in parts), nowhere]),
        order=torch.arange(rows + 1, device=device),
        offsets=torch.cat(offsets),
        ids=torch.cat([p.ids for p in parts]),
        weights=torch.cat([p.weights for p in parts]),
    )


@dataclass(frozen=True, eq=False)
class Schedule:
    """What each step of a fit does: ``views`` and ``starts`` (steps,) int32 and the learning rate ``lr`` of each."""

    views: Tensor
    starts: Tensor
    lr: Sequence[float]


class PooledSteps:
    """Steps over a :class:`PoolStack`: draw a batch, blend, loss, transpose with Adam over touched rows.

    The transpose reads the pools by Gaussian (:class:`~splatseg.ops.columns.PoolColumns`), which takes about as much
    memory as the stack's contributions once more. Gaussians that the optimizer holds are in no column: nothing is
    computed for them.

    Args:
        stack: pools on the device of the optimizer's features.
        optimizer: moves its features; its ``steps`` says how many steps were made, and what it holds now is held.
        loss: constants of the loss.
        schedule: all steps of the fit.
        batch: pixels per step; views that have fewer give what they have.
    """

    def __init__(
        self, stack: PoolStack, optimizer: SparseFeatureAdam, loss: LossConfig, schedule: Schedule, batch: int
    ) -> None:
        self.stack, self.optimizer, self.loss = stack, optimizer, loss
        columns = PoolColumns.of(stack.contributions, stack.view_start, stack.shuffled, optimizer.held)
        self.columns = replace(columns, weights=weights_beside(columns.weights, optimizer.features.dtype))
        device, steps = optimizer.features.device, len(schedule.lr)
        pairs = torch.stack([schedule.views, schedule.starts], dim=1)
        rates = [optimizer.config.rates(step + 1, rate) for step, rate in enumerate(schedule.lr)]
        self._schedule = pairs.to(device, torch.int32).contiguous()
        self._rates = torch.tensor(rates, dtype=torch.float64).to(device)
        self._step = torch.tensor(optimizer.steps, dtype=torch.int64, device=device)
        self._rows = torch.zeros(batch, dtype=torch.int64, device=device)
        self._patch = torch.zeros(batch, dtype=torch.int32, device=device)
        self._membership = torch.zeros_like(stack.membership[0])
        self._rates_now = torch.zeros(2, dtype=torch.float64, device=device)
        self.losses = torch.full((steps,), torch.nan, dtype=optimizer.features.dtype, device=device)
        self._graph: Any = None
        self._capture = True
        self._made = 0

    def run(self, count: int) -> None:
        """Make the next ``count`` steps; does not wait for them."""
        for _ in range(count):
            if self._graph is None and self._capture and self._made >= EAGER_STEPS:
                self._try_capture()
            if self._graph is not None:
                self._graph.replay()
            else:
                self._make_step()
            self._made += 1
        self.optimizer.steps += count

    def _try_capture(self) -> None:
        """Have a graph from here on where one can be captured. Makes no step: what a capture launches does not run, so
        the step after a failed one is made whole, kernel by kernel, as are all that follow."""
        if not can_capture(self.optimizer.features):
            return
        try:
            self._graph = captured(self._make_step)
        except RuntimeError as error:  # torch's errors of CUDA and of its allocator
            self._capture = False
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(
                f"steps are launched kernel by kernel, as capturing a CUDA graph failed: {reason}",
                RuntimeWarning,
                stacklevel=3,
            )

    def check(self) -> None:
        """Raise :class:`SplatsegError` if a step found a gradient that is not finite. Waits for the device."""
        self.optimizer.check()

    @torch.no_grad()
    def _make_step(self) -> None:
        s, features = self.stack, self.optimizer.features
        tables = (self._step, self._schedule, self._rates, s.view_start, s.shuffled, s.patch, s.membership)
        buffers = (self._rows, self._patch, self._membership, self._rates_now)
        run_op("pool_batch_", features)(*tables, len(s.contributions) - 1, *buffers)
        blended = blend(s.contributions, features, self._rows)
        loss, grad = hierarchical_contrastive_loss_and_grad(
            blended, self._patch, membership=self._membership, config=self.loss
        )
        self.transpose_and_move(grad)
        run_op("pool_advance_", features)(self._step, loss, self.losses)

    def transpose_and_move(self, grad: Tensor) -> None:
        """Adam on the Gaussians that the step's pixels show; ``grad`` (batch, d) is that of the blended features."""
        optimizer = self.optimizer
        tables = (self._step, self._schedule, self.stack.view_start, *self.columns.arguments)
        state = (optimizer.features, optimizer.exp_avg, optimizer.exp_avg_sq, optimizer.bad)
        run_op("pooled_transpose_adam_", grad)(*tables, grad, self._rates_now, *state, *optimizer.settings)


def run_op(name: str, like: Tensor) -> Any:
    """The kernel of ``splatseg::name`` for the device of ``like``, or its reference."""
    if has_kernel(name, like):
        return getattr(torch.ops.splatseg, name)
    return getattr(column_reference if hasattr(column_reference, name) else pool_reference, name)


def can_capture(features: Tensor) -> bool:
    """Whether steps on this device can be captured: on CUDA.

    Not where torch's allocator is told not to cache (for compute-sanitizer): it then refuses to allocate in a capture.
    """
    cached = "PYTORCH_NO_CUDA_MEMORY_CACHING" not in os.environ
    return features.is_cuda and cached


def captured(step: Any) -> Any:
    """A graph of the kernels that ``step`` launches; capturing runs none of them.

    Raises:
        RuntimeError: the capture failed; the stream is as before.
    """
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def _nothing_fake(*arguments: Any) -> None:
    return None


if compiled():
    torch.library.register_fake("splatseg::pool_batch_", _nothing_fake)
    torch.library.register_fake("splatseg::pool_advance_", _nothing_fake)
    torch.library.register_fake("splatseg::pooled_transpose_adam_", _nothing_fake)
