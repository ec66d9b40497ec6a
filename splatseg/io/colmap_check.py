"""Checks of COLMAP model files before pycolmap reads them.

pycolmap trusts the counts inside a file: a truncated or damaged one can make it allocate without bound or crash the
process. Walking the records here first (a second for a million points) turns that into one line naming file and field.
The binary layouts are those of COLMAP's ``src/colmap/scene/reconstruction_io_binary.cc``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from splatseg.errors import SplatsegError

_COUNT = Struct("<Q")
_CAMERA = Struct("<IiQQ")  # id, model, width, height
_IMAGE = Struct("<I7dI")  # id, qvec (wxyz), tvec, camera id
_POINT = Struct("<Q3d3BdQ")  # id, xyz, rgb, error, track length
_RIG = Struct("<II")  # id, number of sensors
_SENSOR = Struct("<iI")  # type, id
_FRAME = Struct("<II7dI")  # id, rig id, qvec, tvec, number of data ids
_DATA = Struct("<iIQ")  # sensor type, sensor id, data id
_POINT2D = np.dtype([("xy", "<f8", 2), ("id", "<i8")])
_TRACK = np.dtype([("image", "<u4"), ("index", "<u4")])
_NO_POINT = -1
_MAX_SIDE = 1_000_000  # pixels; a larger width or height is a damaged file
_MODEL_IDS = {int(member.value): member for member in pycolmap.CameraModelId.__members__.values()}
_MODEL_NAMES = {name: member for name, member in pycolmap.CameraModelId.__members__.items() if name != "INVALID"}


@dataclass(eq=False)
class _Model:
    """What has been read so far, to check references between files."""

    cameras: set[int] = field(default_factory=set)
    points2d: dict[int, int] = field(default_factory=dict)  # image id -> number of 2D points
    names: dict[str, int] = field(default_factory=dict)
    observed: list[NDArray[np.int64]] = field(default_factory=list)  # ids of 3D points that images refer to


def _finite(where: str, name: str, values: tuple[float, ...] | list[float]) -> None:
    for value in values:
        if not math.isfinite(value):
            raise SplatsegError(f"{where}: {name}: expected finite values, found {value}")


def _check_pose(where: str, pose: tuple[float, ...] | list[float]) -> None:
    _finite(where, "qvec", pose[:4])
    _finite(where, "tvec", pose[4:7])
    if not any(pose[:4]):
        raise SplatsegError(f"{where}: qvec: expected a quaternion, found all zeros")


def parameter_count(model: Any) -> int:
    """Number of intrinsic parameters of a ``pycolmap.CameraModelId``."""
    return len(pycolmap.Camera.create_from_model_id(1, model, 1.0, 2, 2).params)


def _check_camera(where: str, model: Any, size: tuple[int, int], params: tuple[float, ...] | list[float]) -> None:
    if not (0 < size[0] <= _MAX_SIDE and 0 < size[1] <= _MAX_SIDE):
        raise SplatsegError(f"{where}: size: expected 1..{_MAX_SIDE} pixels a side, found {size[0]}x{size[1]}")
    if len(params) != parameter_count(model):
        raise SplatsegError(
            f"{where}: params: expected {parameter_count(model)} of a {model.name} camera, found {len(params)}"
        )
    _finite(where, "params", params)
    camera = pycolmap.Camera(model=model, width=size[0], height=size[1], params=list(params))
    for index in camera.focal_length_idxs():
        if params[index] <= 0:
            raise SplatsegError(f"{where}: params: expected a positive focal length, found {params[index]:g}")


def _add_image(model: _Model, where: str, image_id: int, name: str, camera_id: int, ids: NDArray[np.int64]) -> None:
    if camera_id not in model.cameras:
        raise SplatsegError(f"{where}: camera_id: expected one of cameras.*, found {camera_id}")
    if not name:
        raise SplatsegError(f"{where}: name: expected an image name, found an empty one")
    if image_id in model.points2d or name in model.names:
        raise SplatsegError(f"{where}: expected unique image ids and names, found '{name}' (id {image_id}) twice")
    model.names[name] = image_id
    model.points2d[image_id] = len(ids)
    model.observed.append(np.unique(ids))


def _check_track(model: _Model, where: str, images: NDArray[np.uint32], indices: NDArray[np.uint32]) -> None:
    for image, index in zip(images.tolist(), indices.tolist(), strict=True):
        if image not in model.points2d:
            raise SplatsegError(f"{where}: track: expected images of images.*, found image id {image}")
        if index >= model.points2d[image]:
            raise SplatsegError(
                f"{where}: track: expected a 2D point below {model.points2d[image]} of image {image}, found {index}"
            )


def _check_observed(model: _Model, path: Path, points: set[int]) -> None:
    for image_id, ids in zip(model.points2d, model.observed, strict=True):
        missing = [i for i in ids.tolist() if i != _NO_POINT and i not in points]
        if missing:
            raise SplatsegError(
                f"{path}: expected 3D point {missing[0]} that image id {image_id} refers to, found none"
            )


# Binary --------------------------------------------------------------------------------------------------------


class _Reader:
    """The bytes of one file, taken from front to back; running out of them is an error that names the field."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        try:
            self.data = path.read_bytes()
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
        number: int = self.take(_COUNT, name)[0]
        left = len(self.data) - self.offset
        if number * record > left:
            raise SplatsegError(f"{self.path}: {name}: expected at most {left // record} to fit, found {number}")
        return number

    def array(self, dtype: np.dtype[Any], number: int, name: str) -> NDArray[Any]:
        self._need(dtype.itemsize * number, name)
        values = np.frombuffer(self.data, dtype, number, self.offset)
        self.offset += values.nbytes
        return values

    def text(self, name: str) -> str:
        end = self.data.find(b"\0", self.offset)
        if end < 0:
            raise SplatsegError(f"{self.path}: {name}: expected text ended by a zero byte, found the end of the file")
        raw, self.offset = self.data[self.offset : end], end + 1
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise SplatsegError(f"{self.path}: {name}: expected UTF-8 text, found {raw[:20]!r}") from None

    def finish(self) -> None:
        if self.offset != len(self.data):
            raise SplatsegError(f"{self.path}: expected {self.offset} bytes by its counts, found {len(self.data)}")


