"""Votes and hierarchy levels of patches (OmniSeg3D eq. 1 and section 3.2) in plain PyTorch: the specification."""

from __future__ import annotations

import torch
from torch import Tensor


def votes(membership: Tensor, ids: Tensor) -> Tensor:
    """Number of masks that contain both patches, exact. See :func:`splatseg.ops.levels.votes`."""
    words = membership[ids]
    bits = (words[:, :, None] >> torch.arange(64, device=words.device)) & 1  # (k, words, 64)
    flat = bits.flatten(1).to(torch.float64)  # exact: sums stay far below 2^53
    return (flat @ flat.T).to(torch.int32)


def levels(votes: Tensor) -> Tensor:
    """Level of every patch as seen from every anchor. See :func:`splatseg.ops.levels.levels`."""
    result = torch.full_like(votes, -1, dtype=torch.int32)
    for anchor, row in enumerate(votes):
        distinct = torch.unique(row[row > 0]).flip(0)
        for level, value in enumerate(distinct):
            result[anchor, row == value] = level
    return result
