"""A run folder around a splat with known parts: what session and viewer are tested on, without a fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny_splat import TinySplat, make_camera, make_splat

from splatseg.core.scene import Points, Scene, View
from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.io.ply import save_gaussians
from splatseg.io.run import Run
from splatseg.session import Session, Workspace


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


def part(known: KnownRun, *numbers: int) -> Selection:
    """The Gaussians of these parts."""
    return Selection(torch.isin(known.splat.parts, torch.tensor(numbers)))


def click(session: Session, known: KnownRun, number: int, mode: Any = "replace") -> Selection:
    """Click the middle of a part in the front view."""
    return session.click("front", *known.splat.pixel_of(number), mode=mode)
