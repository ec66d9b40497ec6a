"""Connected pieces of a graph of neighbors."""

from __future__ import annotations

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims
from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.reference import pieces as reference


def connected_pieces(labels: Tensor, neighbors: Tensor, distances: Tensor, longest: float) -> Tensor:
    """(n,) int64 number 0..c-1 of each one's piece; pieces are numbered by their first members.

    Args:
        labels: (n,) int64; edges between labels that differ are cut.
        neighbors: (n, k) int32 ids in 0..n-1, of which each is joined to the one whose row it is in.
        distances: (n, k) float32; edges above ``longest`` (as float32) are cut.
        longest: see there.

    Raises:
        SplatsegError: other shapes or types, an id out of range.
    """
    sizes = check_dims("labels", labels, ("n",))
    sizes = check_dims("neighbors", neighbors, ("n", "k"), sizes)
    check_dims("distances", distances, ("n", "k"), sizes)
    for name, given, dtype in (
        ("labels", labels, torch.int64),
        ("neighbors", neighbors, torch.int32),
        ("distances", distances, torch.float32),
    ):
        if given.dtype != dtype:
            raise SplatsegError(f"{name}: expected {dtype}, found {given.dtype}")
    if neighbors.numel() and not 0 <= int(neighbors.min()) <= int(neighbors.max()) < len(labels):
        raise SplatsegError(
            f"neighbors: expected 0..{len(labels) - 1}, found {int(neighbors.min())}..{int(neighbors.max())}"
        )
    asked = torch.ops.splatseg if has_kernel("connected_pieces", labels) else reference
    return asked.connected_pieces(labels, neighbors.contiguous(), distances.contiguous(), longest)


def _connected_pieces_fake(labels: Tensor, neighbors: Tensor, distances: Tensor, longest: float) -> Tensor:
    return torch.empty_like(labels)


if compiled():
    torch.library.register_fake("splatseg::connected_pieces", _connected_pieces_fake)
