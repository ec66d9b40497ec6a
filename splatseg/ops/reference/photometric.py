"""Specification of the photometric loss in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def as_image(target: Tensor, dtype: torch.dtype) -> Tensor:
    """``target`` in [0, 1]: uint8 stands for value / 255."""
    return target.to(dtype) / 255 if target.dtype == torch.uint8 else target.to(dtype)


def ssim_map(image: Tensor, target: Tensor) -> Tensor:
    """(h, w, c) SSIM (Wang et al. 2004, eq. 13) of each pixel's 11x11 Gaussian window (sigma 1.5), zeros outside."""
    offsets = torch.arange(WINDOW, dtype=image.dtype, device=image.device) - WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    window = window / window.sum()

    def blur(values: Tensor) -> Tensor:
        planes = values.permute(2, 0, 1)[:, None]
        planes = F.conv2d(planes, window.view(1, 1, -1, 1), padding=(WINDOW // 2, 0))
        return F.conv2d(planes, window.view(1, 1, 1, -1), padding=(0, WINDOW // 2))[:, 0].permute(1, 2, 0)

    mean_x, mean_y = blur(image), blur(target)
    variances = blur(image * image + target * target) - mean_x * mean_x - mean_y * mean_y
    covariance = blur(image * target) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x * mean_x + mean_y * mean_y + C1)
    return luminance * (2 * covariance + C2) / (variances + C2)


def photometric(image: Tensor, target: Tensor, ssim_weight: float) -> Tensor:
    """(1 - ssim_weight) * mean |image - target| + ssim_weight * (1 - mean SSIM); scalar."""
    target = as_image(target, image.dtype)
    l1 = (image - target).abs().mean()
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim_map(image, target).mean())
