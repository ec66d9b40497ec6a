"""Directions that are evenly spread."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fibonacci_sphere(count: int, lowest: float = -1.0, first: float = 0.5) -> Tensor:
    """(count, 3) unit vectors, evenly spread over the part of the sphere above z = ``lowest``: a Fibonacci lattice
    (Gonzalez 2010), whose first point is turned by ``first`` golden angles."""
    k = torch.arange(count, dtype=torch.float64)
    z, angle = 1 - (1 - lowest) * (k + 0.5) / count, (k + first) * math.pi * (3 - math.sqrt(5))
    flat = (1 - z * z).sqrt()
    return torch.stack([flat * angle.cos(), flat * angle.sin(), z], dim=1).float()
