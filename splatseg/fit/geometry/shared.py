"""A step of the geometry fit that several ranks make: a view each, one gradient.

A step of k ranks stands for k steps of one: gradients and densification statistics are summed, in one buffer, and
every rank then moves, clones and prunes alike, with the same random numbers. Steps are counted in views, so that
schedules and checkpoints are the same for any number of ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.ranks import Ranks
from splatseg.fit.geometry.state import FitState, Seen

log = logging.getLogger(__name__)


@torch.no_grad()
def added_up(state: FitState, seen: Seen | None, views: int, ranks: Ranks) -> Seen:
    """What all ranks have seen, and in the parameters the mean gradient over the ``views`` that draw each Gaussian.

    ``seen`` is None in a rank for which no view is left in the last step.
    """
    params = list(state.params.values())
    rows = len(params[0])
    widths = [param[0].numel() if param.dim() > 1 else 1 for param in params]
    # Blocks of columns: gradients, their squares, views that draw, pull, weights by mask; then the loss.
    buffer = params[0].new_zeros(rows * (2 * sum(widths) + 4) + 1)
    *sums, drawn, pull, left_out = _blocks(buffer[:-1], rows, [*widths, *widths, 1, 1, 2])
    gradients, squares = sums[: len(params)], sums[len(params) :]
    if seen is not None:
        for gradient, square, param in zip(gradients, squares, params, strict=True):
            assert param.grad is not None
            # What a term of the loss beside the photo says of Gaussians that the view does not draw is not asked.
            gradient.copy_(torch.where(seen.drawn[:, None], param.grad.reshape(rows, -1), 0.0))
            torch.mul(gradient, gradient, out=square)
        drawn[:, 0] = seen.drawn
        if seen.pull is not None:
            pull[:, 0] = seen.pull
        if seen.left_out is not None:
            left_out.copy_(seen.left_out)
        buffer[-1] = seen.loss
    ranks.sum_(buffer)
    counts = drawn.clamp_min(1)
    spread = {}
    for gradient, square, (name, param) in zip(gradients, squares, state.params.items(), strict=True):
        gradient.div_(counts)
        spread[name] = square.div_(counts).addcmul_(gradient, gradient, value=-1).clamp_min_(0)
        param.grad = gradient.reshape(param.shape)
    by_view = pull[:, 0] if state.by_gradient else None
    return Seen(buffer[-1] / views, drawn[:, 0], by_view, views, spread, left_out.clone())


def _blocks(buffer: Tensor, rows: int, widths: Sequence[int]) -> list[Tensor]:
    """Views of ``buffer`` as (rows, width) each."""
    return [part.view(rows, -1) for part in buffer.split([rows * width for width in widths])]


def keep_equal(state: FitState, steps: range, ranks: Ranks) -> None:
    """Before Gaussians come and go, see that all ranks have the same ones: different processors may round otherwise.

    Raises:
        SplatsegError: some have another number of Gaussians.
    """
    if ranks.alone or not any(step % state.config.refine_every == 0 for step in steps):
        return
    found = ranks.gather((len(state.params["means"]), _check_sum(state)))
    for rank, (count, _) in enumerate(found):
        if count != found[0][0]:
            raise SplatsegError(
                f"geometry: expected {found[0][0]:,} Gaussians in all ranks at step {steps[0]}, found {count:,} in "
                f"{ranks.name(rank)}"
            )
    if len(set(found)) > 1:
        log.warning("geometry: ranks' processors round differently; all go on with rank 0's Gaussians")
        with torch.no_grad():
            for param in state.params.values():
                ranks.copy_(param.data)


@torch.no_grad()
def _check_sum(state: FitState) -> int:
    """Of the parameters' bits."""
    words = (param.detach().contiguous().view(torch.int32).sum(dtype=torch.int64) for param in state.params.values())
    return int(torch.stack(list(words)).sum())


def same_random_numbers(ranks: Ranks) -> None:
    """From now on all ranks draw rank 0's random numbers."""
    if ranks.alone:
        return
    torch.set_rng_state(ranks.broadcast(torch.get_rng_state()))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(ranks.broadcast(torch.cuda.get_rng_state()))
