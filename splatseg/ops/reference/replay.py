"""Specification of the two ends of a replayed step of the feature fit, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor


def pool_batch_(
    step: Tensor,
    schedule: Tensor,
    rates: Tensor,
    view_start: Tensor,
    shuffled: Tensor,
    patch: Tensor,
    membership: Tensor,
    empty_row: int,
    out_rows: Tensor,
    out_patch: Tensor,
    out_membership: Tensor,
    out_rates: Tensor,
) -> None:
    """Write the pixels of step number ``step`` (), and the optimizer's scalars, to the ``out_`` buffers.

    The view is ``schedule[step, 0]``; its pixels are a window of its shuffled rows, wrapped around, that starts at
    ``schedule[step, 1]``. Where the view has fewer rows than the batch, ``empty_row`` and patch 0 fill it up.
    Beyond the last step nothing is written.
    """
    at, batch = int(step), len(out_rows)
    if not 0 <= at < len(schedule):
        return
    view, first = schedule[at].tolist()
    begin, end = view_start[view : view + 2].tolist()
    window = [begin + (first + i) % (end - begin) for i in range(min(batch, end - begin))]
    out_rows.fill_(empty_row)
    out_patch.fill_(0)
    out_rows[: len(window)] = shuffled[window]
    out_patch[: len(window)] = patch[window]
    out_membership.copy_(membership[view])
    out_rates.copy_(rates[at])


def pool_advance_(step: Tensor, loss: Tensor, losses: Tensor) -> None:
    """Note the ``loss`` () of step number ``step`` () in ``losses`` (steps,), and go on to the next."""
    if 0 <= int(step) < len(losses):
        losses[int(step)] = loss
    step += 1
