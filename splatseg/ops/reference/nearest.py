"""Specification of ``ops.nearest``: all distances, some rows at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PAIRS = 1 << 22  # distances held at a time


def nearest_points(points: Tensor, places: Tensor | None, count: int, others: bool) -> tuple[Tensor, Tensor]:
    """Ids (m, count) int32 and distances (m, count) float32 of the nearest ``points`` (n, 3), of equally near ones
    those of lower ids first; ``others``: of the points themselves, each without itself."""
    asked = points if places is None else places
    step = max(PAIRS // max(len(points), 1), 1)
    ids = torch.empty(len(asked), count, dtype=torch.int32)
    distances = torch.empty(len(asked), count)
    for start in range(0, len(asked), step):
        x, y, z = (asked[start : start + step, None].double() - points[None].double()).unbind(2)
        squares, order = (x * x + y * y + z * z).sort(dim=1, stable=True)
        if others:
            kept = order != torch.arange(start, start + len(order))[:, None]
            squares, order = (part[kept].view(len(order), -1) for part in (squares, order))
        ids[start : start + step] = order[:, :count]
        distances[start : start + step] = torch.from_numpy(np.sqrt(squares[:, :count].numpy()))  # torch's: 1 bit off
    return ids, distances
