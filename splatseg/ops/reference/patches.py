"""Plain PyTorch specification of ``splatseg::patches``. Holds all masks at full size."""

from __future__ import annotations

import torch
from torch import Tensor


def decode_runs(counts: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    """(n, height * width) bool masks, column by column, of run lengths (zeros first)."""
    masks = torch.zeros(len(offsets) - 1, height * width, dtype=torch.bool)
    for mask, start, end in zip(masks, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        runs = counts[start:end].long()
        mask[:] = torch.repeat_interleave(torch.arange(len(runs)) % 2 == 1, runs)
    return masks


def absorb(masks: Tensor, nesting: float) -> Tensor:
    """(n, pixels) bool: each mask in turn united with the earlier ones, in turn, it covers more than ``nesting`` of."""
    grown = masks.clone()
    for j in range(len(grown)):
        for i in range(j):
            if int((grown[i] & grown[j]).sum()) > nesting * int(grown[i].sum()):
                grown[j] |= grown[i]
    return grown


def pack_bits(bits: Tensor) -> Tensor:
    """(p, n) bool -> (p, words) int64, bit m of a row in word m // 64; at least one word."""
    words = max(1, -(-bits.shape[1] // 64))
    padded = torch.zeros(len(bits), words * 64, dtype=torch.int64)
    padded[:, : bits.shape[1]] = bits
    return (padded.reshape(len(bits), words, 64) << torch.arange(64)).sum(2)


def unpack_bits(membership: Tensor) -> Tensor:
    """(p, words) int64 -> (p, 64 * words) bool."""
    shifts = torch.arange(64, device=membership.device)
    return ((membership[:, :, None] >> shifts) & 1).bool().flatten(1)


def patches(counts: Tensor, offsets: Tensor, height: int, width: int, nesting: float) -> tuple[Tensor, Tensor]:
    """See :func:`splatseg.ops.patches.patches`; ``torch.unique`` over the columns of the whole stack of masks."""
    if len(offsets) == 1:
        return torch.zeros(height, width, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int64)
    masks = absorb(decode_runs(counts, offsets, height, width), nesting)
    columns = torch.cat([torch.zeros(len(masks), 1, dtype=torch.bool), masks], dim=1)  # the reserved patch comes first
    unique, inverse = torch.unique(columns, dim=1, return_inverse=True)
    first = torch.full((unique.shape[1],), columns.shape[1]).scatter_reduce_(
        0, inverse, torch.arange(columns.shape[1]), "amin"
    )
    order = first.argsort()
    ids = order.argsort()[inverse][1:].to(torch.int32)
    return ids.reshape(width, height).T.contiguous(), pack_bits(unique[:, order].T)
