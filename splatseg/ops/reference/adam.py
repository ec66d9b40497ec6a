"""Specification of the Adam step in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def adam_(
    params: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    grad: Tensor,
    rows: Tensor | None,
    lr: Tensor | None,
    rates: Tensor,
    bad: Tensor | None,
    beta1: float,
    beta2: float,
    eps: float,
    norm_weight: float,
    clear: bool,
) -> None:
    """Adam (Kingma & Ba 2015, algorithm 1) on rows of ``params`` (n, d), in place; others keep value and averages.

    ``grad`` (parts, n, d) and ``rows`` (parts, n) uint8 come in parts: a row moves where one of them is set, and its
    gradient is the sum over those (all rows and parts if None). The gradient gains that of ``norm_weight * mean over
    all n rows of (|f| - 1)^2``, for those rows only. ``rates`` (2,) float64 = (lr / (1 - beta1^step),
    1 / sqrt(1 - beta2^step)); ``lr`` (d,) multiplies the first. With ``clear`` the rows' gradient and flags are zeroed
    afterwards. With ``bad`` () int64, rows whose gradient is not finite are left as they are, and it becomes the least
    of them, if lower.
    """
    step_size, v_scale = rates.tolist()
    n = params.shape[0]
    shown = torch.ones_like(grad[..., 0], dtype=torch.bool) if rows is None else rows != 0
    chosen = shown.any(dim=0).nonzero()[:, 0]
    g = torch.where(shown[:, chosen, None], grad[:, chosen], 0).sum(dim=0)
    if clear:
        grad[shown] = 0
        if rows is not None:
            rows.zero_()
    if bad is not None:
        finite = g.isfinite().all(dim=1)
        if not finite.all():
            bad.clamp_(max=int(chosen[~finite][0]))
        chosen, g = chosen[finite], g[finite]
    f = params[chosen]
    if norm_weight != 0:
        norm = f.norm(dim=1, keepdim=True)
        g = g + (2 * norm_weight / max(n, 1)) * torch.where(norm > 0, 1 - 1 / norm, 0) * f
    m = beta1 * exp_avg[chosen] + (1 - beta1) * g
    v = beta2 * exp_avg_sq[chosen] + (1 - beta2) * g * g
    rate = step_size if lr is None else lr * step_size
    params[chosen] = f - rate * m / (v.sqrt() * v_scale + eps)
    exp_avg[chosen], exp_avg_sq[chosen] = m, v
