"""Votes between patches (OmniSeg3D eq. 1) and the hierarchy levels that they define."""

from __future__ import annotations

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims
from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.reference import levels as reference


def votes(membership: Tensor, ids: Tensor | None = None) -> Tensor:
    """Number of masks that contain both patches, exact (no wrap at 256), by AND + popcount.

    Args:
        membership: (p, words) int64; bit m % 64 of word m // 64 of row k: mask m contains patch k.
        ids: (k,) rows to compare; all p if None.

    Returns:
        (k, k) int32, symmetric; the diagonal is the number of masks that contain the patch.

    Raises:
        SplatsegError: wrong shape or dtype, or an id outside 0..p-1.
    """
    check_dims("membership", membership, ("p", "words"))
    if membership.dtype != torch.int64:
        raise SplatsegError(f"membership: expected int64, found {membership.dtype}")
    if ids is None:
        ids = torch.arange(len(membership), device=membership.device)
    check_dims("ids", ids, ("k",))
    if ids.dtype not in (torch.int32, torch.int64):
        raise SplatsegError(f"ids: expected int32 or int64, found {ids.dtype}")
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(membership):
        raise SplatsegError(f"ids: expected 0..{len(membership) - 1}, found {int(ids.min())}..{int(ids.max())}")
    if has_kernel("votes", membership):
        return torch.ops.splatseg.votes(membership, ids)
    return reference.votes(membership, ids)


def levels(votes: Tensor) -> Tensor:
    """Level of every patch as seen from every anchor: level l holds the l-th largest distinct positive vote of the row.

    Level 0 holds the anchor and the patches that lie in all of its masks. Levels are those of the patches given:
    leaving a patch out may move others up.

    Args:
        votes: (k, k) int32 or int64, row = anchor.

    Returns:
        (k, k) int32; -1 where no mask contains both (votes of 0 or less).

    Raises:
        SplatsegError: wrong shape or dtype.
    """
    check_dims("votes", votes, ("k", "k"))
    if votes.dtype not in (torch.int32, torch.int64):
        raise SplatsegError(f"votes: expected int32 or int64, found {votes.dtype}")
    if has_kernel("levels", votes):
        return torch.ops.splatseg.levels(votes)
    return reference.levels(votes)


def _votes_fake(membership: Tensor, ids: Tensor) -> Tensor:
    return membership.new_empty((len(ids), len(ids)), dtype=torch.int32)


def _levels_fake(votes: Tensor) -> Tensor:
    return votes.new_empty(votes.shape, dtype=torch.int32)


if compiled():
    torch.library.register_fake("splatseg::votes", _votes_fake)
    torch.library.register_fake("splatseg::levels", _levels_fake)
