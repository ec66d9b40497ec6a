"""Specification of ``trace_tiles`` in plain PyTorch: gsplat's blending loop, one pixel and one Gaussian at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from splatseg.ops.projection import TILE
from splatseg.ops.reference.rasterize import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE


def trace_tiles(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    tile_offsets: Tensor,
    tile_list: Tensor,
    pixels: Tensor,
    columns: int,
    min_weight: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The op's arguments and outputs: offsets (m + 1,), ids (e,), weights (e,) of ``pixels`` (m, 2), in their order."""
    ends = torch.cat([tile_offsets[1:], tile_offsets.new_tensor([tile_list.numel()])])
    counts, ids, weights = [0], [], []
    for x, y in pixels.tolist():
        tile = y // TILE * columns + x // TILE
        members = tile_list[int(tile_offsets[tile]) : int(ends[tile])].long()
        dx, dy = means2d[members, 0] - (x + 0.5), means2d[members, 1] - (y + 0.5)
        conic = conics[members]
        sigma = 0.5 * (conic[:, 0] * dx * dx + conic[:, 2] * dy * dy) + conic[:, 1] * dx * dy
        alpha = (opacities[members] * torch.exp(-sigma)).clamp_max(MAX_ALPHA)
        shown = ((sigma >= 0) & (alpha >= MIN_ALPHA)).nonzero()[:, 0]
        found = blend_alphas(alpha[shown].tolist(), min_weight)
        ids += [int(members[shown[k]]) for k, _ in found]
        weights += [weight for _, weight in found]
        counts.append(len(found))
    device = means2d.device
    offsets = torch.tensor(counts, device=device).cumsum(0)
    return offsets, torch.tensor(ids, dtype=torch.int32, device=device), means2d.new_tensor(weights)


def blend_alphas(alphas: list[float], min_weight: float) -> list[tuple[int, float]]:
    """(position, weight) of the ``alphas``, front to back, that are kept; the pixel ends at transmittance 1e-4."""
    transmittance, found = 1.0, []
    for k, alpha in enumerate(alphas):
        after = transmittance * (1 - alpha)
        if after <= MIN_TRANSMITTANCE:
            break
        if alpha * transmittance >= min_weight:
            found.append((k, alpha * transmittance))
        transmittance = after
    return found
