"""What features.py and ablation/prototypes.py step on: a scene as a fit leaves it, pools of its views, patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import View
from splatseg.masks.hierarchy import PatchHierarchy
from splatseg.ops import Contributions

WIDTH, HEIGHT, CHANNELS = 640, 480, 16
POOL, BATCH, PATCHES = 32768, 8192, 180


@dataclass(frozen=True)
class Problem:
    """Pools of all views, the rows of some steps (those of step k are of pool k % views), and the sampled patches."""

    pools: list[Contributions]
    rows: list[Tensor]
    patch: list[Tensor]
    membership: Tensor
    start: Tensor

    def step(self, k: int) -> tuple[Contributions, Tensor, Tensor]:
        """Pool, rows and patches of step ``k``."""
        at = k % len(self.rows)
        return self.pools[at % len(self.pools)], self.rows[at], self.patch[at]


def surface_scene(n: int, generator: torch.Generator) -> Gaussians:
    """n Gaussians as a fit leaves them: flat and overlapping on a floor and twelve spheres, most of them opaque."""
    floor = n // 3
    disc = torch.rand(floor, generator=generator).sqrt() * 3
    angle = torch.rand(floor, generator=generator) * 2 * math.pi
    ground = torch.stack([disc * angle.cos(), disc * angle.sin(), torch.zeros(floor)], dim=1)
    ring = torch.arange(12) * (2 * math.pi / 12)
    centers = torch.stack([1.6 * ring.cos(), 1.6 * ring.sin(), torch.full((12,), 0.45)], dim=1)
    normals = torch.nn.functional.normalize(torch.randn(n - floor, 3, generator=generator), dim=1)
    balls = centers[torch.randint(0, 12, (n - floor,), generator=generator)] + 0.45 * normals
    spacing = math.sqrt((math.pi * 9 + 12 * 4 * math.pi * 0.45**2) / n)
    scales = torch.rand(n, 3, generator=generator) * 1.2 + 0.4
    return Gaussians(
        means=torch.cat([ground, balls]),
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1),
        log_scales=(scales * spacing).log(),
        opacity_logits=torch.randn(n, generator=generator) * 1.5 + 0.5,
        sh=torch.rand(n, 1, 3, generator=generator),
    )


def ring_cameras(count: int) -> list[Camera]:
    """Cameras on a circle that look at the middle of the scene from above."""
    K = torch.tensor([[0.9 * WIDTH, 0, WIDTH / 2], [0, 0.9 * WIDTH, HEIGHT / 2], [0, 0, 1]])
    cameras = []
    for index in range(count):
        angle = 2 * math.pi * index / count
        position = torch.tensor([3.6 * math.cos(angle), 3.6 * math.sin(angle), 1.8])
        forward = torch.nn.functional.normalize(torch.tensor([0.0, 0.0, 0.2]) - position, dim=0)
        right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0])), dim=0)
        rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
        pose = torch.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ position
        cameras.append(Camera(K, pose, WIDTH, HEIGHT))
    return cameras


def block_patches(pixels: Tensor) -> Tensor:
    """Patch of each pixel (..., 2): blocks of the image, numbered from 1."""
    side = math.isqrt(PATCHES)
    return 1 + pixels[..., 1] * side // HEIGHT * side + pixels[..., 0] * side // WIDTH


def block_membership() -> Tensor:
    """(p + 1, 2) mask bits of the blocks: every row, every column, and every four rows of blocks are a mask."""
    side = math.isqrt(PATCHES)
    block = torch.arange(side * side)
    membership = torch.zeros(side * side + 1, 2, dtype=torch.int64)
    membership[1:, 0] = (1 << (block // side)) | (1 << (20 + block % side))
    membership[1:, 1] = 1 << (block // side // 4)
    return membership


def block_hierarchy() -> PatchHierarchy:
    """The same for every view of the image's size."""
    lines, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return PatchHierarchy(block_patches(torch.stack([columns, lines], dim=-1)).int(), block_membership())


def views_of(cameras: list[Camera]) -> list[View]:
    """Views without photos, which the feature fit does not read."""
    return [View(f"{index:03}", camera, Path()) for index, camera in enumerate(cameras)]


def make_problem(pools: list[Contributions], n: int, steps: int, generator: torch.Generator) -> Problem:
    """Random batches of every pool; patches are blocks of the image, masks are unions of neighboring blocks."""
    rows, patch = [], []
    for step in range(steps):
        chosen = torch.randperm(POOL, generator=generator)[:BATCH].sort().values
        rows.append(chosen)
        patch.append(block_patches(pools[step % len(pools)].pixels[chosen].long()))
    return Problem(pools, rows, patch, block_membership(), torch.randn(n, CHANNELS, generator=generator))
