"""How much memory the stages of a fit take, by the numbers that are known before it begins.

Least figures, measured by ``benchmarks/growth.py``: what depends on the data (how many Gaussians lie in no segment, how
many masks each lies in) is left out or taken from photos of rooms. docs/guides/several-machines.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from splatseg.fit.blocks.fit import block_limit
from splatseg.fit.geometry.photos import CACHE_BYTES
from splatseg.fit.settings import FitConfig

DRAWN = 150  # bytes for each Gaussian while one view is drawn or traced: projected, sorted, listed by tile
IMAGE = 60  # ... for each pixel of the view that is fitted to: render, its gradient, the loss's windows
SEEN = 100  # ... for each pixel that the evidence looks at: Gaussians that it shows, masks that each lies in
POOLED = 190  # ... for each pixel of a pool
JOINED = 5  # times its splat, while a block is joined to others: as read, as drawn, the gradient, what moves
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


def stage_needs(size: FitSize, config: FitConfig, blocks: int = 1) -> dict[str, float]:
    """Bytes that each stage takes at its peak, the splat included, interpreter and libraries not; the geometry is
    fitted in so many ``blocks``, one at a time, and put together then."""
    n, features = size.gaussians, config.features
    fitted = replace(size, gaussians=block_limit(n, blocks))
    copies = 4 if blocks == 1 else JOINED
    photos = min(3 * size.pixels * size.views, CACHE_BYTES)
    looked_at = min(features.mask_clustering.pixels * size.views, features.mask_clustering.total_pixels)
    pools = min(
        POOLED * features.sampling.pool_pixels * min(size.views, features.steps), features.sampling.memory_mb * 2**20
    )
    field = 4 * features.dim * n
    trained = 0 if features.init == "segments" and features.hold_segments else 4 * field
    return {
        "geometry": max(
            copies * fitted.splat + DRAWN * fitted.gaussians + photos + IMAGE * size.pixels,
            2 * size.splat if blocks > 1 else 0,
        ),
        "features": size.splat + field + DRAWN * n + max(SEEN * looked_at, pools + trained),
        "labels": size.splat + 2 * field + NEIGHBORS * n,
    }


def geometry_of_ranks(size: FitSize, config: FitConfig, blocks: int = 1) -> float:
    """Bytes that the geometry takes in each of several ranks: of one block all take steps together, and sum gradients
    and their squares in a buffer; of more each fits its own."""
    return stage_needs(size, config, blocks)["geometry"] + (2 * size.splat if blocks == 1 else 0)


def helping_needs(size: FitSize, config: FitConfig, blocks: int = 1) -> dict[str, float]:
    """Bytes that each stage takes in every rank but the first (:mod:`splatseg.core.ranks`), which labels alone."""
    sampling = config.features.sampling
    pools = min(POOLED * sampling.pool_pixels * min(size.views, config.features.steps), sampling.memory_mb * 2**20)
    return {
        "geometry": geometry_of_ranks(size, config, blocks),
        "features": size.splat + DRAWN * size.gaussians + pools,
    }