def _binary_cameras(path: Path, model: _Model) -> None:
    reader = _Reader(path)
    for _ in range(reader.count("number of cameras", _CAMERA.size)):
        camera_id, number, width, height = reader.take(_CAMERA, "camera")
        where = f"{path}: camera {camera_id}"
        kind = _MODEL_IDS.get(number)
        if kind is None or kind.name == "INVALID":
            raise SplatsegError(f"{where}: model: expected a camera model COLMAP knows, found number {number}")
        params = reader.array(np.dtype("<f8"), parameter_count(kind), f"camera {camera_id} params")
        _check_camera(where, kind, (width, height), params.tolist())
        model.cameras.add(camera_id)
    reader.finish()


def _binary_images(path: Path, model: _Model) -> None:
    reader = _Reader(path)
    for _ in range(reader.count("number of images", _IMAGE.size + 1 + _COUNT.size)):
        image_id, *pose, camera_id = reader.take(_IMAGE, "image")
        name = reader.text(f"image {image_id} name")
        number = reader.count(f"image {image_id} ({name}) 2D points", _POINT2D.itemsize)
        points = reader.array(_POINT2D, number, f"image {image_id} 2D points")
        where = f"{path}: image {image_id} ({name})"
        _check_pose(where, pose)
        _add_image(model, where, image_id, name, camera_id, points["id"])
    reader.finish()


def _binary_points(path: Path, model: _Model) -> None:
    reader = _Reader(path)
    seen: set[int] = set()
    for _ in range(reader.count("number of points", _POINT.size)):
        point_id, x, y, z, _r, _g, _b, _error, length = reader.take(_POINT, "point")
        track = reader.array(_TRACK, length, f"point {point_id} track")
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
            raise SplatsegError(f"{path}: point {point_id}: xyz: expected finite values, found ({x}, {y}, {z})")
        if point_id in seen:
            raise SplatsegError(f"{path}: expected unique point ids, found {point_id} twice")
        seen.add(point_id)
        _check_track(model, f"{path}: point {point_id}", track["image"], track["index"])
    reader.finish()
    _check_observed(model, path, seen)


def _binary_rigs(path: Path, model: _Model) -> set[int]:
    reader = _Reader(path)
    rigs = set()
    for _ in range(reader.count("number of rigs", _RIG.size)):
        rig_id, sensors = reader.take(_RIG, "rig")
        where = f"{path}: rig {rig_id}"
        rigs.add(rig_id)
        for index in range(sensors):
            kind, sensor_id = reader.take(_SENSOR, f"rig {rig_id} sensor")
            if kind == 0 and sensor_id not in model.cameras:
                raise SplatsegError(f"{where}: sensor: expected cameras of cameras.bin, found id {sensor_id}")
            if index and reader.take(Struct("<B"), f"rig {rig_id} has_pose")[0]:
                _check_pose(where, reader.take(Struct("<7d"), f"rig {rig_id} pose"))
    reader.finish()
    return rigs


def _binary_frames(path: Path, model: _Model, rigs: set[int]) -> None:
    reader = _Reader(path)
    for _ in range(reader.count("number of frames", _FRAME.size)):
        frame_id, rig_id, *pose, number = reader.take(_FRAME, "frame")
        where = f"{path}: frame {frame_id}"
        if rig_id not in rigs:
            raise SplatsegError(f"{where}: rig_id: expected one of rigs.bin, found {rig_id}")
        _check_pose(where, pose)
        for _ in range(number):
            kind, sensor_id, data_id = reader.take(_DATA, f"frame {frame_id} data")
            if kind == 0 and (sensor_id not in model.cameras or data_id not in model.points2d):
                raise SplatsegError(
                    f"{where}: data: expected an image of images.bin and its camera, found image {data_id}, "
                    f"camera {sensor_id}"
                )
    reader.finish()


