"""Pixel pools of all views within a bound of memory, made when they are asked for, here or by other ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from splatseg.core.ahead import ahead
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import View
from splatseg.fit.malloc import Apart
from splatseg.fit.pixel_pools import PixelPool, SamplingConfig, sample_pool, sample_pools
from splatseg.masks.hierarchy import PatchHierarchy
from splatseg.ops.columns import column_bytes

HierarchyOf = Callable[[View], PatchHierarchy]


@dataclass
class PoolCache:
    """Pixel pools of all views, traced at first use. Their memory stays below ``sampling.memory_mb``.

    Each view may take an equal share of the bound. A first pool of a few pixels tells the bytes a pixel takes in this
    scene; the number of pixels a view is cut to fit. ``by_gaussian``: what is bounded are the pools with their
    :class:`~splatseg.ops.columns.PoolColumns`, which replayed steps make of them. ``together``: those of all views are
    needed at once, and made here.
    """

    gaussians: Gaussians
    views: Sequence[View]
    hierarchy_of: HierarchyOf
    config: SamplingConfig
    seed: int
    by_gaussian: bool = False
    together: bool = False
    prepare: Callable[[PixelPool], PixelPool] | None = None
    """What is done to a pool before it is kept."""
    arriving: Iterator[tuple[int, PixelPool | None]] = field(default_factory=lambda: iter(()))
    """Views and their pools that other ranks make, in the order in which they are asked for."""
    pixels: int = 0
    """Of a pool, at most; 0 before the first one."""
    _pools: dict[int, PixelPool | None] = field(default_factory=dict)
    _apart: Apart = field(default_factory=Apart)

    def get(self, index: int) -> PixelPool | None:
        """The pool of a view; None where the view has no masked pixel that shows a Gaussian."""
        while index not in self._pools:
            arrived, pool = next(self.arriving, (index, None))
            if arrived == index and pool is None:
                pool = self._make(index, self.hierarchy_of(self.views[index]))
            if pool is not None and self.prepare is not None:
                pool = self.prepare(pool)
            self._pools[arrived] = None if pool is None else pool.each(self._apart.copy)
        return self._pools[index]

    def once(self, numbers: Sequence[int] | None = None) -> Iterator[PixelPool | None]:
        """The pool of each view (of ``numbers``, in their order), for one use: none is kept. The next hierarchies are
        read meanwhile."""
        chosen = range(len(self.views)) if numbers is None else numbers
        absent = [self.views[index] for index in chosen if index not in self._pools]
        hierarchies = ahead(self.hierarchy_of, absent)
        for index in chosen:
            yield self._pools.pop(index) if index in self._pools else self._make(index, next(hierarchies))

    def another(self, index: int, hierarchy: PatchHierarchy, config: SamplingConfig) -> PixelPool | None:
        """A pool of ``config`` of a view, for one use. Where pools of all views are needed ``together`` the view's own
        is made with it and kept: both for one reading of the hierarchy and one projection of the splat."""
        wanted = [config, self._sampling(index, hierarchy)] if self.together else [config]
        draws = [(one, self.generator(index)) for one in wanted]
        pools = sample_pools(self.gaussians, self.views[index], hierarchy, draws)
        if self.together:
            self._pools[index] = pools[1]
        return pools[0]

    def settle(self, index: int) -> None:
        """Choose the number of pixels by a view, as its :meth:`get` would."""
        if not self.pixels:
            self.pixels = self._affordable(self.views[index], self.hierarchy_of(self.views[index]))

    def _make(self, index: int, hierarchy: PatchHierarchy) -> PixelPool | None:
        config = self._sampling(index, hierarchy)
        return sample_pool(self.gaussians, self.views[index], hierarchy, config, self.generator(index))

    def _sampling(self, index: int, hierarchy: PatchHierarchy) -> SamplingConfig:
        """Settings of the pools; the first view that is asked for decides the number of pixels."""
        if not self.pixels:
            self.pixels = self._affordable(self.views[index], hierarchy)
        return replace(self.config, pool_pixels=self.pixels, batch_pixels=min(self.config.batch_pixels, self.pixels))

    def _affordable(self, view: View, hierarchy: PatchHierarchy) -> int:
        probe = replace(self.config, pool_pixels=1024, batch_pixels=1)
        pool = sample_pool(self.gaussians, view, hierarchy, probe, self.generator(0))
        if pool is None:
            return self.config.pool_pixels
        # The factor allows for views that show more Gaussians per pixel than this one.
        columns = column_bytes(pool.contributions) if self.by_gaussian else 0
        per_pixel = 1.5 * (pool.nbytes + columns) / len(pool.patch)
        share = self.config.memory_mb * 2**20 / len(self.views)
        pixels, batch = max(1024, min(self.config.pool_pixels, int(share / per_pixel))), self.config.batch_pixels
        # Replayed batches share pixels where a pool is no multiple of them, and then take more memory than it.
        return pixels // batch * batch if self.by_gaussian and pixels > batch else pixels

    def generator(self, index: int) -> torch.Generator:
        """What draws the pixels of a view: the same ones every time."""
        return torch.Generator(self.gaussians.device).manual_seed(self.seed * 1_000_003 + index)

    def forget(self) -> None:
        """Drop all pools; they are traced again when asked for."""
        self._pools.clear()
        self._apart = Apart()

    @property
    def nbytes(self) -> int:
        """Bytes of the pools made so far."""
        return sum(pool.nbytes for pool in self._pools.values() if pool is not None)
