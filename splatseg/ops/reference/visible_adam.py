"""Plain PyTorch twin of ``splatseg::visible_adam_``: the specification."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def visible_adam_(
    param: Tensor,
    grad: Tensor,
    moments: tuple[Tensor, Tensor],
    lr: Tensor,
    visible: Tensor | None,
    step: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
) -> None:
    """See :func:`splatseg.ops.visible_adam_`."""
    beta1, beta2 = betas
    rows = slice(None) if visible is None else visible
    exp_avg, exp_avg_sq = moments
    g = grad[rows]
    mean = beta1 * exp_avg[rows] + (1 - beta1) * g
    square = beta2 * exp_avg_sq[rows] + (1 - beta2) * g * g
    exp_avg[rows], exp_avg_sq[rows] = mean, square
    rate, root = 1 / (1 - beta1**step), 1 / (1 - beta2**step) ** 0.5
    param[rows] -= lr * rate * mean / (square.sqrt() * root + eps)
