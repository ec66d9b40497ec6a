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

    ``grad`` (parts, n, d) and ``touched`` (parts, n) uint8 come in parts: a row's gradient is the sum over them, and it
    is touched where one of them touched it. The gradient gains that of ``norm_weight * mean over all n rows of
    (|f| - 1)^2``, for the touched rows only. Rows whose gradient is not finite are left as they are. ``touched`` is
    cleared.

    Raises:
        ValueError: a gradient that is not finite; the finite rows have been updated.
    """
    rates = (lr / (1 - beta1**step), 1 / (1 - beta2**step) ** 0.5)
    bad = update_touched_(params, exp_avg, exp_avg_sq, grad, touched, rates, (beta1, beta2, eps, norm_weight))
    if bad is not None:
        raise ValueError(f"gradient: expected finite values, found others in row {bad}")


def sparse_adam_at_(
    params: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    grad: Tensor,
    touched: Tensor,
    rates: Tensor,
    bad: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    norm_weight: float,
) -> None:
    """The same with ``rates`` (2,) float64 = (lr / (1 - beta1^step), 1 / sqrt(1 - beta2^step)) read from memory.

    Raises nothing: ``bad`` () int64 becomes the least row, if lower than it was, whose gradient is not finite.
    """
    step_size, v_scale = rates.tolist()
    settings = (beta1, beta2, eps, norm_weight)
    found = update_touched_(params, exp_avg, exp_avg_sq, grad, touched, (step_size, v_scale), settings)
    if found is not None:
        bad.clamp_(max=found)


def update_touched_(
    params: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    grad: Tensor,
    touched: Tensor,
    rates: tuple[float, float],
    settings: tuple[float, float, float, float],
) -> int | None:
    """The step itself; returns the first row whose gradient is not finite, which keeps its values."""
    (step_size, v_scale), (beta1, beta2, eps, norm_weight) = rates, settings
    chosen = touched.any(dim=0).nonzero()[:, 0]
    sums = grad[:, chosen].sum(dim=0)
    finite = sums.isfinite().all(dim=1)
    bad, rows = chosen[~finite], chosen[finite]
    f, g = params[rows], sums[finite]
    norm = f.norm(dim=1, keepdim=True)
    pull = torch.where(norm > 0, 1 - 1 / norm, 0)
    g = g + (2 * norm_weight / max(params.shape[0], 1)) * pull * f
    m = beta1 * exp_avg[rows] + (1 - beta1) * g
    v = beta2 * exp_avg_sq[rows] + (1 - beta2) * g * g
    params[rows] = f - step_size * m / (v.sqrt() * v_scale + eps)
    exp_avg[rows], exp_avg_sq[rows] = m, v
    grad[:, chosen] = 0
    touched[:, chosen] = 0
    return int(bad[0]) if bad.numel() else None
