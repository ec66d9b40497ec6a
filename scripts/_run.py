"""What the scripts that read a finished run share: its splat, its features, and the photos it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from splatseg.errors import SplatsegError
from splatseg.field import FeatureField
from splatseg.gaussians import Gaussians
from splatseg.io.colmap import load_colmap, run_sfm
from splatseg.io.ply import load_gaussians
from splatseg.io.run import Run
from splatseg.scene import Scene


def load_field(run: Run) -> tuple[Gaussians, FeatureField]:
    """The run's splat and the features that were fitted on it.

    Raises:
        SplatsegError: one of them is missing, broken, or they do not belong together.
    """
    for path in (run.geometry, run.features):
        if not path.is_file():
            raise SplatsegError(f"{path}: expected a finished fit (scripts/fit.py), found no such file")
    gaussians = load_gaussians(run.geometry)
    return gaussians, FeatureField.load(run.features, gaussians)


def load_scene(run: Run) -> Scene:
    """The capture that the run was fitted on, at the size it was fitted with.

    Raises:
        SplatsegError: the run's settings are damaged, or the capture has moved or changed.
    """
    settings = run.scene_settings()
    if not isinstance(settings.get("scene"), str):
        raise SplatsegError(f"{run.folder / 'scene.json'}: scene: expected a path, found {settings.get('scene')!r}")
    folder = Path(settings["scene"])
    if not folder.is_dir():
        raise SplatsegError(f"{folder}: expected the capture of {run.folder}, found none; was it moved?")
    if read_config(run).get("sfm"):
        images = folder / "images" if (folder / "images").is_dir() else folder
        folder = run_sfm(images, run.sfm)
    return load_colmap(folder, int(settings.get("downscale", 1)), run.cache)


def read_config(run: Run) -> dict[str, Any]:
    """``config.yaml`` of the run; empty where it is absent.

    Raises:
        SplatsegError: it is no YAML mapping.
    """
    if not run.config.is_file():
        return {}
    try:
        content = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SplatsegError(f"{run.config}: expected YAML, found {error}") from None
    if not isinstance(content, dict):
        raise SplatsegError(f"{run.config}: expected settings, found a {type(content).__name__}")
    return content
