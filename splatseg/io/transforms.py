"""``transforms.json`` of nerfstudio and instant-ngp as a model: poses in OpenGL axes, intrinsics global or by frame.

Fields: ``fl_x fl_y cx cy w h k1 k2 k3 k4 p1 p2`` or ``camera_angle_x camera_angle_y``; ``camera_model`` (OPENCV,
OPENCV_FISHEYE, PINHOLE, SIMPLE_PINHOLE), ``is_fisheye``; of every frame ``file_path``, ``transform_matrix`` (camera to
world, x right, y up, z backward) and ``mask_path``; ``ply_file_path``, points in the same frame.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyParseError
from scipy.spatial.transform import Rotation

from splatseg.core.errors import DAMAGED, SplatsegError
from splatseg.core.photos import photo_size, photo_suffixes
from splatseg.core.reading import read_json
from splatseg.io.colmap_types import Model, ModelCamera, ModelImage, check_camera, model_camera
from splatseg.io.names import is_file
from splatseg.io.ply import read_ply

TRANSFORMS = "transforms.json"
RANDOM_POINTS = 10_000  # where a capture has none
_ROTATION_TOLERANCE = 1e-3  # by which a written rotation may miss orthogonality
log = logging.getLogger(__name__)


def read_transforms(path: Path) -> Model:
    """The model in ``path``; where it names no points, random ones in the cameras' bounds, said in a line.

    Raises:
        SplatsegError: unreadable JSON, a field that is missing or makes no sense, a missing file.
    """
    try:
        content = read_json(path, "utf-8-sig")
    except DAMAGED as error:
        raise SplatsegError(f"{path}: expected JSON, found: {error}") from None
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise SplatsegError(f"{path}: frames: expected a list with at least one frame, found none")
    cameras: dict[ModelCamera, int] = {}
    files = _files(path, frames)
    # Names are relative to the folder of photos, as COLMAP's, where there is one.
    inside = all(name.startswith("images/") for name in files)
    names = [name.removeprefix("images/") if inside else name for name in files]
    images = []
    for number, (frame, file, name) in enumerate(zip(frames, files, names, strict=True)):
        where = f"{path}: frames[{number}]"
        camera = _camera(where, path.parent / file, {**content, **frame})
        rotation, position = _pose(where, frame.get("transform_matrix"))
        x, y, z, w = Rotation.from_matrix(rotation).as_quat()
        mask = frame.get("mask_path")
        images.append(
            ModelImage(
                name,
                cameras.setdefault(camera, len(cameras) + 1),
                (w, x, y, z),
                tuple(-rotation @ position),
                path.parent / mask if isinstance(mask, str) and mask else None,
            )
        )
    if len(set(names)) != len(names):
        raise SplatsegError(f"{path}: frames: expected unique file_path, found one twice")
    xyz, rgb = _points(path, content.get("ply_file_path"), images)
    images.sort(key=lambda image: image.name)
    return Model({number: camera for camera, number in cameras.items()}, tuple(images), xyz, rgb)


def _files(path: Path, frames: list[dict[str, Any]]) -> list[str]:
    """The photos' names relative to the folder; a missing suffix is added, as instant-ngp leaves it out."""
    names = []
    for number, frame in enumerate(frames):
        name = frame.get("file_path")
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise SplatsegError(f"{path}: frames[{number}].file_path: expected the name of a photo, found {name!r}")
        name = PurePosixPath(name.replace("\\", "/")).as_posix()
        if not is_file(path.parent / name) and PurePosixPath(name).suffix.lower() not in photo_suffixes():
            endings = (".png", ".jpg", ".jpeg", ".webp")
            name += next((ending for ending in endings if is_file(path.parent / f"{name}{ending}")), "")
        names.append(name)
    return names


def _number(where: str, fields: dict[str, Any], *names: str) -> float | None:
    """The first of ``names`` that is there."""
    for name in names:
        value = fields.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e308:
                raise SplatsegError(f"{where}: {name}: expected a number, found {value!r}")
            return float(value)
    return None


def _camera(where: str, photo: Path, fields: dict[str, Any]) -> ModelCamera:
    width, height = _number(where, fields, "w"), _number(where, fields, "h")
    if width is None or height is None:
        width, height = photo_size(photo, photo.name)
    fx = _number(where, fields, "fl_x")
    if fx is None and (angle := _number(where, fields, "camera_angle_x")) is not None and 0 < angle < math.pi:
        fx = width / (2 * math.tan(angle / 2))
    fy = _number(where, fields, "fl_y")
    if fy is None and (angle := _number(where, fields, "camera_angle_y")) is not None and 0 < angle < math.pi:
        fy = height / (2 * math.tan(angle / 2))
    if fx is None and fy is None:
        raise SplatsegError(f"{where}: expected fl_x or camera_angle_x, found neither")
    cx, cy = _number(where, fields, "cx"), _number(where, fields, "cy")
    pinhole = [
        fx if fx is not None else float(fy or 0),
        fy if fy is not None else float(fx or 0),
        width / 2 if cx is None else cx,
        height / 2 if cy is None else cy,
    ]
    kind, distortion = _distortion(where, fields)
    camera = model_camera(where, kind, (round(width), round(height)), [*pinhole, *distortion])
    check_camera(where, camera)
    return camera


