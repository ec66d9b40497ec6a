"""Specification of the sparse Adam step in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def sparse_adam_(
    params: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    grad: Tensor,
    touched: Tensor,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    norm_weight: float,
) -> None:
    """Adam (Kingma & Ba 2015, algorithm 1) on the rows with ``touched`` != 0, in place; then zero those of ``grad``.

    The gradient gains that of ``norm_weight * mean over all n rows of (|f| - 1)^2``, for the touched rows only. Rows
    whose gradient is not finite are left as they are. ``touched`` is cleared.

    Raises:
        ValueError: a gradient that is not finite; the finite rows have been updated.
    """
    chosen = touched.nonzero()[:, 0]
    finite = grad[chosen].isfinite().all(dim=1)
    bad, rows = chosen[~finite], chosen[finite]
    f, g = params[rows], grad[rows]
    norm = f.norm(dim=1, keepdim=True)
    pull = torch.where(norm > 0, 1 - 1 / norm, 0)
    g = g + (2 * norm_weight / max(params.shape[0], 1)) * pull * f
    m = beta1 * exp_avg[rows] + (1 - beta1) * g
    v = beta2 * exp_avg_sq[rows] + (1 - beta2) * g * g
    denominator = v.sqrt() / (1 - beta2**step) ** 0.5 + eps
    params[rows] = f - lr / (1 - beta1**step) * m / denominator
    exp_avg[rows], exp_avg_sq[rows] = m, v
    grad[chosen] = 0
    touched[chosen] = 0
    if bad.numel():
        raise ValueError(f"gradient: expected finite values, found others in row {int(bad[0])}")
