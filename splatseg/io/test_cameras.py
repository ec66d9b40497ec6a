"""Held-out views of a capture that names them: ``test_cameras.json`` beside ``test_images/``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.scene import Scene, View


def load_test_views(folder: Path | str, scene: Scene | None = None) -> tuple[View, ...]:
    """The held-out views of ``test_cameras.json``, in file order; in the frame of ``scene``, where that is given.

    Raises:
        SplatsegError: the file is missing, not JSON, or lacks a field.
    """
    folder = Path(folder)
    cameras = read_object(folder / "test_cameras.json")
    try:
        return tuple(held_out_views(folder, cameras, scene))
    except (KeyError, TypeError, ValueError) as error:
        raise SplatsegError(
            f"{folder / 'test_cameras.json'}: expected camera fields, found a fault at {error}"
        ) from None


def held_out_views(folder: Path, cameras: dict[str, Any], scene: Scene | None) -> Iterator[View]:
    if cameras["model"] != "PINHOLE":
        raise SplatsegError(f"{folder / 'test_cameras.json'}: model: expected PINHOLE, found {cameras['model']}")
    fx, fy, cx, cy = cameras["params"]
    intrinsics = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float32)
    for image in cameras["images"]:
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = torch.tensor(image["R"], dtype=torch.float64)
        pose[:3, 3] = torch.tensor(image["t"], dtype=torch.float64)
        near = Camera.near
        if scene is not None:
            pose[:3, 3] += pose[:3, :3] @ torch.tensor(scene.offset, dtype=torch.float64)
            near = scene.views[0].camera.near
        camera = Camera(intrinsics, pose.float(), cameras["width"], cameras["height"], near)
        yield View(image["name"], camera, folder / "test_images" / image["name"])


def read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise SplatsegError(f"{path}: file of the hierarchical scene not found") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SplatsegError(f"{path}: expected JSON, found {error}") from None
    if not isinstance(content, dict):
        raise SplatsegError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content
