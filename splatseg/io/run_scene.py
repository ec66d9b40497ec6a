"""The scene of a run: one loader for the fit that makes the run and for all that open it later, so that they see the
same poses and photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from splatseg.core.errors import SplatsegError
from splatseg.core.scene import Scene
from splatseg.io.colmap import has_model, load_colmap
from splatseg.io.run import Run
from splatseg.io.sfm import run_sfm

_OF_THE_PHOTOS = ("watershed", "sam", None)  # sources of masks that are no folder


def load_run_scene(run: Run, scene: Path | None = None, find_poses: bool = False) -> Scene:
    """The capture of ``run`` at the size that it is fitted with; poses are its own, or those that ``--sfm`` found.

    Args:
        scene: where the capture lies now, if it was moved.
        find_poses: of a run with ``--sfm``, find them where they are not there yet or of other photos.

    Raises:
        SplatsegError: the run's settings are damaged, the capture has moved, or cannot be loaded.
    """
    settings, config = run.scene_settings(), read_config(run)
    folder = scene if scene is not None else _recorded(run, settings)
    if not folder.is_dir():
        hint = "" if scene is not None else "; was it moved? --scene says where it is now"
        raise SplatsegError(f"{folder}: expected the capture of {run.folder}, found none{hint}")
    masks = config.get("masks")
    options: dict[str, Any] = {"no_masks": None if masks in _OF_THE_PHOTOS else Path(str(masks))}
    if _has_found_poses(run, config, folder):
        photos = folder / "images" if (folder / "images").is_dir() else folder
        if find_poses:
            run_sfm(photos, run.sfm)
        elif not has_model(run.sfm):
            raise SplatsegError(f"{run.sfm}: expected the poses that scripts/fit.py --sfm finds, found none")
        folder, options["images"] = run.sfm, photos
    return load_colmap(folder, int(settings.get("downscale", 1)), run.cache, **options)


def _recorded(run: Run, settings: dict[str, Any]) -> Path:
    if not isinstance(settings.get("scene"), str):
        raise SplatsegError(f"{run.folder / 'scene.json'}: scene: expected a path, found {settings.get('scene')!r}")
    return Path(settings["scene"])


def _has_found_poses(run: Run, config: dict[str, Any], folder: Path) -> bool:
    """What the fit was told; where that is lost, whether there are no other poses."""
    if "sfm" in config:
        return bool(config["sfm"])
    return not has_model(folder) and has_model(run.sfm)


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
