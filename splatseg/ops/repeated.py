"""A small step made many times: on CUDA as one captured graph, as its kernels are shorter than their launches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from splatseg.ops.replay import EAGER_STEPS, can_capture, captured


def repeat(step: Callable[[], object], count: int, like: Tensor) -> None:
    """Call ``step`` ``count`` times; on the device of ``like`` it may be captured and replayed instead.

    It must find all that changes from call to call in tensors of that device, change them in place, and never wait for
    the device. Where it cannot be captured, it is called as on any other device.
    """
    eager = min(count, EAGER_STEPS) if can_capture(like) else count
    for _ in range(eager):
        step()
    if eager == count:
        return
    try:
        again = captured(step).replay
    except RuntimeError:  # torch's errors of CUDA and of its allocator; nothing has run
        again = step
    for _ in range(count - eager):
        again()


class StepNumbers:
    """Rows of numbers, one a step, read on the device: :meth:`next` is the row of the step at hand, and goes on.

    Args:
        rows: (steps, k).
        device: where they are read.
    """

    def __init__(self, rows: Tensor, device: torch.device) -> None:
        self._rows = rows.to(device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)

    def next(self) -> Tensor:
        """(k,) numbers of this step."""
        row = self._rows.index_select(0, self._step)[0]
        self._step += 1
        return row