def _distortion(where: str, fields: dict[str, Any]) -> tuple[str, list[float]]:
    """COLMAP's model and the parameters after focal lengths and principal point."""
    k1, k2, k3, k4, p1, p2 = (_number(where, fields, name) or 0.0 for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    named = fields.get("camera_model", "OPENCV")
    if named == "OPENCV_FISHEYE" or fields.get("is_fisheye") is True:
        return "OPENCV_FISHEYE", [k1, k2, k3, k4]
    if named not in ("OPENCV", "FULL_OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        raise SplatsegError(f"{where}: camera_model: expected OPENCV, OPENCV_FISHEYE or PINHOLE, found {named!r}")
    if k3 or k4:  # in this model a fourth coefficient divides: nerfstudio never writes one without fisheye
        return "FULL_OPENCV", [k1, k2, p1, p2, k3, k4, 0.0, 0.0]
    return ("OPENCV", [k1, k2, p1, p2]) if any((k1, k2, p1, p2)) else ("PINHOLE", [])


def _pose(where: str, value: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotation cam_from_world (3, 3) in OpenCV axes and the camera's position (3,)."""
    try:
        matrix = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape not in ((4, 4), (3, 4)) or not np.isfinite(matrix).all():
        raise SplatsegError(f"{where}: transform_matrix: expected 4x4 finite numbers, found others")
    world_from_cam = matrix[:3, :3] * (1, -1, -1)
    if (
        np.abs(world_from_cam @ world_from_cam.T - np.eye(3)).max() > _ROTATION_TOLERANCE
        or np.linalg.det(world_from_cam) < 0
    ):
        raise SplatsegError(f"{where}: transform_matrix: expected a rotation in its upper left, found none")
    return world_from_cam.T, matrix[:3, 3]


def _points(path: Path, named: Any, images: list[ModelImage]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    if named is None:
        xyz = random_points(np.stack([np.linalg.inv(image.cam_from_world()) for image in images]))
        log.warning("%s: names no points; starting from %d random ones in the bounds of the cameras", path, len(xyz))
        return xyz, np.full(xyz.shape, 128, np.uint8)
    if not isinstance(named, str) or not is_file(path.parent / named):
        raise SplatsegError(f"{path}: ply_file_path: expected a file of points, found no {named!r}")
    return _read_points(path.parent / named)


def _read_points(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    try:
        vertex = read_ply(path)["vertex"]
        xyz = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], axis=1)
        properties = {prop.name for prop in vertex.properties}
        if {"red", "green", "blue"} <= properties:
            rgb = np.stack([np.asarray(vertex[color]) for color in ("red", "green", "blue")], axis=1)
        else:
            rgb = np.full(xyz.shape, 128)
    except (*DAMAGED, PlyParseError) as error:
        raise SplatsegError(f"{path}: expected a PLY of points with x, y, z, found: {error}") from None
    if not np.isfinite(xyz).all():
        raise SplatsegError(f"{path}: expected finite points, found others")
    if rgb.dtype.kind == "f":  # Open3D writes bytes, some others shares of 1
        rgb = rgb * 255 if rgb.max(initial=0) <= 1 else rgb
    return xyz, rgb.clip(0, 255).astype(np.uint8)


def random_points(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """(RANDOM_POINTS, 3) in a cube around what the cameras look at, the same at every call.

    Args:
        poses: (m, 4, 4) world_from_cam, OpenCV axes. The cube's center is the point nearest to all optical axes, or,
            where they are parallel or meet behind the cameras, a point in front of their mean; half a side is the mean
            distance to it.
    """
    centers, axes = poses[:, :3, 3], poses[:, :3, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]  # distance of a point to an optical axis
    system, right = across.sum(0), (across @ centers[:, :, None]).sum(0)[:, 0]
    mean = centers.mean(0)
    spread = float(np.linalg.norm(centers - mean, axis=1).max()) or 1.0
    focus = np.linalg.solve(system, right) if np.linalg.cond(system) < 1e6 else mean + axes.mean(0) * 2 * spread
    if ((focus - centers) * axes).sum(1).mean() <= 0:
        focus = mean + axes.mean(0) * 2 * spread
    half = float(np.linalg.norm(centers - focus, axis=1).mean()) or 1.0
    return focus + np.random.default_rng(0).uniform(-half, half, (RANDOM_POINTS, 3))
