"""Boxes and balls in space, and the Gaussians whose centers lie in them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.selection import Selection
from splatseg.ops.reference.rasterize import quats_to_rotations

Vector = tuple[float, float, float]


def _check(name: str, values: tuple[float, ...], count: int) -> None:
    if len(values) != count or not all(math.isfinite(v) for v in values):
        raise SplatsegError(f"{name}: expected {count} finite numbers, found {values}")


@dataclass(frozen=True)
class Cuboid:
    """A box in space, its border included.

    Attributes:
        center: of the splat's frame, world units.
        size: lengths of its edges, world units, all above 0.
        wxyz: rotation from the box's axes to the world's, of any length but 0.
    """

    center: Vector
    size: Vector
    wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        _check("box.center", self.center, 3)
        _check("box.size", self.size, 3)
        _check("box.wxyz", self.wxyz, 4)
        if not all(s > 0 for s in self.size):
            raise SplatsegError(f"box.size: expected lengths above 0, found {self.size}")
        if not any(self.wxyz):
            raise SplatsegError(f"box.wxyz: expected a rotation, found {self.wxyz}")

    def holds(self, points: Tensor) -> Tensor:
        """(m,) bool: which ``points`` (m, 3) lie inside."""
        local = (points.double() - points.new_tensor(self.center).double()) @ self.axes().to(points.device)
        half = torch.tensor(self.size, dtype=torch.float64, device=points.device) / 2
        return (local.abs() <= half).all(1)

    def axes(self) -> Tensor:
        """(3, 3) float64: the box's axes as columns, in the world."""
        return quats_to_rotations(torch.tensor([self.wxyz], dtype=torch.float64))[0]


@dataclass(frozen=True)
class Ball:
    """A ball of ``radius`` above 0 around ``center``, its surface included; world units of the splat's frame."""

    center: Vector
    radius: float

    def __post_init__(self) -> None:
        _check("sphere.center", self.center, 3)
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise SplatsegError(f"sphere.radius: expected a length above 0, found {self.radius}")

    def holds(self, points: Tensor) -> Tensor:
        """(m,) bool: which ``points`` (m, 3) lie inside."""
        return (points.double() - points.new_tensor(self.center).double()).norm(dim=1) <= self.radius


def inside(gaussians: Gaussians, solid: Cuboid | Ball) -> Selection:
    """The Gaussians whose centers lie in ``solid``."""
    return Selection(solid.holds(gaussians.means))
