"""Splats of plain surfaces, whose inside and outside are known: a furnished room, things on a table, a ball."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatseg.core.gaussians import SH_C0, Gaussians

ROOM = (3.0, 2.0, 1.25)  # half the sides of the room, about the origin; its floor is at z = -1.25
CUPBOARD = ((1.8, -1.9, -1.25), (2.8, -0.9, 0.4))
STOOL = ((-1.6, 0.2, -1.25), (-1.0, 0.8, -0.7))
Corner = tuple[float, float, float]


def rectangle(center: Corner, u: Corner, v: Corner, spacing: float, gray: float) -> Gaussians:
    """Flat Gaussians on the rectangle ``center`` +- ``u`` +- ``v``, about ``spacing`` apart."""
    sides = [torch.tensor(side) for side in (u, v)]
    lengths = [float(side.norm()) for side in sides]
    steps = [torch.linspace(-1, 1, max(2, round(2 * length / spacing))) for length in lengths]
    a, b = torch.meshgrid(*steps, indexing="ij")
    means = torch.tensor(center) + a.reshape(-1, 1) * sides[0] + b.reshape(-1, 1) * sides[1]
    axes = torch.stack([sides[0] / lengths[0], sides[1] / lengths[1]], dim=1)
    rotation = torch.cat([axes, torch.linalg.cross(axes[:, 0], axes[:, 1])[:, None]], dim=1)
    return _discs(means, rotation.expand(len(means), 3, 3), spacing, gray)


def box(low: Corner, high: Corner, spacing: float, gray: float) -> Gaussians:
    """The six sides of a box."""
    middle, half = (np.array(low) + high) / 2, (np.array(high) - low) / 2
    sides = []
    for axis in range(3):
        u, v = (np.eye(3)[k] * half[k] for k in range(3) if k != axis)
        for sign in (-1, 1):
            center = middle + sign * half[axis] * np.eye(3)[axis]
            sides.append(rectangle(*(tuple(x.tolist()) for x in (center, u, v)), spacing, gray + 0.05 * axis))  # type: ignore[arg-type]
    return joined(sides)


def ball(center: Corner, radius: float, count: int, gray: float) -> Gaussians:
    """The surface of a ball, hollow."""
    k = torch.arange(count, dtype=torch.float64) + 0.5
    z, angle = 1 - 2 * k / count, k * np.pi * (3 - 5**0.5)
    flat = (1 - z * z).sqrt()
    normals = torch.stack([flat * angle.cos(), flat * angle.sin(), z], dim=1)
    helper = torch.where(normals[:, 2:].abs() > 0.9, torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])).double()
    u = torch.nn.functional.normalize(torch.linalg.cross(normals, helper), dim=1)
    rotation = torch.stack([u, torch.linalg.cross(normals, u), normals], dim=2)
    spacing = radius * (4 * np.pi / count) ** 0.5
    return _discs((torch.tensor(center) + radius * normals).float(), rotation.float(), spacing, gray)


def joined(parts: list[Gaussians]) -> Gaussians:
    return Gaussians(*(torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()))


def room() -> Gaussians:
    """Walls, floor and ceiling, a cupboard in a corner and a stool."""
    x, y, z = ROOM
    return joined([box((-x, -y, -z), (x, y, z), 0.12, 0.6), box(*CUPBOARD, 0.08, 0.3), box(*STOOL, 0.06, 0.8)])


def table() -> Gaussians:
    """A box and a ball on a table's top, nothing else."""
    top = rectangle((0.0, 0.0, 0.0), (1.2, 0, 0), (0, 0.9, 0), 0.05, 0.5)
    return joined([top, box((-0.5, -0.3, 0.02), (0.1, 0.2, 0.5), 0.03, 0.2), ball((0.5, 0.2, 0.25), 0.22, 1500, 0.8)])


def _discs(means: Tensor, rotations: Tensor, spacing: float, gray: float) -> Gaussians:
    n = len(means)
    x, y, z, w = Rotation.from_matrix(rotations.double().numpy()).as_quat().T
    quats = torch.from_numpy(np.stack([w, x, y, z], axis=1)).float()
    scales = torch.tensor([spacing * 0.7, spacing * 0.7, spacing * 0.05]).log().expand(n, 3).clone()
    shade = gray + 0.1 * torch.rand(n, generator=torch.Generator().manual_seed(n))
    sh = ((shade - 0.5) / SH_C0)[:, None, None].expand(n, 1, 3).clone()
    return Gaussians(means, quats, scales, torch.full((n,), 3.0), sh)
