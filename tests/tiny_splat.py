"""A splat small enough to reason about: three objects of two parts each, in front of a camera, with ideal features.

Object o stands at x = 2 (o - 1); its upper and lower halves are its parts. Features: an axis an object plus a
smaller axis a part, so that the cosine within a part is 1, between the parts of an object ``PART_COSINE``, between
objects 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import splatseg.render as rendering
from splatseg.camera import Camera
from splatseg.field import FeatureField
from splatseg.gaussians import Gaussians

PART_COSINE = 0.64
WIDTH, HEIGHT = 48, 32

if not hasattr(rendering, "render"):
    import fake_render

    rendering.render, rendering.trace = fake_render.render, fake_render.trace  # type: ignore[attr-defined]


@dataclass(frozen=True)
class TinySplat:
    """``objects`` and ``parts`` (n,) int64: ids 0..2 and 0..5 (part p belongs to object p // 2)."""

    gaussians: Gaussians
    field: FeatureField
    objects: Tensor
    parts: Tensor
    camera: Camera

    def pixel_of(self, part: int) -> tuple[int, int]:
        """[column, row] where the middle of a part is seen."""
        centre = self.gaussians.means[self.parts == part].mean(0, keepdim=True)
        image, _ = self.camera.project(centre)
        return int(image[0, 0]), int(image[0, 1])


def make_gaussians(means: Tensor, scale: float = 0.1, opacity: float = 0.995) -> Gaussians:
    """Round grey Gaussians at ``means`` (n, 3)."""
    n = len(means)
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    logit = torch.logit(torch.tensor(opacity)).expand(n).clone()
    return Gaussians(means, quats, torch.full((n, 3), scale).log(), logit, torch.zeros(n, 1, 3))


def make_camera(x: float = 0.0) -> Camera:
    """A camera at (x, 0, -6) that looks along +z."""
    intrinsics = torch.tensor([[40.0, 0, WIDTH / 2], [0, 40.0, HEIGHT / 2], [0, 0, 1]])
    cam_from_world = torch.eye(4)
    cam_from_world[0, 3], cam_from_world[2, 3] = -x, 6.0
    return Camera(intrinsics, cam_from_world, WIDTH, HEIGHT)


def make_splat(noise: float = 0.0, seed: int = 0) -> TinySplat:
    """The splat of the module's docstring; ``noise`` is the standard deviation added to every feature channel."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-0.4, 0.4, 6)
    half = torch.cartesian_prod(axis, torch.linspace(0.1, 0.9, 6), torch.tensor([0.0, 0.15]))
    means, parts = [], []
    for part in range(6):
        block = half.clone()
        block[:, 1] *= -1 if part % 2 else 1
        block[:, 0] += 2.0 * (part // 2 - 1)
        means.append(block)
        parts.append(torch.full((len(block),), part))
    part_ids = torch.cat(parts)
    codes = torch.zeros(6, 9)
    for part in range(6):
        codes[part, part // 2] = PART_COSINE**0.5
        codes[part, 3 + part] = (1 - PART_COSINE) ** 0.5
    features = codes[part_ids] + noise * torch.randn((len(part_ids), 9), generator=generator)
    gaussians = make_gaussians(torch.cat(means))
    return TinySplat(gaussians, FeatureField(features, gaussians.fingerprint()), part_ids // 2, part_ids, make_camera())
