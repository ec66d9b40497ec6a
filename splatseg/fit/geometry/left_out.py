"""What the fit makes where photos are not compared: behind a capture's masks and where a photo is transparent.

No pixel there says anything, so that Gaussians which explain something at the rim of what does count stick out into it
as far as they like, and what drifts there stays. While the fit densifies, some pixels of the photos are traced: a
Gaussian most of whose weight lies in what is left out is removed, and what counts is fitted without it. All photos have
their say first, also those without a mask: what one of them leaves out may be seen in another.
docs/evaluation/real_photos.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.core.photos import has_alpha
from splatseg.core.scene import View
from splatseg.fit.geometry.config import GeometryConfig
from splatseg.ops.rasterize import RenderConfig
from splatseg.render import trace

PIXELS = 4096  # of a photo that are traced, about
ROUNDS = 3  # in which all photos are looked at while the fit densifies, if it passes over them that often
SELDOM = 4  # passes in which a photo is looked at once, at most
LEAST_WEIGHT = 1.0  # traced pixels' worth of weight below which nothing is known of a Gaussian


def leave_something_out(views: Sequence[View]) -> bool:
    """Whether a photo of them has a mask, or alpha."""
    masked = any(view.mask_path is not None for view in views)
    return masked or any(has_alpha(view.image_path, view.name) for view in views)


@dataclass(frozen=True)
class Looks:
    """When a photo is traced, and when what was found is acted on: once all have been looked at since the last time.

    Attributes:
        photos: how many there are; a step takes one, and a pass all.
        passes: in each of so many a part of the photos is looked at, every one once.
    """

    photos: int
    passes: int

    @classmethod
    def at_views(cls, views: Sequence[View], config: GeometryConfig) -> Looks | None:
        """Those of a fit to ``views``; None where they leave nothing out, or nothing would be removed for it."""
        if config.left_out == 1 or config.strategy == "mcmc" or not leave_something_out(views):
            return None
        return cls.of(len(views), int(config.refine_stop * config.steps))

    @classmethod
    def of(cls, photos: int, steps: int) -> Looks:
        """For a fit that densifies for so many ``steps``."""
        return cls(photos, min(max(steps // (ROUNDS * photos), 1), SELDOM))

    def at(self, step: int, photo: int) -> bool:
        """Whether a step looks at its ``photo``."""
        return (step // self.photos + photo) % self.passes == 0

    def complete(self, step: int, since: int) -> bool:
        """Whether a round has ended at ``step`` or before, after the step ``since``."""
        round_ = self.photos * self.passes
        return step // round_ > max(since, 0) // round_


@torch.no_grad()
def weights_by_mask(gaussians: Gaussians, camera: Camera, fitted: Tensor | None) -> Tensor:
    """(n, 2) blending weight of each Gaussian in a grid of pixels that count, and in those of it that do not.

    Args:
        gaussians: n Gaussians.
        camera: of the photo.
        fitted: (height, width) bool, the pixels that count; None for all.
    """
    if fitted is None:
        fitted = torch.ones(camera.height, camera.width, dtype=torch.bool, device=gaussians.device)
    apart = max(math.isqrt(fitted.numel() // PIXELS), 1)
    rows, columns = (torch.arange(apart // 2, size, apart, device=fitted.device) for size in fitted.shape)
    pixels = torch.cartesian_prod(columns, rows)
    found = trace(gaussians.detach(), camera, pixels.to(torch.int32), config=RenderConfig(check_finite=False))
    side = (~fitted[pixels[:, 1], pixels[:, 0]]).long()
    return found.add_by_label(torch.zeros(len(gaussians), 2, device=fitted.device), side)


def mostly_left_out(weights: Tensor, share: float) -> Tensor:
    """(n,) bool: Gaussians with more than this share of their ``weights`` (n, 2) in pixels that do not count; none
    where ``share`` is 1, nor such as were hardly seen."""
    total = weights.sum(dim=1)
    return (total >= LEAST_WEIGHT) & (weights[:, 1] > share * total)
