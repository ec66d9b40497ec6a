"""Where a set of points lies, as a person would say it: strays do not count."""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 50_000  # points looked at


def middle_box(points: Tensor, share: float = 0.96) -> tuple[Tensor, Tensor]:
    """(3,) float64 least and greatest coordinates, on the CPU, of the middle ``share`` of ``points`` (m, 3), m > 0,
    along each axis; of many points a sample is looked at."""
    picked = points[torch.linspace(0, len(points) - 1, min(len(points), MOST), device=points.device).long()]
    tail = (1 - share) / 2
    low, high = picked.double().cpu().quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return low, high
