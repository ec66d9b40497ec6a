"""Held-out views of a capture that names them: ``test_cameras.json`` beside ``test_images/``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splatseg.core.camera import Camera
from splatseg.core.errors import DAMAGED, SplatsegError
from splatseg.core.reading import read_json
from splatseg.core.scene import Scene, View
from splatseg.io.frames import Offset, local_offset


def load_test_views(folder: Path | str, scene: Scene) -> tuple[View, ...]:
    """The held-out views of ``test_cameras.json``, in file order, in the frame of ``scene`` and with its near plane.

    Raises:
        SplatsegError: the file is missing, not JSON, or lacks a field.
    """
    folder = Path(folder)
    cameras = read_object(folder / "test_cameras.json")
    try:
        offset, views = held_out_views(folder, cameras)
    except DAMAGED as error:
        raise SplatsegError(
            f"{folder / 'test_cameras.json'}: expected camera fields, found a fault at {error}"
        ) from None
    origin = (np.array(scene.offset) - np.array(offset)).tolist()
    near = scene.views[0].camera.near
    return tuple(replace(view, camera=replace(view.camera.with_origin(origin), near=near)) for view in views)


def held_out_views(folder: Path, cameras: dict[str, Any]) -> tuple[Offset, list[View]]:
    """Where the origin of the views' frame lies in the capture's (:mod:`splatseg.io.frames`), and the views."""
    if cameras["model"] != "PINHOLE":
        raise SplatsegError(f"{folder / 'test_cameras.json'}: model: expected PINHOLE, found {cameras['model']}")
    fx, fy, cx, cy = cameras["params"]
    intrinsics = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float32)
    poses = np.tile(np.eye(4), (len(cameras["images"]), 1, 1))
    for pose, image in zip(poses, cameras["images"], strict=True):
        pose[:3, :3], pose[:3, 3] = np.array(image["R"], np.float64), np.array(image["t"], np.float64)
    offset = local_offset(poses)
    poses[:, :3, 3] += poses[:, :3, :3] @ np.array(offset)
    views = []
    for pose, image in zip(poses, cameras["images"], strict=True):
        camera = Camera(intrinsics, torch.from_numpy(pose).float(), cameras["width"], cameras["height"])
        views.append(View(image["name"], camera, folder / "test_images" / image["name"]))
    return offset, views


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
