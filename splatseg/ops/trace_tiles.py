"""``trace_tiles``: blending weights of chosen pixels from projected Gaussians and the tile lists that gsplat makes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims
from splatseg.ops.contributions import Contributions
from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.projection import TILE
from splatseg.ops.reference import trace_tiles as reference
from splatseg.ops.reference.trace import row_order
from splatseg.ops.trace import check_min_weight, check_pixels

__all__ = ["TileLists", "trace_tiles"]


@dataclass(frozen=True, eq=False)
class TileLists:
    """Projected Gaussians and, for every 16x16 tile, those that may touch it, front to back.

    Attributes:
        means2d: (n, 2) float32 pixels.
        conics: (n, 3) float32 inverse covariances xx, xy, yy, per pixel^2.
        opacities: (n,) float32 in (0, 1).
        offsets: (tiles,) int32: where each tile's list starts in ``list``, row-major tiles, as gsplat's
            ``isect_offset_encode``; each ends where the next starts.
        list: (e,) int32 Gaussian ids, as gsplat's ``flatten_ids`` of one image, not packed.
    """

    means2d: Tensor
    conics: Tensor
    opacities: Tensor
    offsets: Tensor
    list: Tensor

    def __post_init__(self) -> None:
        sizes = check_dims("means2d", self.means2d, ("n", 2))
        check_dims("conics", self.conics, ("n", 3), sizes)
        check_dims("opacities", self.opacities, ("n",), sizes)
        check_dims("offsets", self.offsets, ("tiles",))
        check_dims("list", self.list, ("e",))
        expected = {torch.float32: ("means2d", "conics", "opacities"), torch.int32: ("offsets", "list")}
        for dtype, names in expected.items():
            for name in names:
                if getattr(self, name).dtype != dtype:
                    raise SplatsegError(f"{name}: expected {dtype}, found {getattr(self, name).dtype}")


@torch.no_grad()
def trace_tiles(
    lists: TileLists, size: tuple[int, int], pixels: Tensor, min_weight: float = 1e-3, check: bool = True
) -> Contributions:
    """Blending weights of ``pixels`` as gsplat's rasterizer blends them: same order, cut-offs and arithmetic.

    Every pixel walks its tile's list on its own, so the work grows with the pixels asked for, not with the image. Rows
    come in the order of :func:`splatseg.ops.trace`. Deterministic.

    Args:
        lists: of one view.
        size: (width, height) of the image, pixels.
        pixels: (m, 2) integer [column, row], in any order, repeats allowed.
        min_weight: least weight kept, in [0, 1]; 0 keeps all.
        check: whether the pixels are looked at, for which the host waits. Those outside the image are an error then,
            and must not be given else.

    Raises:
        SplatsegError: a pixel outside the image, a wrong number of tiles, or a setting out of range.
    """
    check_min_weight(min_weight)
    if check:
        check_pixels(pixels, size)
    columns, rows = (-(-side // TILE) for side in size)
    if lists.offsets.numel() != columns * rows:
        raise SplatsegError(f"offsets: expected {columns}x{rows} tiles, found {lists.offsets.numel()}")
    across, down = pixels.long().unbind(1)
    order = pixel_ranks(size, pixels.device)[down * size[0] + across].argsort(stable=True)
    chosen = pixels[order].to(torch.int32)
    run: Any = torch.ops.splatseg.trace_tiles if has_kernel("trace_tiles", lists.means2d) else reference.trace_tiles
    tensors = (lists.means2d, lists.conics, lists.opacities, lists.offsets, lists.list)
    return Contributions(chosen, order, *run(*tensors, chosen, columns, min_weight))


@lru_cache(maxsize=2)
def pixel_ranks(size: tuple[int, int], device: torch.device) -> Tensor:
    """(h w,) int32 place of each pixel, row-major, among all of an image of ``size`` = (width, height) in
    :func:`~splatseg.ops.reference.trace.row_order`; kept for the last two sizes, as the views of a capture mostly have
    one."""
    width, height = size
    numbers = torch.arange(width * height, device=device)
    ranks = torch.empty(width * height, dtype=torch.int32, device=device)
    ranks[row_order(torch.stack([numbers % width, numbers // width], dim=1), width)] = numbers.int()
    return ranks


def _fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    means2d, pixels = args[0], args[5]
    entries = torch.library.get_ctx().new_dynamic_size()
    offsets = pixels.new_empty(pixels.shape[0] + 1, dtype=torch.int64)
    return offsets, pixels.new_empty(entries), means2d.new_empty(entries)


if compiled():
    torch.library.register_fake("splatseg::trace_tiles", _fake)
