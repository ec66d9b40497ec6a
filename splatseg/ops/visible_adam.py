"""Adam over the rows that were drawn, with a learning rate a column."""

from __future__ import annotations

import torch
from torch import Tensor

from splatseg.ops.extension import has_kernel
from splatseg.ops.reference import visible_adam as reference


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
    """One Adam step, in place, on the rows of ``param`` where ``visible``; others keep value and moments.

    The rule of 3DGS' sparse Adam (Mallick et al. 2024) with the bias correction of Kingma & Ba at the global step.

    Args:
        param: (n, k) float32 or float64, updated.
        grad: (n, k) gradient of ``param``.
        moments: running means of the gradient and of its square, (n, k) each, updated.
        lr: (k,) learning rate of each column.
        visible: (n,) bool, or None for all rows.
        step: number of this step, from 1.
    """
    if has_kernel("visible_adam_", param):
        torch.ops.splatseg.visible_adam_(param, grad, *moments, lr, visible, *betas, eps, step)
    else:
        reference.visible_adam_(param, grad, moments, lr, visible, step, betas, eps)
