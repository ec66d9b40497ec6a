"""How much memory the stages of a fit take, by the numbers that are known before it begins.

Bounds of what ``benchmarks/growth.py`` measured, which large scenes come near to: a tenth above the highest peaks with
one and with six million Gaussians (runs differ in how much of what is freed is taken again). What depends on the data
(how many Gaussians lie in no segment, how many masks each lies in) is taken from there, too.
docs/guides/several-machines.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from splatseg.fit.blocks.fit import block_limit
from splatseg.fit.geometry.photos import CACHE_BYTES
from splatseg.fit.settings import FitConfig

DRAWN = 150  # bytes for each Gaussian while one view is drawn or traced: projected, sorted, listed by tile
IMAGE = 60  # ... for each pixel of the view that is fitted to: render, its gradient, the loss's windows
SEEN = 160  # ... for each pixel that the evidence looks at: Gaussians that it shows, masks that each lies in
SEEN_OF_ONE = 8  # ... for each view and Gaussian at most, where pixels show the same few
POOLED, POOLED_MOST = 140, 260  # ... for each pixel of a pool: more Gaussians lie behind one in a larger splat
POOLED_MORE = 1e-4  # ... by so much for each Gaussian
REUSED = 1.35  # times the pools, where they are bounded: what is freed and taken again in other sizes
MOVED = 0.5  # share of the Gaussians that lie in no segment, or that no view sees
JOINED = 5  # times its splat, while a block is joined to others: as read, as drawn, the gradient, what moves
NEIGHBORS = 440  # ... for each Gaussian while labels look at its neighbors and are written
LEAVES, LEAVES_OF_ONE = 3.2e8, 1200  # ... for tables of every two leaves; of few Gaussians for each of them


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
    field = 4 * features.dim * n
    return {
        "geometry": max(
            copies * fitted.splat + DRAWN * fitted.gaussians + photos + IMAGE * size.pixels,
            2 * size.splat if blocks > 1 else 0,
        ),
        "features": size.splat + DRAWN * n + _features(config) * field + _evidence(size, config) + _pools(size, config),
        "labels": size.splat + 2 * field + NEIGHBORS * n + min(LEAVES, LEAVES_OF_ONE * n),
    }


def _features(config: FitConfig) -> float:
    """How many times the features are held: as they are, as codes, and five times what steps move (values, gradient,
    averages, one for each half of a batch)."""
    codes = config.features.init == "segments"
    return 1 + codes + (5 * MOVED if codes and config.features.hold_segments else 4)


def _evidence(size: FitSize, config: FitConfig) -> float:
    """Bytes of what masks of all views say. They are free before the first step, but pools have other sizes."""
    if config.features.init != "segments":
        return 0.0
    clustering = config.features.mask_clustering
    pixels = min(clustering.pixels, clustering.total_pixels / max(size.views, 1))
    return size.views * min(SEEN * pixels, SEEN_OF_ONE * size.gaussians)


def _pools(size: FitSize, config: FitConfig) -> float:
    """Bytes of the pools of all views that steps look at."""
    sampling = config.features.sampling
    pixels = sampling.pool_pixels * min(size.views, config.features.steps)
    pooled = min(POOLED + POOLED_MORE * size.gaussians, POOLED_MOST) * pixels
    return min(pooled, REUSED * sampling.memory_mb * 2**20)


def geometry_of_ranks(size: FitSize, config: FitConfig, blocks: int = 1) -> float:
    """Bytes that the geometry takes in each of several ranks: of one block all take steps together, and sum gradients
    and their squares in a buffer; of more each fits its own."""
    return stage_needs(size, config, blocks)["geometry"] + (2 * size.splat if blocks == 1 else 0)


def helping_needs(size: FitSize, config: FitConfig, blocks: int = 1) -> dict[str, float]:
    """Bytes that each stage takes in every rank but the first (:mod:`splatseg.core.ranks`), which labels alone."""
    return {
        "geometry": geometry_of_ranks(size, config, blocks),
        "features": size.splat + DRAWN * size.gaussians + _pools(size, config),
    }
