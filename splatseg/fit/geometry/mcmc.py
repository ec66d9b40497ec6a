"""Densification as sampling (Kheradmand et al., NeurIPS 2024), by gsplat's ``MCMCStrategy``, on any device.

gsplat 1.5.3 computes two of its formulas with CUDA kernels only. Both are small: PyTorch twins take their place, in
float64 where the kernel's alternating sum of binomials loses its digits in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gsplat.strategy.ops
import torch
from gsplat import MCMCStrategy
from gsplat.cuda._torch_impl import _quat_scale_to_covar_preci
from torch import Tensor


class Mcmc(MCMCStrategy):
    """``MCMCStrategy`` with :func:`compute_relocation` and gsplat's own PyTorch covariances."""

    def step_post_backward(self, *arguments: Any, **named: Any) -> None:
        """See gsplat."""
        with _pytorch_formulas():
            super().step_post_backward(*arguments, **named)


def compute_relocation(opacities: Tensor, scales: Tensor, ratios: Tensor, binoms: Tensor) -> tuple[Tensor, Tensor]:
    """Opacities and scales of a Gaussian that becomes ``ratios`` equal ones (eq. 9 of the paper).

    Args:
        opacities: (n,) in (0, 1).
        scales: (n, 3) standard deviations.
        ratios: (n,) integers, taken as at least 1 and at most the size of ``binoms``.
        binoms: (m, m) binomial coefficients.

    Returns:
        New opacities (n,) and scales (n, 3).
    """
    table = binoms.double()
    counts = ratios.clamp(1, len(table))
    before = opacities.double()
    after = 1 - (1 - before) ** (1 / counts)
    order = torch.arange(len(table), dtype=torch.float64, device=opacities.device)
    terms = torch.where(order % 2 == 0, 1.0, -1.0) / (order + 1).sqrt() * after[:, None] ** (order + 1)
    total = torch.zeros_like(before)
    for i in range(int(counts.max()) if len(counts) else 0):
        total += torch.where(counts > i, (terms[:, : i + 1] * table[i, : i + 1]).sum(dim=1), 0.0)
    return after.to(opacities.dtype), (scales * (before / total)[:, None]).to(scales.dtype)


@contextmanager
def _pytorch_formulas() -> Iterator[None]:
    """gsplat's strategies look both functions up in their module at each call."""
    module: Any = gsplat.strategy.ops
    names = {"compute_relocation": compute_relocation, "quat_scale_to_covar_preci": _quat_scale_to_covar_preci}
    originals = {name: getattr(module, name) for name in names}
    for name, function in names.items():
        setattr(module, name, function)
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(module, name, function)
