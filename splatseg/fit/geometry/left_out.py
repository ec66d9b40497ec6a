"""What the fit makes where photos are not compared: behind a capture's masks and where a photo is transparent.

No pixel there says anything, so that Gaussians which explain something at the rim of what does count stick out into it
as far as they like, and what drifts there stays. While the fit densifies, some pixels of the photos are traced: a
Gaussian most of whose weight lies in what is left out is removed, and what counts is fitted without it.
docs/evaluation/real_photos.md has the figures.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.ops.rasterize import RenderConfig
from splatseg.render import trace

PIXELS = 4096  # of a photo that are traced, about
LOOKED_EVERY = 4  # steps between two that trace
LEAST_WEIGHT = 1.0  # traced pixels' worth of weight below which nothing is known of a Gaussian


@torch.no_grad()
def weights_by_mask(gaussians: Gaussians, camera: Camera, fitted: Tensor) -> Tensor:
    """(n, 2) blending weight of each Gaussian in a grid of pixels that count, and in those of it that do not.

    Args:
        gaussians: n Gaussians.
        camera: of the photo.
        fitted: (height, width) bool, the pixels that count.
    """
    apart = max(math.isqrt(fitted.numel() // PIXELS), 1)
    rows, columns = (torch.arange(apart // 2, size, apart, device=fitted.device) for size in fitted.shape)
    pixels = torch.cartesian_prod(columns, rows)
    found = trace(gaussians.detach(), camera, pixels.to(torch.int32), config=RenderConfig(check_finite=False))
    counted = fitted[found.pixels[:, 1].long(), found.pixels[:, 0].long()]
    side = (~counted).long()[found.entry_rows()]
    sums = torch.zeros(len(gaussians), 2, device=fitted.device)
    return sums.index_put_((found.ids.long(), side), found.weights.float(), accumulate=True)


def mostly_left_out(weights: Tensor, share: float) -> Tensor:
    """(n,) bool: Gaussians with more than this share of their ``weights`` (n, 2) in pixels that do not count; none
    where ``share`` is 1, nor such as were hardly seen."""
    total = weights.sum(dim=1)
    return (total >= LEAST_WEIGHT) & (weights[:, 1] > share * total)
