"""What a COLMAP model holds, and what is asked of it, whatever form its files have."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splatseg.core.errors import SplatsegError

# Number in a file, intrinsic parameters, and how many of the first of them are focal lengths; COLMAP's
# src/colmap/sensor/models.h.
CAMERA_MODELS = {
    "SIMPLE_PINHOLE": (0, 3, 1),
    "PINHOLE": (1, 4, 2),
    "SIMPLE_RADIAL": (2, 4, 1),
    "RADIAL": (3, 5, 1),
    "OPENCV": (4, 8, 2),
    "OPENCV_FISHEYE": (5, 8, 2),
    "FULL_OPENCV": (6, 12, 2),
    "FOV": (7, 5, 2),
    "SIMPLE_RADIAL_FISHEYE": (8, 4, 1),
    "RADIAL_FISHEYE": (9, 5, 1),
    "THIN_PRISM_FISHEYE": (10, 12, 2),
    "RAD_TAN_THIN_PRISM_FISHEYE": (11, 16, 2),
    "SIMPLE_DIVISION": (12, 4, 1),
    "DIVISION": (13, 5, 2),
    "SIMPLE_FISHEYE": (14, 3, 1),
    "FISHEYE": (15, 4, 2),
    "EUCM": (16, 6, 2),
}
PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")
MAX_SIDE = 1_000_000  # pixels; a larger width or height is a damaged file


@dataclass(frozen=True)
class ModelCamera:
    """A camera as COLMAP has it: ``model`` is one of :data:`CAMERA_MODELS`, ``params`` its parameters in pixels."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def calibration_matrix(self) -> NDArray[np.float64]:
        """(3, 3) K of the focal lengths and the principal point; the whole truth for a pinhole camera alone."""
        focal = CAMERA_MODELS[self.model][2]
        fx, fy = self.params[0], self.params[focal - 1]
        cx, cy = self.params[focal : focal + 2]
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


@dataclass(frozen=True, eq=False)
class ModelImage:
    """A registered image: ``qvec`` (w, x, y, z) and ``tvec`` of ``x_cam = R x_world + t``; ``mask`` a file or None."""

    name: str
    camera_id: int
    qvec: tuple[float, ...]
    tvec: tuple[float, ...]
    mask: Path | None = None

    def cam_from_world(self) -> NDArray[np.float64]:
        """(4, 4)."""
        w, x, y, z = np.array(self.qvec) / np.linalg.norm(self.qvec)
        pose = np.eye(4)
        pose[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        pose[:3, 3] = self.tvec
        return pose


@dataclass(frozen=True, eq=False)
class Model:
    """Cameras by id, registered images by name, sparse points: ``xyz`` (m, 3) float64, ``rgb`` (m, 3) uint8."""

    cameras: dict[int, ModelCamera]
    images: tuple[ModelImage, ...]
    xyz: NDArray[np.float64]
    rgb: NDArray[np.uint8]


@dataclass(eq=False)
class ModelDraft:
    """What has been read so far, to check references between files."""

    cameras: dict[int, ModelCamera] = field(default_factory=dict)
    images: list[ModelImage] = field(default_factory=list)
    points: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = field(default_factory=dict)  # id -> xyz, rgb
    points2d: dict[int, int] = field(default_factory=dict)  # image id -> number of 2D points
    names: dict[str, int] = field(default_factory=dict)


def check_finite_values(where: str, name: str, values: tuple[float, ...] | list[float]) -> None:
    for value in values:
        if not math.isfinite(value):
            raise SplatsegError(f"{where}: {name}: expected finite values, found {value}")


def check_pose(where: str, pose: tuple[float, ...] | list[float]) -> None:
    check_finite_values(where, "qvec", pose[:4])
    check_finite_values(where, "tvec", pose[4:7])
    if not any(pose[:4]):
        raise SplatsegError(f"{where}: qvec: expected a quaternion, found all zeros")


def model_camera(where: str, kind: str, size: tuple[int, int], params: list[float]) -> ModelCamera:
    """The camera; raises :class:`SplatsegError` for another number of parameters than its model has."""
    if len(params) != (count := CAMERA_MODELS[kind][1]):
        raise SplatsegError(f"{where}: params: expected {count} of a {kind} camera, found {len(params)}")
    return ModelCamera(kind, size[0], size[1], tuple(params))


def check_camera(where: str, camera: ModelCamera) -> None:
    """Raise :class:`SplatsegError` where the size, parameters or focal lengths of a camera in use cannot be right."""
    width, height = camera.width, camera.height
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise SplatsegError(f"{where}: size: expected 1..{MAX_SIDE} pixels per side, found {width}x{height}")
    check_finite_values(where, "params", camera.params)
    for value in camera.params[: CAMERA_MODELS[camera.model][2]]:
        if value <= 0:
            raise SplatsegError(f"{where}: params: expected a positive focal length, found {value:g}")


def add_image(model: ModelDraft, where: str, image_id: int, image: ModelImage, points2d: int) -> None:
    """Add an image that has ``points2d`` 2D points."""
    check_pose(where, [*image.qvec, *image.tvec])
    if image.camera_id not in model.cameras:
        raise SplatsegError(f"{where}: camera_id: expected one of cameras.*, found {image.camera_id}")
    if not image.name.strip():
        raise SplatsegError(f"{where}: name: expected an image name, found an empty one")
    if image_id in model.points2d or image.name in model.names:
        raise SplatsegError(f"{where}: expected unique image ids and names, found '{image.name}' (id {image_id}) twice")
    model.names[image.name] = image_id
    model.images.append(image)
    model.points2d[image_id] = points2d


def check_track(model: ModelDraft, where: str, images: NDArray[np.uint32], indices: NDArray[np.uint32]) -> None:
    for image, index in zip(images.tolist(), indices.tolist(), strict=True):
        if image not in model.points2d:
            raise SplatsegError(f"{where}: track: expected images of images.*, found image id {image}")
        if index >= model.points2d[image]:
            raise SplatsegError(
                f"{where}: track: expected a 2D point below {model.points2d[image]} of image {image}, found {index}"
            )
