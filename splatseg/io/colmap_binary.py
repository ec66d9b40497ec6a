"""The binary files of a COLMAP model, in the layouts of COLMAP's src/colmap/scene/reconstruction_io_binary.cc."""

from __future__ import annotations

import math
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatseg.core.errors import SplatsegError
from splatseg.core.reading import read_bytes
from splatseg.io.colmap_types import (
    CAMERA_MODELS,
    ModelCamera,
    ModelDraft,
    ModelImage,
    add_image,
    check_track,
    model_camera,
)

COUNT = Struct("<Q")
_CAMERA = Struct("<IiQQ")  # id, model, width, height
IMAGE = Struct("<I7dI")  # id, qvec (wxyz), tvec, camera id
_POINT = Struct("<Q3d3BdQ")  # id, xyz, rgb, error, track length
_POINT2D = np.dtype([("xy", "<f8", 2), ("id", "<i8")])
TRACK = np.dtype([("image", "<u4"), ("index", "<u4")])
_MODEL_NAMES = {number: name for name, (number, _, _) in CAMERA_MODELS.items()}


class Reader:
    """The bytes of one file, taken from front to back; running out of them is an error that names the field."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        try:
            self.data = read_bytes(path)
        except OSError as error:
            raise SplatsegError(f"{path}: expected a readable file, found: {error.strerror}") from None

    def _need(self, size: int, name: str) -> None:
        if self.offset + size > len(self.data):
            left = len(self.data) - self.offset
            raise SplatsegError(
                f"{self.path}: {name}: expected {size} bytes at offset {self.offset}, found {left} (truncated?)"
            )

    def take(self, layout: Struct, name: str) -> tuple[Any, ...]:
        self._need(layout.size, name)
        self.offset += layout.size
        return layout.unpack_from(self.data, self.offset - layout.size)

    def count(self, name: str, record: int) -> int:
        """A count of records of at least ``record`` bytes each, checked against what is left of the file."""
        number: int = self.take(COUNT, name)[0]
        left = len(self.data) - self.offset
        if number * record > left:
            raise SplatsegError(f"{self.path}: {name}: expected at most {left // record} to fit, found {number}")
        return number

    def array(self, dtype: np.dtype[Any], number: int, name: str) -> NDArray[Any]:
        self._need(dtype.itemsize * number, name)
        values = np.frombuffer(self.data, dtype, number, self.offset)
        self.offset += values.nbytes
        return values

    def skip(self, size: int, name: str) -> None:
        self._need(size, name)
        self.offset += size

    def text(self, name: str) -> str:
        end = self.data.find(b"\0", self.offset)
        if end < 0:
            raise SplatsegError(f"{self.path}: {name}: expected text ended by a zero byte, found the end of the file")
        raw, self.offset = self.data[self.offset : end], end + 1
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise SplatsegError(f"{self.path}: {name}: expected UTF-8 text, found {raw[:20]!r}") from None


def read_cameras(path: Path, model: ModelDraft) -> None:
    reader = Reader(path)
    for _ in range(reader.count("number of cameras", _CAMERA.size)):
        camera_id, number, width, height = reader.take(_CAMERA, "camera")
        where = f"{path}: camera {camera_id}"
        kind = _MODEL_NAMES.get(number)
        if kind is None:
            raise SplatsegError(f"{where}: model: expected a camera model COLMAP knows, found number {number}")
        params = reader.array(np.dtype("<f8"), CAMERA_MODELS[kind][1], f"camera {camera_id} params")
        model.cameras[camera_id] = model_camera(where, kind, (width, height), params.tolist())


def read_images(path: Path, model: ModelDraft) -> None:
    reader = Reader(path)
    for _ in range(reader.count("number of images", IMAGE.size + 1 + COUNT.size)):
        image_id, *pose, camera_id = reader.take(IMAGE, "image")
        name = reader.text(f"image {image_id} name")
        number = reader.count(f"image {image_id} ({name}) 2D points", _POINT2D.itemsize)
        reader.skip(_POINT2D.itemsize * number, f"image {image_id} 2D points")
        image = ModelImage(name, camera_id, tuple(pose[:4]), tuple(pose[4:]))
        add_image(model, f"{path}: image {image_id} ({name})", image_id, image, number)


def read_points(path: Path, model: ModelDraft) -> None:
    reader = Reader(path)
    for _ in range(reader.count("number of points", _POINT.size)):
        point_id, x, y, z, r, g, b, _error, length = reader.take(_POINT, "point")
        track = reader.array(TRACK, length, f"point {point_id} track")
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
            raise SplatsegError(f"{path}: point {point_id}: xyz: expected finite values, found ({x}, {y}, {z})")
        if point_id in model.points:
            raise SplatsegError(f"{path}: expected unique point ids, found {point_id} twice")
        model.points[point_id] = (x, y, z), (r, g, b)
        check_track(model, f"{path}: point {point_id}", track["image"], track["index"])


def write_cameras_and_images(folder: Path, cameras: dict[int, ModelCamera], images: dict[str, ModelImage]) -> None:
    """A binary model without points in ``folder``, its images under the given names: what the undistorter needs."""
    folder.mkdir(parents=True, exist_ok=True)
    data = COUNT.pack(len(cameras))
    for camera_id, camera in cameras.items():
        data += _CAMERA.pack(camera_id, CAMERA_MODELS[camera.model][0], camera.width, camera.height)
        data += np.array(camera.params, "<f8").tobytes()
    (folder / "cameras.bin").write_bytes(data)
    records = [
        IMAGE.pack(number, *image.qvec, *image.tvec, image.camera_id) + name.encode() + b"\0" + COUNT.pack(0)
        for number, (name, image) in enumerate(images.items(), start=1)
    ]
    (folder / "images.bin").write_bytes(COUNT.pack(len(records)) + b"".join(records))
    (folder / "points3D.bin").write_bytes(COUNT.pack(0))


def write_names(folder: Path, names: dict[str, str]) -> None:
    """Give the images of the binary model in ``folder`` other names: old -> new; those not listed keep theirs."""
    path = folder / "images.bin"
    reader = Reader(path)
    parts = [reader.data[: COUNT.size]]
    for _ in range(reader.count("number of images", IMAGE.size + 1 + COUNT.size)):
        start = reader.offset
        reader.take(IMAGE, "image")
        parts.append(reader.data[start : reader.offset])
        name = reader.text("name")
        parts.append(names.get(name, name).encode() + b"\0")
        start = reader.offset
        reader.skip(_POINT2D.itemsize * reader.count("2D points", _POINT2D.itemsize), "2D points")
        parts.append(reader.data[start : reader.offset])
    path.write_bytes(b"".join(parts))
