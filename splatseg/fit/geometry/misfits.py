"""Photos that do not fit the others: their loss stays high, however the splat moves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FROM = 0.7  # share of the steps from which on losses count: the splat is nearly done, and every photo at full size
LEAST = 8  # photos: of fewer none can be told to be unlike the rest
FACTOR = 2.0  # times the loss of the median photo ...
SPREADS = 4.0  # ... and so many spreads of the logarithms beyond it: what a capture's photos differ by anyway


class PhotoLosses:
    """Summed loss of each of ``count`` photos late in a fit, and how often it was looked at: (count, 2) on ``device``.
    Nothing is rendered for it, and the host does not wait."""

    def __init__(self, count: int, device: torch.device | str) -> None:
        self.sums = torch.zeros(count, 2, device=device)

    def add(self, photo: int, loss: Tensor) -> None:
        """A step has looked at ``photo`` and found ``loss``, a scalar of the device."""
        self.sums[photo, 0] += loss
        self.sums[photo, 1] += 1

    def restore(self, saved: Tensor | None) -> None:
        """Take over what a checkpoint knows of as many photos."""
        if saved is not None and saved.shape == self.sums.shape:
            self.sums.copy_(saved)

    def misfits(self) -> list[tuple[int, float]]:
        """Photos that fit far worse than the others, worst first, and how many times the median photo's loss theirs
        is."""
        seen = (self.sums > 0).all(dim=1).cpu()  # a photo without a pixel that counts has no loss
        if int(seen.sum()) < LEAST:
            return []
        loss = (self.sums[:, 0] / self.sums[:, 1]).double().cpu().log()
        middle = loss[seen].median()
        spread = 1.4826 * (loss[seen] - middle).abs().median()  # of a normal distribution, by its median deviation
        beyond = loss - middle
        bound = max(math.log(FACTOR), SPREADS * float(spread))
        far = (seen & (beyond > bound)).nonzero()[:, 0].tolist()
        return sorted(((photo, float(beyond[photo].exp())) for photo in far), key=lambda one: -one[1])


def misfit_line(misfits: Sequence[tuple[int, float]], names: Sequence[str]) -> str:
    """What is said of them; empty where there are none."""
    if not misfits:
        return ""
    shown = ", ".join(f"{names[photo]} ({ratio:.1f} times)" for photo, ratio in misfits[:5])
    more = f" and {len(misfits) - 5} more" if len(misfits) > 5 else ""
    few = "1 photo does" if len(misfits) == 1 else f"{len(misfits)} photos do"
    return (
        f"geometry: {few} not fit the other {len(names) - len(misfits)}, by the loss of the median one: {shown}{more}; "
        "a wrong pose, something that moved, or another light? Left out of the capture they cannot blur the splat"
    )
