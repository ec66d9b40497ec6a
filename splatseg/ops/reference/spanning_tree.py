"""Specification of ``ops.spanning_tree``: Prim's algorithm on the full table of mutual reachability distances."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def squared_distances(points: Tensor) -> Tensor:
    """(n, n) squares of differences, added channel by channel."""
    sums = points.new_zeros(len(points), len(points))
    for channel in points.T:
        difference = channel[:, None] - channel
        sums = sums + difference * difference
    return sums


def reachability_tree(points: Tensor, min_samples: int) -> tuple[Tensor, Tensor]:
    """Edges (n - 1, 2) int64, smaller number first, and lengths (n - 1,), ascending; of equal lengths the edge of the
    smaller numbers comes first and is taken first, so that there is one shortest tree."""
    count = len(points)
    distances = torch.from_numpy(np.sqrt(squared_distances(points).numpy()))  # torch's may be off by its last bit
    core = distances.sort(dim=1).values[:, min_samples]
    table = torch.maximum(distances, torch.maximum(core, core[:, None]))
    numbers = torch.arange(count)
    name = torch.minimum(numbers, numbers[:, None]) * count + torch.maximum(numbers, numbers[:, None])
    outside = numbers > 0
    nearest, edge = table[0].clone(), name[0].clone()
    edges, lengths = [], []
    for _ in range(count - 1):
        length = nearest[outside].min()
        new = int(edge.masked_fill(~outside | (nearest > length), count**2).argmin())
        edges.append(int(edge[new]))
        lengths.append(length)
        outside[new] = False
        closer = (table[new] < nearest) | ((table[new] == nearest) & (name[new] < edge))
        nearest = torch.where(closer, table[new], nearest)
        edge = torch.where(closer, name[new], edge)
    found, length = torch.tensor(edges), torch.stack(lengths)
    found, order = found.sort()
    length, by_length = length[order].sort(stable=True)
    found = found[by_length]
    return torch.stack([found // count, found % count], dim=1), length
