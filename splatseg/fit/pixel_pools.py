"""Pixel pools: sampled pixels of a view with their patches and cached blending weights, and batches drawn from them.

Geometry is frozen in the feature stage, so the weights of a pixel never change: a pool is traced once and sampled many
times. A pool of m pixels takes about 190 bytes per pixel (some 30 contributions of 4 bytes id and 2 bytes weight).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import View
from splatseg.masks.hierarchy import PatchHierarchy
from splatseg.ops import Contributions, blend
from splatseg.ops.drawing import drawn
from splatseg.render import RenderConfig, Tracer, tracer

UNCHECKED = RenderConfig(check_finite=False)
"""The splat of a fit is looked at once (:class:`~splatseg.fit.features.FeatureTrainer`), not in every view."""


@dataclass(frozen=True)
class SamplingConfig:
    """How pixels are drawn."""

    pool_pixels: int = 32768
    """Pixels traced and kept a view."""
    batch_pixels: int = 32768
    """Pixels a step, drawn from one view's pool without repetition."""
    min_weight: float = 1e-3
    """Blending weights below are dropped."""
    memory_mb: int = 1024
    """Bound on all pools together; ``pool_pixels`` is reduced to keep it."""
    unmasked: bool = False
    """Draw from all pixels, not only from those in a mask. Batches leave the others out, but the pool then tells what a
    view shows outside its masks: without, the mask of one lemon passes for that of two where the second has none."""

    def __post_init__(self) -> None:
        if not 1 <= self.batch_pixels <= self.pool_pixels:
            raise SplatsegError(
                f"sampling.batch_pixels: expected 1..pool_pixels ({self.pool_pixels}), found {self.batch_pixels}"
            )


@dataclass(frozen=True, eq=False)
class PixelPool:
    """Sampled pixels of one view.

    Attributes:
        contributions: blending weights, one row per pixel.
        rows: (k,) int64 rows in a mask that show at least one Gaussian, ascending; batches are drawn from them.
        patch: (m,) int64 patch of each row of ``contributions``, compact: 1..p over the patches that occur, 0 for
        pixels in no mask.
        membership: (p + 1, words) int64 mask bits of those patches; row 0 is zero.
        base: (m, d) what Gaussians whose features are held give each row, and ``contributions`` leaves out
            (:meth:`without`); None where none are.
    """

    contributions: Contributions
    rows: Tensor
    patch: Tensor
    membership: Tensor
    base: Tensor | None = None

    def __len__(self) -> int:
        return self.rows.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory of the pool, in bytes."""
        held = 0 if self.base is None else self.base.nbytes
        return self.contributions.nbytes + sum(t.nbytes for t in (self.rows, self.patch, self.membership)) + held

    def each(self, act: Callable[[Tensor], Tensor]) -> PixelPool:
        """The pool with each of its tensors as ``act`` returns it."""
        base = None if self.base is None else act(self.base)
        return PixelPool(self.contributions.each(act), act(self.rows), act(self.patch), act(self.membership), base)

    def without(self, number: Tensor, features: Tensor) -> PixelPool:
        """The pool as steps read it that move some Gaussians only: what the others give a pixel never changes.

        Args:
            number: (n,) int32 place of a Gaussian among those that move, -1 of one that is held.
            features: (n, d) of all of them.
        """
        places = number[self.contributions.ids.long()]
        base = blend(self.contributions.only(places < 0), features)
        moving = self.contributions.only(places >= 0)
        return replace(self, contributions=replace(moving, ids=places[places >= 0]), base=base)

    def blended(self, features: Tensor, rows: Tensor) -> Tensor:
        """(r, d) blended features of ``rows``; ``features`` are those of the Gaussians in ``contributions``."""
        found = blend(self.contributions, features, rows)
        return found if self.base is None else found + self.base[rows]


@dataclass(frozen=True, eq=False)
class PixelBatch:
    """``rows`` (n,) int64, ascending, of a pool and their ``patch`` (n,) int64 (compact ids of that pool)."""

    rows: Tensor
    patch: Tensor


def sample_pool(
    gaussians: Gaussians, view: View, hierarchy: PatchHierarchy, config: SamplingConfig, generator: torch.Generator
) -> PixelPool | None:
    """Draw pixels uniformly from those in a mask (``config.unmasked``: from all), and trace them, on the device of
    ``gaussians``, whose values are taken to be finite.

    ``generator`` may be of that device or of the CPU.

    None where no such pixel shows a Gaussian (an image without masks).

    Raises:
        SplatsegError: hierarchy and view differ in size.
    """
    return sample_pools(gaussians, view, hierarchy, [(config, generator)])[0]


def sample_pools(
    gaussians: Gaussians,
    view: View,
    hierarchy: PatchHierarchy,
    wanted: Sequence[tuple[SamplingConfig, torch.Generator]],
) -> list[PixelPool | None]:
    """:func:`sample_pool` with several settings, for one reading of the hierarchy and one projection of the splat."""
    size = (view.camera.width, view.camera.height)
    if tuple(hierarchy.patch_ids.shape) != size[::-1]:
        raise SplatsegError(
            f"hierarchy of view '{view.name}': expected {size[0]}x{size[1]} pixels, "
            f"found {hierarchy.patch_ids.shape[1]}x{hierarchy.patch_ids.shape[0]}"
        )
    device = gaussians.device
    flat, membership = hierarchy.patch_ids.flatten().to(device), hierarchy.membership.to(device)
    shown = _ViewPatches(flat, size[0], membership, tracer(gaussians, view.camera, UNCHECKED))
    return [_sample(shown, config, generator) for config, generator in wanted]


@dataclass(frozen=True, eq=False)
class _ViewPatches:
    """``ids`` (h w,) int32 and ``membership`` (p, words) of a view's patches, both on the splat's device, the ``width``
    of its image, and what traces it."""

    ids: Tensor
    width: int
    membership: Tensor
    trace: Tracer


def _sample(view: _ViewPatches, config: SamplingConfig, generator: torch.Generator) -> PixelPool | None:
    flat, device = view.ids, view.ids.device
    masked = None if config.unmasked else flat.nonzero()[:, 0]
    total = len(flat if masked is None else masked)
    if total > config.pool_pixels:
        chosen = drawn(total, config.pool_pixels, generator).to(device)
        candidates = chosen if masked is None else masked[chosen]
    else:
        candidates = torch.arange(total, device=device) if masked is None else masked
    pixels = torch.stack([candidates % view.width, candidates // view.width], dim=1).to(torch.int32)
    contributions = view.trace(pixels, config.min_weight)
    ids = flat[candidates[contributions.order]].long()
    rows = ((contributions.counts > 0) & (ids > 0)).nonzero()[:, 0]
    if len(rows) == 0:
        return None
    present = torch.zeros(len(view.membership), dtype=torch.bool, device=device)
    present[ids] = True
    present[0] = True
    return PixelPool(contributions.half(), rows, (present.cumsum(0) - 1)[ids], view.membership[present])


def draw_batch(pool: PixelPool, count: int, generator: torch.Generator) -> PixelBatch:
    """``count`` rows of the pool without repetition (all of them where the pool is smaller), ascending."""
    size = len(pool)
    rows = pool.rows
    if count < size:
        chosen = torch.zeros(size, dtype=torch.bool)
        chosen[torch.randperm(size, generator=generator)[:count]] = True
        rows = rows[chosen.nonzero()[:, 0].to(rows.device)]
    return PixelBatch(rows, pool.patch[rows])
