"""Drawing without repetition on any device."""

from __future__ import annotations

import torch
from torch import Tensor

SHUFFLED = 4  # times as many candidates as are drawn: from there on the CPU does not shuffle them


def drawn(total: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` different numbers below ``total``, all choices alike, on the device of ``generator``.

    Of many a few are drawn on the CPU until enough of them differ: shuffling a photo's pixels takes longer there than
    tracing a pool. Elsewhere they are shuffled, which does not wait for the device.
    """
    device = generator.device
    if total < SHUFFLED * count or device.type != "cpu":
        return torch.randperm(total, generator=generator, device=device)[:count]
    found = torch.zeros(0, dtype=torch.int64)
    while len(found) < count:
        more = torch.randint(total, (count + count // SHUFFLED,), generator=generator)
        found = torch.cat([found, more]).unique()
    return found[torch.randperm(len(found), generator=generator)[:count]]
