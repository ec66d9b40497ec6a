"""Steps of the feature fit that the device makes on its own: one captured graph, replayed.

A step of some sixty microseconds' work must not wait for the host between its kernels. Everything that changes from
step to step - the batch of pixels, the learning rate, the number of the step - is therefore read from the device's
memory, and the same sequence of kernels serves every step. Where no graph can be captured the same code runs kernel by
kernel.

Batches are cut once: a view's pixels in random order are dealt to as few batches as hold them all, and a step takes one
of these. So what depends on pixels and masks alone - samples sorted by patch, levels of the hierarchy, the entries by
Gaussian - is made before the first step and not in every one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.ops.adam import SparseFeatureAdam
from splatseg.ops.blend import weights_beside
from splatseg.ops.columns import PoolColumns
from splatseg.ops.contributions import Contributions
from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.loss_config import LossConfig
from splatseg.ops.reference import columns as column_reference
from splatseg.ops.reference import replay as pool_reference
from splatseg.ops.reference.blend import select_rows

EAGER_STEPS = 3
"""Steps made kernel by kernel before the capture, so that lazily made things exist by then."""
TABLE_BYTES = 2**29
"""Bound on the loss's tables of all batches, about 6 k^2 bytes each for k patches (the levels of each patch). Beyond it
they are made anew in every step, by three more kernels."""


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


@dataclass(frozen=True)
class BatchSize:
    """``pixels`` of a batch at most; patches of fewer than ``min_pixels`` of them count for nothing in the loss."""

    pixels: int
    min_pixels: int


@dataclass(frozen=True, eq=False)
class PoolStack:
    """Batches of all views' pools end to end.

    A view of c usable pixels has ceil(c / pixels) batches, all of one size: windows of the pixels in random order,
    which begin at equal distances. So each pixel is in one, and few are in two.

    Attributes:
        contributions: rows of all batches, and one without entries at the end. Those of a batch come by patch, and
            behind them those of patches that have too few pixels in it.
        batch_start: (batches + 1,) int64: the rows of batch b are ``batch_start[b]:batch_start[b + 1]``.
        view: (batches,) int32 view of each, ascending.
        patch: (rows,) int32 patch of each row, in the numbers of its view; 0 is no patch.
        membership: (views, p, words) int64 mask bits of each view's patches, padded with zeros.
    """

    contributions: Contributions
    batch_start: Tensor
    view: Tensor
    patch: Tensor
    membership: Tensor

    @staticmethod
    def of(pools: Iterable[Pool], size: BatchSize, generator: torch.Generator) -> PoolStack:
        """Cut ``pools``, at least one, into batches; each is let go before the next is asked for. ``generator``
        shuffles, on its own device."""
        parts, patches, sizes, masks = [], [], [], []
        for pool in pools:
            rows, patch = cut(pool, size, generator)
            parts.append(chosen_rows(pool.contributions, rows.flatten()))
            patches.append(patch.flatten())
            sizes.append(tuple(rows.shape))
            masks.append(pool.membership)
        if not parts:
            raise SplatsegError("pools: expected at least one, found none")
        patch_count, words = (max(own.shape[axis] for own in masks) for axis in (0, 1))
        membership = masks[0].new_zeros(len(masks), patch_count, words)
        for padded, own in zip(membership, masks, strict=True):
            padded[: own.shape[0], : own.shape[1]] = own
        view = [v for v, (batches, _) in enumerate(sizes) for _ in range(batches)]
        counts = torch.tensor([0, *(pixels for batches, pixels in sizes for _ in range(batches))])
        device = membership.device
        return PoolStack(
            joined(parts),
            counts.cumsum(0).to(device),
            torch.tensor(view, dtype=torch.int32, device=device),
            torch.cat(patches),
            membership,
        )


def cut(pool: Pool, size: BatchSize, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows (batches, pixels) int64 of a pool's batches as :class:`PoolStack` has them, and their patches, int32."""
    count, device = len(pool.rows), pool.rows.device
    batches, pixels = -(-count // size.pixels), min(size.pixels, count)
    starts = torch.tensor([k * (count - pixels) // max(batches - 1, 1) for k in range(batches)], device=device)
    order = torch.randperm(count, generator=generator, device=generator.device).to(device)
    rows = pool.rows[order][starts[:, None] + torch.arange(pixels, device=device)]
    patch = pool.patch[rows].to(torch.int64)
    counts = patch.new_zeros(batches, len(pool.membership)).scatter_add_(1, patch, torch.ones_like(patch))
    counts[:, 0] = 0
    left_out = counts.gather(1, patch) < size.min_pixels
    place = torch.where(left_out, patch + len(pool.membership), patch).argsort(dim=1, stable=True)
    return rows.gather(1, place), patch.gather(1, place).to(torch.int32)


def chosen_rows(contributions: Contributions, rows: Tensor) -> Contributions:
    """Rows ``rows`` (r,) of ``contributions``, in that order."""
    entries, _ = select_rows(contributions.offsets, rows)
    counts = contributions.counts[rows]
    return Contributions(
        pixels=contributions.pixels[rows],
        order=torch.arange(len(rows), device=rows.device),
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        ids=contributions.ids[entries],
        weights=contributions.weights[entries],
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
    """What each step of a fit does: the batch of the stack that it takes, ``batches`` (steps,), and its rate ``lr``."""

    batches: Tensor
    lr: Sequence[float]


class PooledSteps:
    """Steps over a :class:`PoolStack`: blend a batch, loss, transpose with Adam over touched rows.

    The transpose reads the batches by Gaussian (:class:`~splatseg.ops.columns.PoolColumns`), which takes about as much
    memory as the stack's contributions once more; the loss's tables take up to :data:`TABLE_BYTES`. Gaussians that the
    optimizer holds are in no column: nothing is computed for them.

    Args:
        stack: batches on the device of the optimizer's features.
        optimizer: moves its features; its ``steps`` says how many steps were made, and what it holds now is held.
        loss: constants of the loss.
        schedule: all steps of the fit.
    """

    def __init__(self, stack: PoolStack, optimizer: SparseFeatureAdam, loss: LossConfig, schedule: Schedule) -> None:
        self.stack, self.optimizer, self.loss = stack, optimizer, loss
        features = optimizer.features
        columns = PoolColumns.of(stack.contributions, stack.batch_start, optimizer.held)
        self.columns = replace(columns, weights=weights_beside(columns.weights, features.dtype))
        self._weights = weights_beside(stack.contributions.weights, features.dtype)
        self._tables = loss_tables(stack, loss)
        device, steps = features.device, len(schedule.lr)
        rates = [optimizer.config.rates(step + 1, rate) for step, rate in enumerate(schedule.lr)]
        self._schedule = schedule.batches.to(device, torch.int32).contiguous()
        self._rates = torch.tensor(rates, dtype=torch.float64).to(device)
        self._cells = torch.tensor([optimizer.steps, -1, -1], dtype=torch.int64, device=device)
        self._grad = features.new_zeros(int(stack.batch_start.diff().max()), features.shape[1])
        self.losses = torch.full((steps,), torch.nan, dtype=features.dtype, device=device)
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
        self.differentiate()
        self.transpose_and_move()

    def differentiate(self) -> None:
        """Loss of the next step's batch and its gradient, up to the blended features."""
        s, c, loss, features = self.stack, self.stack.contributions, self.loss, self.optimizer.features
        batches = (s.batch_start, s.view, c.offsets, c.ids, self._weights, s.patch, s.membership, self._tables)
        constants = (loss.phi_min, loss.phi_max, loss.phi_scale, loss.level_decay, loss.min_pixels, loss.weight)
        run_op("pooled_loss_", features)(
            self._cells, self._schedule, *batches, features, self._grad, self.losses, *constants, loss.deterministic
        )

    def transpose_and_move(self) -> None:
        """Adam on the Gaussians that the batch shows which was differentiated last."""
        optimizer = self.optimizer
        state = (optimizer.features, optimizer.exp_avg, optimizer.exp_avg_sq, optimizer.bad)
        run_op("pooled_transpose_adam_", optimizer.features)(
            self._cells, *self.columns.arguments, self._grad, self._rates, *state, *optimizer.settings
        )

    def go_to(self, step: int) -> None:
        """Have ``step`` be the next one, for measurements."""
        self._cells[0] = step

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the stack's contributions that ``step`` takes, their patches and the masks of these."""
        s = self.stack
        batch = int(self._schedule[step])
        first, last = s.batch_start[batch : batch + 2].tolist()
        rows = torch.arange(first, last, device=s.patch.device)
        return rows, s.patch[first:last], s.membership[int(s.view[batch])]


def loss_tables(stack: PoolStack, loss: LossConfig) -> Tensor:
    """What the loss's kernels need of patches and masks alone: (batches, bytes) uint8, (1, bytes) of no content where
    that is more than :data:`TABLE_BYTES`, and empty for references, which need none."""
    if not has_kernel("pool_loss_tables", stack.patch):
        return torch.empty(0, 0, dtype=torch.uint8, device=stack.patch.device)
    tables: Tensor = torch.ops.splatseg.pool_loss_tables(
        stack.patch, stack.batch_start, stack.view, stack.membership, loss.min_pixels, loss.level_decay, TABLE_BYTES
    )
    return tables


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
    torch.library.register_fake("splatseg::pooled_loss_", _nothing_fake)
    torch.library.register_fake("splatseg::pooled_transpose_adam_", _nothing_fake)
