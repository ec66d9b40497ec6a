"""A frame for planning: up is up, the main part of the splat fills [-1, 1], walls lie along the axes where they can.

Everything is estimated from the Gaussians, so that a splat that was moved, turned or scaled is planned alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.fit.views.config import Up
from splatseg.ops.reference.rasterize import quats_to_rotations

_SAMPLE = 40_000  # Gaussians that directions are estimated from
_CANDIDATES = 400  # normals that are tried as the up direction
_CONE = 0.985  # cosine of 10 degrees: what counts as parallel
_MODES, _APART = 12, 0.9  # directions that are compared, and the cosine below which they are different ones
_SOLID = 0.1  # opacity below which a Gaussian says nothing about the scene's size


@dataclass(frozen=True, eq=False)
class Discs:
    """Gaussians as flat pieces of surface in a :class:`PlanFrame`: ``means`` (n, 3); ``axes`` (n, 2, 3), their two
    longest axes, a standard deviation long; ``opacities`` (n,)."""

    means: Tensor
    axes: Tensor
    opacities: Tensor


@dataclass(frozen=True, eq=False)
class PlanFrame:
    """``rotation`` (3, 3) float64, rows are the frame's axes in the splat's, z is up; ``center`` (3,) float64 and
    ``size``, world units: half the longest side of the main part; ``half`` (3,): half its sides in the frame."""

    rotation: Tensor
    center: Tensor
    size: float
    half: Tensor

    def to_local(self, points: Tensor) -> Tensor:
        """Points (n, 3) of the splat's frame in this one."""
        return ((points.double() - self.center) @ self.rotation.T / self.size).float()

    def to_world(self, points: Tensor) -> Tensor:
        """Points (n, 3) of this frame in the splat's, float64."""
        return self.center + self.size * points.double() @ self.rotation

    def discs(self, gaussians: Gaussians) -> Discs:
        axes, scales = _sorted_axes(gaussians)
        flat = (axes[:, :2] * scales[:, :2, None]).double() @ self.rotation.T / self.size
        return Discs(self.to_local(gaussians.means), flat.float(), gaussians.opacities)


def plan_frame(gaussians: Gaussians, up: Up = "auto") -> PlanFrame:
    """The frame of ``gaussians`` (on the CPU).

    Raises:
        SplatsegError: nothing that is opaque, or all of it at one point.
    """
    solid = gaussians.select(gaussians.opacities > _SOLID)
    if len(solid) == 0:
        raise SplatsegError(f"splat: expected Gaussians of an opacity above {_SOLID}, found none")
    solid.check_finite()
    sample = solid.select(slice(None, None, max(1, len(solid) // _SAMPLE)))
    normals, weights = _normals(sample)
    means = sample.means.double()
    rotation = _rotation(normals, weights, means, up)
    low, high = _main_part(solid.means.double() @ rotation.T)
    half = (high - low) / 2
    size = float(half.max())
    if not size > 0:
        raise SplatsegError("splat: expected Gaussians at different places, found all at one")
    return PlanFrame(rotation, (low + high) / 2 @ rotation, size, (half / size).float())


def _sorted_axes(gaussians: Gaussians) -> tuple[Tensor, Tensor]:
    """Axes (n, 3, 3), a row each, and standard deviations (n, 3), the longest first."""
    rotations = quats_to_rotations(gaussians.quats)  # columns are the axes
    scales, order = gaussians.scales.sort(dim=1, descending=True)
    return rotations.transpose(1, 2).gather(1, order[:, :, None].expand(-1, -1, 3)), scales


def _normals(gaussians: Gaussians) -> tuple[Tensor, Tensor]:
    """Shortest axes (m, 3) float64, of any sign, and how much each says: opacity x area x flatness."""
    axes, scales = _sorted_axes(gaussians)
    area = scales[:, 0] * scales[:, 1]
    area = area.clamp_max(float(area.quantile(0.9)))
    flatness = 1 - scales[:, 2] / scales[:, 1]
    weights = gaussians.opacities * area * flatness + 1e-6 * area
    return axes[:, 2].double(), (weights / weights.sum()).double()


def _rotation(normals: Tensor, weights: Tensor, means: Tensor, up: Up) -> Tensor:
    if up == "auto":
        z = _up_axis(normals, weights, means)
        height = means @ z
        # More of a scene is below the middle of its height than above: a floor, and what stands on it.
        low, high = _main_part(height[:, None])
        z = z if float(height.median()) <= float((low + high) / 2) else -z
    else:
        z = torch.zeros(3, dtype=torch.float64)
        z["xyz".index(up[1])] = 1.0 if up[0] == "+" else -1.0
    x = _along_walls(normals, weights, z)
    low, high = _main_part(torch.stack([means @ x, means @ torch.linalg.cross(z, x)], dim=1))
    if float(high[0] - low[0]) < float(high[1] - low[1]):
        x = torch.linalg.cross(z, x)
    low, high = _main_part((means @ x)[:, None])
    x = x if float((means @ x).median()) <= float((low + high) / 2) else -x
    return torch.stack([x, torch.linalg.cross(z, x), z])


def _up_axis(normals: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    """The direction that many surfaces lie across and along which the scene is not large: what stands on a floor is
    wider than high. ``means`` are the Gaussians of ``normals``."""
    candidates = normals[:: max(1, len(normals) // _CANDIDATES)]
    votes = ((candidates @ normals.T).abs() > _CONE).double() @ weights
    best, score = candidates[0], -1.0
    for _ in range(_MODES):
        pick = int(votes.argmax())
        low, high = _main_part((means @ candidates[pick])[:, None])
        found = float(votes[pick] / (high - low).clamp_min(1e-12))
        best, score = (candidates[pick], found) if found > score else (best, score)
        votes = votes.masked_fill((candidates @ candidates[pick]).abs() > _APART, -1.0)
        if float(votes.max()) < 0:
            break
    for _ in range(3):
        near = (normals @ best).abs() > _CONE
        aligned = normals[near] * (normals[near] @ best).sign()[:, None]
        best = torch.nn.functional.normalize(weights[near] @ aligned, dim=0)
    return best


def _along_walls(normals: Tensor, weights: Tensor, z: Tensor) -> Tensor:
    """A direction across ``z`` that upright surfaces face, or that they face turned by right angles."""
    helper = normals[int(((normals @ z).abs() < 0.7).double().argmax())]
    a = torch.nn.functional.normalize(helper - (helper @ z) * z, dim=0)
    b = torch.linalg.cross(z, a)
    upright = (normals @ z).abs() < 0.3
    if not bool(upright.any()):
        return a
    angles = torch.atan2(normals[upright] @ b, normals[upright] @ a)
    w = weights[upright]
    angle = torch.atan2((w * (4 * angles).sin()).sum(), (w * (4 * angles).cos()).sum()) / 4
    return angle.cos() * a + angle.sin() * b


def _main_part(values: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of ``values`` (n, k) without what is far away: from the 2nd to the 98th percentile, and no farther from
    the median than three times the 20th or 80th."""
    levels = torch.tensor([0.02, 0.2, 0.5, 0.8, 0.98], dtype=values.dtype)
    ordered = values.sort(dim=0).values
    picks = (levels * (len(values) - 1)).round().long()
    low, inner, middle, outer, high = ordered[picks]
    return torch.maximum(low, middle - 3 * (middle - inner)), torch.minimum(high, middle + 3 * (outer - middle))
