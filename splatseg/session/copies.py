"""Copies of objects, moved, turned and made larger or smaller: where they stand, and as Gaussians of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.fit.splat_transform import Matrix, transformed

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
SMALLEST, LARGEST = 1e-3, 1e3  # scales


@dataclass(frozen=True)
class Placement:
    """Where a copy stands: x' = scale R (x - origin) + center.

    Attributes:
        origin: the middle of what was copied, world units of the splat's frame.
        center: where it lies now.
        wxyz: R, of any length but 0.
        scale: in ``SMALLEST`` .. ``LARGEST``.
    """

    origin: Vector
    center: Vector
    wxyz: Quaternion = (1.0, 0.0, 0.0, 0.0)
    scale: float = 1.0

    def __post_init__(self) -> None:
        numbers = (*self.origin, *self.center, *self.wxyz, self.scale)
        if len(numbers) != 11 or not all(math.isfinite(number) for number in numbers) or not any(self.wxyz):
            raise SplatsegError(f"placement: expected 3, 3 and 4 finite numbers and a rotation, found {numbers}")
        if not SMALLEST <= self.scale <= LARGEST:
            raise SplatsegError(f"placement: expected a scale in {SMALLEST:g}..{LARGEST:g}, found {self.scale:g}")

    def matrix(self) -> Matrix:
        """(4, 4) float64, placed from as it was."""
        linear = Rotation.from_quat(self.wxyz, scalar_first=True).as_matrix() * self.scale
        matrix = np.eye(4)
        matrix[:3, :3] = linear
        matrix[:3, 3] = np.array(self.center) - linear @ np.array(self.origin)
        return matrix

    def to_json(self) -> dict[str, Any]:
        return {"origin": self.origin, "center": self.center, "wxyz": self.wxyz, "scale": self.scale}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Placement:
        """What :meth:`to_json` gave; raises what :data:`splatseg.core.errors.DAMAGED` lists."""
        origin, center, wxyz = (tuple(map(float, content[name])) for name in ("origin", "center", "wxyz"))
        return cls(origin, center, wxyz, float(content["scale"]))  # type: ignore[arg-type]


def placed(gaussians: Gaussians, placement: Placement) -> Gaussians:
    """``gaussians`` where ``placement`` puts them, in the frame they are in; sizes and view-dependent colors follow."""
    local = replace(gaussians.to("cpu"), offset=(0.0, 0.0, 0.0))
    moved = transformed(local, placement.matrix(), (0.0, 0.0, 0.0))
    return replace(moved, offset=gaussians.offset).to(gaussians.device)


def together(parts: Sequence[Gaussians]) -> Gaussians:
    """All of ``parts``, which have the same properties and frame, after one another."""
    first = parts[0]
    tensors: dict[str, Any] = {name: torch.cat([part.tensors()[name] for part in parts]) for name in first.tensors()}
    extra = {name: torch.cat([part.extra[name] for part in parts]) for name in first.extra}
    return replace(first, **tensors, extra=extra)
