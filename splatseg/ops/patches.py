"""Masks to patches (OmniSeg3D section 3.2): the finest pieces that overlapping masks cut an image into.

The membership of a pixel is the set of masks it lies in; a patch is the set of pixels of one membership.
"""

from __future__ import annotations

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims
from splatseg.ops import extension
from splatseg.ops.reference import patches as reference


def patches(counts: Tensor, offsets: Tensor, height: int, width: int, nesting: float = 1.0) -> tuple[Tensor, Tensor]:
    """Patch map and membership bits of n run-length encoded masks, exact, without holding the masks at full size.

    Args:
        counts: (r,) int32 run lengths of all masks, one after the other; each mask's column by column, zeros first.
        offsets: (n + 1,) int64, mask m owns ``counts[offsets[m]:offsets[m + 1]]``, which sum to height * width.
        height: image rows.
        width: image columns.
        nesting: masks in turn absorb (are united with) those before them, in turn, of which they cover more than this
            share, both as grown by then: the published order of steps. 1 turns it off.

    Returns:
        (height, width) int32 patch ids: 0 in no mask, then by first pixel, column by column; and (p, words) int64
        membership, bit m % 64 of word m // 64 of row k: mask m contains patch k. Row 0 is zero whether or not a pixel
        has id 0; the other rows are distinct, not zero and have pixels. words = max(1, ceil(n / 64)).

    Raises:
        SplatsegError: wrong shapes or types, run lengths that are negative or of another sum, nesting not in (0, 1].
    """
    check_dims("counts", counts, ("r",))
    check_dims("offsets", offsets, ("n + 1",))
    if counts.dtype != torch.int32 or offsets.dtype != torch.int64:
        raise SplatsegError(f"counts, offsets: expected int32 and int64, found {counts.dtype} and {offsets.dtype}")
    if height < 1 or width < 1 or height * width >= 2**31:
        raise SplatsegError(f"height, width: expected 1 to 2^31 - 1 pixels, found {width}x{height}")
    if not 0 < nesting <= 1:
        raise SplatsegError(f"nesting: expected a share in (0, 1], found {nesting}")
    _check_runs(counts, offsets, height * width)
    if extension.has_kernel("patches", counts):
        return torch.ops.splatseg.patches(counts, offsets, height, width, nesting)
    return reference.patches(counts, offsets, height, width, nesting)


def _check_runs(counts: Tensor, offsets: Tensor, pixels: int) -> None:
    """Refuse run lengths that would leave the image: the kernel trusts them."""
    bounds = offsets.tolist()
    if not bounds or bounds[0] != 0 or bounds[-1] != len(counts) or bool((offsets.diff() < 0).any()):
        raise SplatsegError(f"offsets: expected ascending positions from 0 to {len(counts)}, found others")
    if bool((counts < 0).any()):
        raise SplatsegError(f"counts: expected run lengths >= 0, found {int(counts.min())}")
    sums = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0, dtype=torch.int64)])[offsets].diff()
    wrong = (sums != pixels).nonzero()
    if len(wrong):
        mask = int(wrong[0])
        raise SplatsegError(f"counts: expected the runs of mask {mask} to sum to {pixels}, found {int(sums[mask])}")


def _patches_fake(counts: Tensor, offsets: Tensor, height: int, width: int, nesting: float) -> tuple[Tensor, Tensor]:
    found = torch.library.get_ctx().new_dynamic_size()
    words = max(1, (offsets.shape[0] - 1 + 63) // 64)
    return counts.new_empty((height, width)), offsets.new_empty((found, words))


if extension.compiled():
    torch.library.register_fake("splatseg::patches", _patches_fake)
