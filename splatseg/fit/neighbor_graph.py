"""The graph of 3D neighbors of a splat, and what Gaussians look like: by what the edges of things are told."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from splatseg.core.gaussians import Gaussians
from splatseg.ops.nearest import nearest

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


def neighbor_edges(means: Doubles, neighbors: int) -> Ints:
    """(e, 2) pairs a < b of Gaussians of which one is among the nearest of the other."""
    count = min(neighbors + 1, len(means))
    ids = nearest(means, count=count)[0]
    pairs = np.stack([np.repeat(np.arange(len(means)), count), ids.ravel()], axis=1)
    return distinct_pairs(np.sort(pairs, axis=1), len(means))


def distinct_pairs(pairs: Ints, count: int) -> Ints:
    """The different rows a < b among ``pairs`` of numbers below ``count``."""
    keys = np.sort(pairs[pairs[:, 0] < pairs[:, 1]] @ np.array([count, 1]))
    keys = keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys  # np.unique hashes: ten times slower
    return np.stack([keys // count, keys % count], axis=1)


def looks(gaussians: Gaussians, edges: Ints) -> Doubles:
    """(m, 9) color and normal (as the matrix n n^T, which has no sign), each in units of what the pairs ``edges``
    (e, 2) differ by.

    A normal is the shortest axis, and counts as far as the Gaussian is flat.
    """
    scales, axes = np.sort(gaussians.scales.detach().cpu().numpy(), axis=1), _shortest_axes(gaussians)
    flat = 1 - scales[:, 0] / np.maximum(scales[:, 1], 1e-12)
    upper = np.triu_indices(3)
    normal = (axes[:, :, None] * axes[:, None, :])[:, upper[0], upper[1]] * flat[:, None]
    normal[:, [1, 2, 4]] *= 2**0.5
    color = gaussians.base_colors.detach().cpu().numpy().astype(np.float64)
    return np.concatenate([block / max(_typical(block, edges), 1e-6) for block in (color, normal)], axis=1)


def places(means: Doubles) -> Doubles:
    """(m, 3) where Gaussians lie, in units of the widest side of all but the outermost tenth on each end."""
    extent = np.percentile(means, 90, axis=0) - np.percentile(means, 10, axis=0)
    centered = np.clip(means - np.median(means, axis=0), -2 * extent, 2 * extent)
    return np.asarray(centered / max(float(extent.max()), 1e-12))


def _typical(block: Doubles, edges: Ints) -> float:
    """The median difference of neighbors; 1 without neighbors."""
    if not len(edges):
        return 1.0
    return float(np.median(np.linalg.norm(block[edges[:, 0]] - block[edges[:, 1]], axis=1)))


def _shortest_axes(gaussians: Gaussians) -> Doubles:
    """(m, 3) unit vectors along the shortest axis of each Gaussian."""
    w, x, y, z = torch.nn.functional.normalize(gaussians.quats.detach().double().cpu(), dim=1).unbind(1)
    columns = torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], dim=1),
            torch.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], dim=1),
            torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], dim=1),
        ],
        dim=1,
    )
    shortest = gaussians.log_scales.detach().cpu().argmin(dim=1)
    return columns[torch.arange(len(shortest)), shortest].numpy()
