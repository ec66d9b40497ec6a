"""Specification of ``trace`` in plain PyTorch: the reference rasterizer draws one-hot features.

A pixel's feature vector is then its row of blending weights. Memory grows with n x h x w: for tests and machines
without the extension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from splatseg.ops.projection import TILE
from splatseg.ops.reference.rasterize import rasterize


def row_order(pixels: Tensor, width: int) -> Tensor:
    """(m,) int64 permutation that sorts pixels (m, 2) by 16x16 tile, then Morton code in the tile, then input index."""
    x, y = pixels.long().unbind(1)
    columns = (width + TILE - 1) // TILE
    code = torch.zeros_like(x)
    for bit in range(4):
        code |= (x >> bit & 1) << (2 * bit) | (y >> bit & 1) << (2 * bit + 1)
    return torch.argsort((y // TILE * columns + x // TILE) * TILE * TILE + code, stable=True)


def trace(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    K: Tensor,
    cam_from_world: Tensor,
    pixels: Tensor,
    width: int,
    height: int,
    eps2d: float,
    near: float,
    far: float,
    min_weight: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The op's arguments and outputs: pixels (m, 2), order (m,), offsets (m + 1,), ids (e,), weights (e,)."""
    n = means.shape[0]
    view = (K, cam_from_world, means.new_zeros(3), width, height, 0, eps2d, near, far)
    one_hot = torch.eye(n, dtype=means.dtype, device=means.device)
    sh = means.new_zeros(n, 1, 3)
    weights = rasterize(means, quats, scales, opacities, sh, one_hot, None, None, *view)[3]
    order = row_order(pixels, width)
    chosen = pixels[order]
    depths = means @ cam_from_world.to(means)[2, :3] + cam_from_world.to(means)[2, 3]
    front_to_back = torch.argsort(depths, stable=True)
    dense = weights[chosen[:, 1].long(), chosen[:, 0].long()][:, front_to_back]
    kept = (dense >= min_weight) & (dense > 0)
    offsets = torch.cat([order.new_zeros(1), kept.sum(dim=1).cumsum(0)])
    return chosen, order, offsets, front_to_back[kept.nonzero()[:, 1]].to(torch.int32), dense[kept]
