"""Specification of ``ops.spanning_tree``: Prim's algorithm on the full table of mutual reachability distances."""

from __future__ import annotations

import torch
from torch import Tensor


def reachability_tree(points: Tensor, min_samples: int) -> tuple[Tensor, Tensor]:
    """Edges (n - 1, 2) int64 and lengths (n - 1,), ascending; where lengths are equal, other trees are as short."""
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    core = distances.sort(dim=1).values[:, min_samples]
    table = torch.maximum(distances, torch.maximum(core, core[:, None]))
    inside = torch.zeros(len(points), dtype=torch.bool)
    inside[0] = True
    nearest, source = table[0].clone(), torch.zeros(len(points), dtype=torch.int64)
    edges, lengths = [], []
    for _ in range(len(points) - 1):
        new = int(nearest.masked_fill(inside, torch.inf).argmin())
        edges.append((int(source[new]), new))
        lengths.append(nearest[new])
        inside[new] = True
        closer = table[new] < nearest
        nearest = torch.where(closer, table[new], nearest)
        source[closer] = new
    length = torch.stack(lengths)
    order = length.argsort(stable=True)
    return torch.tensor(edges)[order], length[order]
