"""Points on a far shell: something for the pixels that show what lies behind everything that was matched."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

from splatseg.core.scene import Points, Scene
from splatseg.fit.geometry.sweep import in_picture

FAR = 0.99  # quantile of the distances of the sparse points that the shell lies beyond
NEAREST = 8  # directions seen by photos that color one seen by none


def shell_points(scene: Scene, count: int, reach: float) -> Points:
    """``count`` points on a sphere round the mean camera, ``reach`` times as far as the sparse points.

    Each takes the mean color of the photos that have it in their picture, at the size that the points' spacing
    resolves; where no photo has, that of the nearest directions that some have.
    """
    centre = torch.stack([view.camera.position for view in scene.views]).mean(0)
    distances = (scene.points.xyz - centre).norm(dim=1)
    radius = reach * max(float(torch.quantile(distances, FAR)), 1.0)
    xyz = centre + radius * sphere(count)
    spacing = math.sqrt(4 * math.pi / count)
    total, seen = torch.zeros(count, 3), torch.zeros(count)
    for view in scene.views:
        inside, _ = in_picture(view.camera, xyz)
        if not bool(inside.any()):
            continue
        side = max(int(view.camera.width / (spacing * view.camera.fx)), 1), max(
            int(view.camera.height / (spacing * view.camera.fy)), 1
        )
        small = F.interpolate(view.image().permute(2, 0, 1)[None].float(), size=side[::-1], mode="area")
        image, _ = view.camera.project(xyz[inside])
        grid = 2 * image / image.new_tensor([view.camera.width, view.camera.height]) - 1
        drawn = F.grid_sample(small, grid[None, None], align_corners=False, padding_mode="border")[0, :, 0].T
        total[inside] += drawn
        seen[inside] += 1
    colors = total / seen.clamp_min(1)[:, None]
    lost = seen == 0
    if bool(lost.any()) and not bool(lost.all()):
        found = xyz[~lost].numpy()
        distance, which = cKDTree(found).query(xyz[lost].numpy(), k=min(NEAREST, len(found)))
        weights = torch.from_numpy(1 / distance**2).float().reshape(int(lost.sum()), -1)
        near = colors[~lost][torch.from_numpy(which).reshape(int(lost.sum()), -1)]
        colors[lost] = (near * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
    return Points(xyz, colors.round().to(torch.uint8))


def sphere(count: int) -> Tensor:
    """(count, 3) unit vectors, evenly spread (Fibonacci's lattice)."""
    k = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * k + 1) / count
    turn = k * math.pi * (3 - math.sqrt(5))
    ring = (1 - z * z).sqrt()
    return torch.stack([ring * turn.cos(), ring * turn.sin(), z], 1).float()
