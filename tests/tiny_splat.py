"""A splat small enough to reason about: three objects of two parts each, in front of a camera, with ideal features.

Object o stands at x = 2 (o - 1); its upper and lower halves are its parts. Features: an axis an object plus a
smaller axis a part, so that the cosine within a part is 1, between the parts of an object ``PART_COSINE``, between
objects 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.io.ply import save_gaussians
from splatseg.io.run import Run

PART_COSINE = 0.64
WIDTH, HEIGHT = 48, 32


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
        center = self.gaussians.means[self.parts == part].mean(0, keepdim=True)
        image, _ = self.camera.project(center)
        return int(image[0, 0]), int(image[0, 1])


def make_gaussians(means: Tensor, scale: float = 0.1, opacity: float = 0.995) -> Gaussians:
    """Round gray Gaussians at ``means`` (n, 3)."""
    n = len(means)
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    logit = torch.logit(torch.tensor(opacity)).expand(n).clone()
    return Gaussians(means, quats, torch.full((n, 3), scale).log(), logit, torch.zeros(n, 1, 3))


def make_camera(x: float = 0.0, size: float = 1.0) -> Camera:
    """A camera at (x, 0, -6) times ``size`` that looks along +z."""
    intrinsics = torch.tensor([[40.0, 0, WIDTH / 2], [0, 40.0, HEIGHT / 2], [0, 0, 1]])
    cam_from_world = torch.eye(4)
    cam_from_world[0, 3], cam_from_world[2, 3] = -x * size, 6.0 * size
    return Camera(intrinsics, cam_from_world, WIDTH, HEIGHT, 0.01 * size)


def make_splat(noise: float = 0.0, seed: int = 0, size: float = 1.0) -> TinySplat:
    """The splat of the module's docstring, lengths times ``size``; ``noise`` is the standard deviation added to every
    feature channel."""
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
    gaussians = make_gaussians(torch.cat(means) * size, 0.1 * size)
    field = FeatureField(features, gaussians.fingerprint())
    return TinySplat(gaussians, field, part_ids // 2, part_ids, make_camera(size=size))


def random_gaussians(count: int, coefficients: int = 16, seed: int = 0) -> Gaussians:
    """Noise in every value, the same for the same ``seed``."""
    g = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(count, 3, generator=g),
        quats=torch.randn(count, 4, generator=g),
        log_scales=torch.randn(count, 3, generator=g) - 3,
        opacity_logits=torch.randn(count, generator=g),
        sh=torch.randn(count, coefficients, 3, generator=g),
    )


def write_capture(folder: Path, count: int = 3) -> Path:
    """A COLMAP text model of ``count`` views of the tiny splat with gray photos, ``view_0.png`` first."""
    (folder / "images").mkdir(parents=True)
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} 40 40 {WIDTH / 2} {HEIGHT / 2}\n")
    lines = []
    for i in range(count):
        name = f"view_{i}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128)).save(folder / "images" / name)
        pose = make_camera(0.3 * i).cam_from_world
        lines += [f"{i + 1} 1 0 0 0 {pose[0, 3]} {pose[1, 3]} {pose[2, 3]} 1 {name}", "10.5 10.5 1"]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    track = " ".join(f"{i + 1} 0" for i in range(count))
    (model / "points3D.txt").write_text(f"1 0 0 0 128 128 128 0.5 {track}\n")
    return folder


def write_run(folder: Path, splat: TinySplat) -> Path:
    """A finished run of the tiny splat in ``folder``, with its capture beside it."""
    capture = write_capture(folder.with_name(folder.name + "-capture"))
    run = Run.open(folder, {"scene": str(capture), "downscale": 1})
    run.config.write_text("sfm: false\n")
    save_gaussians(run.geometry, splat.gaussians)
    splat.field.save(run.features)
    return folder