# Text ----------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise SplatsegError(f"{path}: expected UTF-8 text, found other bytes") from None
    except OSError as error:
        raise SplatsegError(f"{path}: expected a readable file, found: {error.strerror}") from None


def _numbers(where: str, tokens: list[str]) -> list[float]:
    try:
        return [float(token) for token in tokens]
    except ValueError as error:
        raise SplatsegError(f"{where}: expected numbers, found: {error}") from None


def _integers(where: str, tokens: list[str]) -> list[int]:
    try:
        return [int(token) for token in tokens]
    except ValueError as error:
        raise SplatsegError(f"{where}: expected whole numbers, found: {error}") from None


def _records(path: Path) -> Iterator[tuple[str, list[str]]]:
    """("path: line n", tokens) of every line that is neither blank nor a comment."""
    for number, line in enumerate(_lines(path), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"{path}: line {number}", line.split()


def _need(where: str, tokens: list[str], fields: str) -> None:
    if len(tokens) < len(fields.split()):
        raise SplatsegError(f"{where}: expected {fields}, found {len(tokens)} entries")


def _text_cameras(path: Path, model: _Model) -> None:
    for where, tokens in _records(path):
        _need(where, tokens, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS")
        if tokens[1] not in _MODEL_NAMES:
            raise SplatsegError(f"{where}: MODEL: expected a camera model COLMAP knows, found {tokens[1]}")
        camera_id, width, height = _integers(where, [tokens[0], *tokens[2:4]])
        _check_camera(where, _MODEL_NAMES[tokens[1]], (width, height), _numbers(where, tokens[4:]))
        model.cameras.add(camera_id)


def _text_images(path: Path, model: _Model) -> None:
    lines = _lines(path)
    index = 0
    while index < len(lines):
        line, where = lines[index].strip(), f"{path}: line {index + 1}"
        index += 1
        if not line or line.startswith("#"):
            continue
        tokens = line.split(maxsplit=9)
        _need(where, tokens, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")
        image_id, camera_id = _integers(where, [tokens[0], tokens[8]])
        _check_pose(where, _numbers(where, tokens[1:8]))
        # The line after a pose always holds its 2D points, even when there are none and it is blank.
        points = lines[index].split() if index < len(lines) else []
        index += 1
        if len(points) % 3:
            raise SplatsegError(f"{path}: line {index}: expected triples X Y POINT3D_ID, found {len(points)} entries")
        ids = np.array(_integers(f"{path}: line {index}", points[2::3]), np.int64)
        _add_image(model, where, image_id, tokens[9], camera_id, ids)


def _text_points(path: Path, model: _Model) -> None:
    seen = set()
    for where, tokens in _records(path):
        _need(where, tokens, "POINT3D_ID X Y Z R G B ERROR")
        _finite(where, "xyz", _numbers(where, tokens[1:4]))
        _numbers(where, tokens[4:8])
        track = _integers(where, tokens[8:])
        if len(track) % 2:
            raise SplatsegError(f"{where}: track: expected pairs IMAGE_ID POINT2D_IDX, found {len(track)} entries")
        if any(not 0 <= value < 2**32 for value in track):
            raise SplatsegError(f"{where}: track: expected ids of 32 bits, found {min(track)}..{max(track)}")
        pairs = np.array(track, np.uint32).reshape(-1, 2)
        _check_track(model, where, pairs[:, 0], pairs[:, 1])
        seen.add(_integers(where, tokens[:1])[0])
    _check_observed(model, path, seen)


# The whole -----------------------------------------------------------------------------------------------------


def check_model(folder: Path) -> None:
    """Check the COLMAP model in ``folder``, binary where ``cameras.bin`` is there and else text.

    Raises:
        SplatsegError: a missing, truncated or inconsistent file, or non-finite poses, intrinsics or points.
    """
    binary = (folder / "cameras.bin").is_file()
    suffix = ".bin" if binary else ".txt"
    cameras, images, points = (folder / f"{stem}{suffix}" for stem in ("cameras", "images", "points3D"))
    for path in (cameras, images, points):
        if not path.is_file():
            raise SplatsegError(f"{path}: expected a file of the COLMAP model, found none")
    model = _Model()
    if not binary:
        _text_cameras(cameras, model)
        _text_images(images, model)
        _text_points(points, model)
        return
    _binary_cameras(cameras, model)
    _binary_images(images, model)
    _binary_points(points, model)
    rigs, frames = folder / "rigs.bin", folder / "frames.bin"
    known = _binary_rigs(rigs, model) if rigs.is_file() else set()
    if frames.is_file():
        _binary_frames(frames, model, known)
