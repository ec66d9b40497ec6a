"""A run folder around a splat with known parts: what session and viewer are tested on, without a fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_splat import TinySplat, make_camera, make_splat

from splatseg.core.scene import Points, Scene, View
from splatseg.core.splat import FeatureSplat
from splatseg.io.ply import save_gaussians
from splatseg.io.run import Run
from splatseg.session import Workspace


@dataclass(frozen=True)
class KnownRun:
    """A workspace on ``splat`` and two photos, ``front`` and ``side``."""

    splat: TinySplat
    workspace: Workspace


def make_scene(folder: Path, size: float = 1.0) -> Scene:
    views = []
    for name, camera in (("front", make_camera(size=size)), ("side", make_camera(0.5, size))):
        path = folder / f"{name}.png"
        Image.fromarray(np.full((camera.height, camera.width, 3), 120, np.uint8)).save(path)
        views.append(View(f"{name}.png", camera, path))
    return Scene(tuple(views), Points(torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.uint8)))


def make_run(folder: Path, size: float = 1.0) -> KnownRun:
    """Write the run (not its photos' COLMAP model) and open it; all lengths are ``size`` times as large."""
    photos = folder / "photos"
    photos.mkdir()
    splat = make_splat(size=size)
    run = Run.open(folder / "run", {"scene": str(photos), "downscale": 1})
    save_gaussians(run.geometry, splat.gaussians)
    splat.field.save(run.features)
    return KnownRun(splat, Workspace(run, FeatureSplat(splat.gaussians, splat.field), make_scene(photos, size)))
