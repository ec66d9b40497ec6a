"""Floaters planted into a splat: where nothing is, in singles and small clouds, as large as the splat's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from scipy.spatial import cKDTree
from tiny_splat import make_gaussians
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.render import render
from splatseg.segment.neighbors import scene_size

NEAREST = 0.02  # of the scene's size from any Gaussian of the splat


def room() -> tuple[Gaussians, list[Camera]]:
    """Five walls of a 4 x 3 x 4 room, open where twelve cameras look in from."""
    x, y, z = torch.arange(-2, 2.01, 0.05), torch.arange(-1.5, 1.51, 0.05), torch.arange(-1, 3.01, 0.05)
    far = torch.cartesian_prod(x, y, z[-1:])
    sides = [torch.cartesian_prod(end, y, z) for end in (x[:1], x[-1:])]
    ends = [torch.cartesian_prod(x, end, z) for end in (y[:1], y[-1:])]
    walls = make_gaussians(torch.cat([far, *sides, *ends]), 0.03)
    cameras = []
    for place in torch.linspace(-0.8, 0.8, 12).tolist():
        pose = torch.eye(4)
        pose[:3, 3] = torch.tensor([-place, 0.3 * place, 2.0])
        cameras.append(Camera(torch.tensor([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]]), pose, 80, 60, 0.01))
    return walls, cameras


def plant(
    splat: Gaussians, cameras: Sequence[Camera], count: int, seed: int = 0, larger: float = 1.0
) -> tuple[Gaussians, Tensor]:
    """``splat`` with ``count`` floaters after its own Gaussians, and which they are, (n,) bool.

    Each lies between a random camera and what a random pixel of it shows, at 30 to 90 % of the depth and at least
    ``NEAREST`` from the splat; half of them begin clouds of 2 to 8. Sizes are those of random Gaussians of the smaller
    nine tenths of the splat times 0.5 to 2 times ``larger``, opacities 5 to 80 %, turned at random.
    """
    generator = torch.Generator().manual_seed(seed)
    size = scene_size(splat.means.numpy())
    tree = cKDTree(splat.means.numpy())
    places: list[Tensor] = []
    while sum(map(len, places)) < count:
        seeds = _in_the_air(splat, cameras[int(torch.randint(len(cameras), (1,), generator=generator))], generator)
        seeds = seeds[torch.from_numpy(tree.query(seeds.numpy())[0]) > NEAREST * size][:20]
        places.append(seeds[: len(seeds) // 2])
        for seed_place in seeds[len(seeds) // 2 :]:
            members = int(torch.randint(2, 9, (1,), generator=generator))
            places.append(seed_place + 0.004 * size * torch.randn(members, 3, generator=generator))
    longest = splat.log_scales.max(1).values
    usual = (longest <= longest.kthvalue(max(int(0.9 * len(longest)), 1)).values).nonzero()[:, 0]
    like = splat.select(usual[torch.randint(len(usual), (count,), generator=generator)])
    factor = 0.5 * larger * 4 ** torch.rand(count, 1, generator=generator)
    floating = replace(
        like,
        means=torch.cat(places)[:count].float(),
        log_scales=like.log_scales + factor.log(),
        opacity_logits=torch.logit(0.05 + 0.75 * torch.rand(count, generator=generator)),
        quats=torch.randn(count, 4, generator=generator),
    )
    both = {name: torch.cat([values, floating.tensors()[name]]) for name, values in splat.tensors().items()}
    return Gaussians(**both), torch.arange(len(splat) + count) >= len(splat)


def _in_the_air(splat: Gaussians, camera: Camera, generator: torch.Generator) -> Tensor:
    """(m, 3) places between ``camera`` and what some of its pixels show."""
    with torch.no_grad():
        drawn = render(splat, camera)
    pixels = (torch.rand(60, 2, generator=generator) * torch.tensor([camera.width, camera.height])).int()
    column, row = pixels.long().unbind(1)
    depths = drawn.depth[row, column] * (0.3 + 0.6 * torch.rand(60, generator=generator))
    return camera.unproject(pixels, depths)[drawn.alpha[row, column] > 0.9]
