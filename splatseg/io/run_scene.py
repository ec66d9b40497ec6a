"""The scene of a run: one loader for the fit that makes the run and for all that open it later, so that they see the
same poses and photos."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from splatseg.core.atomic import write_text
from splatseg.core.errors import DAMAGED, SplatsegError, naming
from splatseg.core.reading import read_json, read_text
from splatseg.core.scene import Scene, View
from splatseg.io.colmap import check_downscale, has_model, load_colmap
from splatseg.io.digests import digest
from splatseg.io.run import Run
from splatseg.io.run_paths import RunPaths
from splatseg.io.sfm import is_sfm_of, run_sfm

log = logging.getLogger(__name__)
_OF_THE_PHOTOS = ("watershed", "sam", None)  # sources of masks that are no folder


def load_run_scene(
    run: Run, scene: Path | None = None, find_poses: bool = False, config: Mapping[str, Any] | None = None
) -> Scene:
    """The capture of ``run`` at the size that it is fitted with; poses are its own, or those that ``--sfm`` found.

    Args:
        scene: where the capture lies now, if it was moved.
        find_poses: of a run with ``--sfm``, find them where they are not there yet or of other photos.
        config: of a fit that has not written ``config.yaml`` yet, what it is going to write.

    Raises:
        SplatsegError: the run's settings are damaged, the capture has moved, or cannot be loaded.
    """
    settings, config = run.scene_settings(), read_config(run) if config is None else config
    folder = scene if scene is not None else _recorded(run, settings)
    if not folder.is_dir():
        hint = "" if scene is not None else "; was it moved? --scene says where it is now"
        raise SplatsegError(f"{folder}: expected the capture of {run.folder}, found none{hint}")
    masks = config.get("masks")
    options: dict[str, Any] = {"no_masks": None if masks in _OF_THE_PHOTOS else Path(str(masks))}
    if _has_found_poses(run, config, folder):
        photos = folder / "images" if (folder / "images").is_dir() else folder
        if find_poses:
            if (
                recorded_place(run, folder) != settings.get("scene")
                and has_model(run.sfm)
                and not is_sfm_of(photos, run.sfm)
            ):
                raise SplatsegError(
                    f"{run.folder}: scene: expected the photos that its poses were found from, once in "
                    f"{settings.get('scene')}, found others in {photos}; choose another --out"
                )
            run_sfm(photos, run.sfm, options["no_masks"])
        elif not has_model(run.sfm):
            raise SplatsegError(f"{run.sfm}: expected the poses that scripts/fit.py --sfm finds, found none")
        folder, options["images"] = run.sfm, photos
    downscale = settings.get("downscale", 1)
    with naming(run.identity):
        if type(downscale) is not int:
            raise SplatsegError(f"downscale: expected a whole number of at least 1, found {downscale!r}")
        check_downscale(downscale)
    return load_colmap(folder, downscale, run.cache, **options)


def recorded_place(run: RunPaths, scene: Path) -> str:
    """How a run's ``scene.json`` names the capture in ``scene``: one inside the run folder moves with it."""
    place, folder = scene.resolve(), run.folder.resolve()
    return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else str(place)


def take_capture(run: Run, scene: Path, views: Sequence[View]) -> None:
    """Note that ``run`` is of the capture in ``scene``, whose photos are those of ``views``.

    A capture is known by its photos (names and contents): it may have been moved, which is said in a line, and changed
    since. Results of other photos are not given up for those of a capture elsewhere.

    Raises:
        SplatsegError: the run is of a capture elsewhere that shares less than half of the photos.
    """
    place, before = recorded_place(run, scene), run.scene_settings().get("scene")
    photos, known = {view.name: digest(files=[view.image_path]) for view in views}, _known_photos(run)
    if place != before:
        shared = sum(known.get(name) == value for name, value in photos.items())
        if 2 * shared < max(len(photos), len(known), 1) and run.holds_work():
            raise SplatsegError(
                f"{run.folder}: scene: expected the capture that this run is of, from {before}, found {scene} with "
                f"{shared} of its {len(known)} photos; choose another --out"
            )
        log.warning("%s: its capture is in %s now, it was in %s", run.folder, place, before)
        run.replace_scene_settings(scene=place)
    if known != photos:
        write_text(run.capture, json.dumps(photos, indent=1) + "\n")


def _known_photos(run: Run) -> dict[str, str]:
    """Digest of each photo of the run's capture; empty where an older version, or a kill, left none."""
    try:
        return dict(read_json(run.capture))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _recorded(run: Run, settings: dict[str, Any]) -> Path:
    if not isinstance(settings.get("scene"), str):
        raise SplatsegError(f"{run.identity}: scene: expected a path, found {settings.get('scene')!r}")
    return run.folder / settings["scene"]


def _has_found_poses(run: Run, config: Mapping[str, Any], folder: Path) -> bool:
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
        content = yaml.safe_load(read_text(run.config))
    except (*DAMAGED, yaml.YAMLError) as error:
        raise SplatsegError(f"{run.config}: expected YAML, found {error}") from None
    if not isinstance(content, dict):
        raise SplatsegError(f"{run.config}: expected settings, found a {type(content).__name__}")
    return content
