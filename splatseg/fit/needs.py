"""How much memory the stages of a fit take, by the numbers that are known before it begins.

Least figures, measured by ``benchmarks/growth.py``: what depends on the data (how many Gaussians lie in no segment, how
many masks each lies in) is left out or taken from photos of rooms. docs/guides/several-machines.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from splatseg.fit.geometry.photos import CACHE_BYTES
from splatseg.fit.settings import FitConfig

DRAWN = 150  # bytes for each Gaussian while one view is drawn or traced: projected, sorted, listed by tile
IMAGE = 60  # ... for each pixel of the view that is fitted to: render, its gradient, the loss's windows
SEEN = 100  # ... for each pixel that the evidence looks at: Gaussians that it shows, masks that each lies in
POOLED = 190  # ... for each pixel of a pool
NEIGHBORS = 200  # ... for each Gaussian while labels look at its neighbors


@dataclass(frozen=True)
class FitSize:
    """What is fitted to: Gaussians, their SH coefficients, views, pixels of the largest view."""

    gaussians: int
    coefficients: int
    views: int
    pixels: int

    @property
    def splat(self) -> int:
        """Bytes of the splat itself."""
        return 4 * (11 + 3 * self.coefficients) * self.gaussians


def stage_needs(size: FitSize, config: FitConfig) -> dict[str, float]:
    """Bytes that each stage takes at its peak, the splat included, interpreter and libraries not."""
    n, features = size.gaussians, config.features
    photos = min(3 * size.pixels * size.views, CACHE_BYTES)
    looked_at = min(features.mask_clustering.pixels * size.views, features.mask_clustering.total_pixels)
    pools = min(
        POOLED * features.sampling.pool_pixels * min(size.views, features.steps), features.sampling.memory_mb * 2**20
    )
    field = 4 * features.dim * n
    trained = 0 if features.init == "segments" and features.hold_segments else 4 * field
    return {
        "geometry": 4 * size.splat + DRAWN * n + photos + IMAGE * size.pixels,
        "features": size.splat + field + DRAWN * n + max(SEEN * looked_at, pools + trained),
        "labels": size.splat + 2 * field + NEIGHBORS * n,
    }


def shared_geometry(size: FitSize, config: FitConfig) -> float:
    """Bytes that the geometry takes in each of several ranks: gradients and their squares are summed in a buffer."""
    return stage_needs(size, config)["geometry"] + 2 * size.splat


def helping_needs(size: FitSize, config: FitConfig) -> dict[str, float]:
    """Bytes that each stage takes in every rank but the first (:mod:`splatseg.core.ranks`), which labels alone."""
    sampling = config.features.sampling
    pools = min(POOLED * sampling.pool_pixels * min(size.views, config.features.steps), sampling.memory_mb * 2**20)
    return {"geometry": shared_geometry(size, config), "features": size.splat + DRAWN * size.gaussians + pools}
