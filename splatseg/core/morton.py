"""The order of points along a Z curve."""

from __future__ import annotations

import torch
from torch import Tensor


def morton_order(points: Tensor) -> Tensor:
    """Order (m,) of ``points`` (m, 3) along a Z curve on a 1024^3 grid: neighbors in it are neighbors in space."""
    if len(points) == 0:
        return torch.zeros(0, dtype=torch.int64)
    sample = points[torch.linspace(0, len(points) - 1, min(len(points), 100_000)).long()]
    low, high = sample.quantile(0.02, dim=0), sample.quantile(0.98, dim=0)  # outliers share the outermost cells
    cells = ((points - low) / (high - low).clamp_min(1e-12) * 1023).clamp(0, 1023).long()
    code = torch.zeros(len(points), dtype=torch.int64)
    for axis in range(3):
        code |= _spread(cells[:, axis]) << axis
    return code.argsort(stable=True)


def _spread(values: Tensor) -> Tensor:
    """The 10 bits of each value, two zeros before each: all at once, by halves."""
    for shift, kept in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        values = (values | values << shift) & kept
    return values
