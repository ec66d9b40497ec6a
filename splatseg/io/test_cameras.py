"""Held-out views of a capture that names them: ``test_cameras.json`` beside ``test_images/``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splatseg.core.camera import Camera
from splatseg.core.errors import DAMAGED, SplatsegError, naming
from splatseg.core.reading import read_json
from splatseg.core.scene import Scene, View
from splatseg.io.frames import Offset, local_offset

FILE = "test_cameras.json"
_ROTATION_TOLERANCE = 1e-3  # by which a written rotation may miss orthogonality


@dataclass(frozen=True, eq=False)
class _Written:
    """What the file says: ``calibration`` (3, 3); names and poses (m, 4, 4) of its images, cam_from_world."""

    calibration: NDArray[np.float64]
    width: int
    height: int
    names: list[str]
    poses: NDArray[np.float64]


def load_test_views(folder: Path | str, scene: Scene) -> tuple[View, ...]:
    """The held-out views of ``test_cameras.json``, in file order, in the frame of ``scene`` and with its near plane.

    Raises:
        SplatsegError: as :func:`held_out_views`.
    """
    offset, views = held_out_views(Path(folder))
    origin = (np.array(scene.offset) - np.array(offset)).tolist()
    near = scene.views[0].camera.near
    with naming(Path(folder) / FILE):
        return tuple(replace(view, camera=replace(view.camera.with_origin(origin), near=near)) for view in views)


def held_out_views(folder: Path) -> tuple[Offset, list[View]]:
    """Where the origin of the views' frame lies in the capture's (:mod:`splatseg.io.frames`), and the views.

    Raises:
        SplatsegError: the file is missing, not JSON, lacks a field, or holds a value that no camera can have.
    """
    written = _written(folder / FILE)
    poses = written.poses.copy()
    offset = local_offset(poses)
    poses[:, :3, 3] += poses[:, :3, :3] @ np.array(offset)
    views = []
    for name, pose in zip(written.names, poses, strict=True):
        with naming(f"{folder / FILE}: image '{name}'"):
            calibration = torch.from_numpy(written.calibration).float()
            camera = Camera(calibration, torch.from_numpy(pose).float(), written.width, written.height)
        views.append(View(name, camera, folder / "test_images" / name))
    return offset, views


def _written(path: Path) -> _Written:
    """The fields of the file at ``path``, converted and checked."""
    content = read_object(path)
    try:
        model, images = content["model"], list(content["images"])
        fx, fy, cx, cy = (float(value) for value in content["params"])
        size = content["width"], content["height"]
        names = [image["name"] for image in images]
        poses = np.tile(np.eye(4), (len(images), 1, 1))
        for pose, image in zip(poses, images, strict=True):
            pose[:3, :3], pose[:3, 3] = np.array(image["R"], np.float64), np.array(image["t"], np.float64)
    except DAMAGED as error:
        raise SplatsegError(f"{path}: expected camera fields, found a fault at {error!r}") from None
    if model != "PINHOLE":
        raise SplatsegError(f"{path}: model: expected PINHOLE, found {model!r}")
    if not (np.isfinite((fx, fy, cx, cy)).all() and fx > 0 and fy > 0):
        raise SplatsegError(f"{path}: params: expected positive focal lengths and a center, found {fx, fy, cx, cy}")
    if not all(type(value) is int and 0 < value < 2**16 for value in size):
        raise SplatsegError(f"{path}: width, height: expected whole numbers in 1..65535, found {size}")
    if not all(isinstance(name, str) and name for name in names):
        raise SplatsegError(f"{path}: images: expected each with a name, found others")
    _check_rigid(path, names, poses)
    return _Written(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), *size, names, poses)


def _check_rigid(path: Path, names: list[str], poses: NDArray[np.float64]) -> None:
    for name, pose in zip(names, poses, strict=True):
        if not np.isfinite(pose).all():
            raise SplatsegError(f"{path}: image '{name}': expected finite R and t, found others")
        turn = pose[:3, :3]
        with np.errstate(over="ignore", invalid="ignore"):
            rigid = np.abs(turn @ turn.T - np.eye(3)).max() <= _ROTATION_TOLERANCE and np.linalg.det(turn) > 0
        if not rigid:
            raise SplatsegError(f"{path}: image '{name}': R: expected a rotation, found another matrix")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        SplatsegError: the file is missing, or holds something else.
    """
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise SplatsegError(f"{path}: file of the hierarchical scene not found") from None
    except DAMAGED as error:
        raise SplatsegError(f"{path}: expected JSON, found {error}") from None
    if not isinstance(content, dict):
        raise SplatsegError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content
