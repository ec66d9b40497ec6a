"""Reading COLMAP model files, binary and text, as people have them, with a line for whatever is broken.

The records are walked here, by our own code: COLMAP's reader trusts the counts in a file (a truncated or damaged one
can make it allocate without bound or crash the process), ends a name at its first space and loses the last view of an
``images.txt`` without a final blank line. A million points take a second. Bytes after the last record are ignored, as
COLMAP ignores them. The binary layouts are those of COLMAP's ``src/colmap/scene/reconstruction_io_binary.cc``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatseg.core.errors import SplatsegError
from splatseg.core.reading import read_bytes, read_text

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
_MODEL_NAMES = {number: name for name, (number, _, _) in CAMERA_MODELS.items()}


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
class _Model:
    """What has been read so far, to check references between files."""

    cameras: dict[int, ModelCamera] = field(default_factory=dict)
    images: list[ModelImage] = field(default_factory=list)
    points: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = field(default_factory=dict)  # id -> xyz, rgb
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


def checked_camera(where: str, kind: str, size: tuple[int, int], params: list[float]) -> ModelCamera:
    """The camera; raises :class:`SplatsegError` where its size, parameters or focal lengths cannot be right."""
    if not (0 < size[0] <= _MAX_SIDE and 0 < size[1] <= _MAX_SIDE):
        raise SplatsegError(f"{where}: size: expected 1..{_MAX_SIDE} pixels a side, found {size[0]}x{size[1]}")
    _, count, focal = CAMERA_MODELS[kind]
    if len(params) != count:
        raise SplatsegError(f"{where}: params: expected {count} of a {kind} camera, found {len(params)}")
    _finite(where, "params", params)
    for value in params[:focal]:
        if value <= 0:
            raise SplatsegError(f"{where}: params: expected a positive focal length, found {value:g}")
    return ModelCamera(kind, size[0], size[1], tuple(params))


def _add_image(model: _Model, where: str, image_id: int, image: ModelImage, ids: NDArray[np.int64]) -> None:
    _check_pose(where, [*image.qvec, *image.tvec])
    if image.camera_id not in model.cameras:
        raise SplatsegError(f"{where}: camera_id: expected one of cameras.*, found {image.camera_id}")
    if not image.name.strip():
        raise SplatsegError(f"{where}: name: expected an image name, found an empty one")
    if image_id in model.points2d or image.name in model.names:
        raise SplatsegError(f"{where}: expected unique image ids and names, found '{image.name}' (id {image_id}) twice")
    model.names[image.name] = image_id
    model.images.append(image)
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


def _check_observed(model: _Model, path: Path) -> None:
    for image_id, ids in zip(model.points2d, model.observed, strict=True):
        missing = [i for i in ids.tolist() if i != _NO_POINT and i not in model.points]
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


def _binary_cameras(path: Path, model: _Model) -> None:
    reader = _Reader(path)
    for _ in range(reader.count("number of cameras", _CAMERA.size)):
        camera_id, number, width, height = reader.take(_CAMERA, "camera")
        where = f"{path}: camera {camera_id}"
        kind = _MODEL_NAMES.get(number)
        if kind is None:
            raise SplatsegError(f"{where}: model: expected a camera model COLMAP knows, found number {number}")
        params = reader.array(np.dtype("<f8"), CAMERA_MODELS[kind][1], f"camera {camera_id} params")
        model.cameras[camera_id] = checked_camera(where, kind, (width, height), params.tolist())


def _binary_images(path: Path, model: _Model) -> None:
    reader = _Reader(path)
    for _ in range(reader.count("number of images", _IMAGE.size + 1 + _COUNT.size)):
        image_id, *pose, camera_id = reader.take(_IMAGE, "image")
        name = reader.text(f"image {image_id} name")
        number = reader.count(f"image {image_id} ({name}) 2D points", _POINT2D.itemsize)
        points = reader.array(_POINT2D, number, f"image {image_id} 2D points")
        image = ModelImage(name, camera_id, tuple(pose[:4]), tuple(pose[4:]))
        _add_image(model, f"{path}: image {image_id} ({name})", image_id, image, points["id"])


def _binary_points(path: Path, model: _Model) -> None:
    reader = _Reader(path)
    for _ in range(reader.count("number of points", _POINT.size)):
        point_id, x, y, z, r, g, b, _error, length = reader.take(_POINT, "point")
        track = reader.array(_TRACK, length, f"point {point_id} track")
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
            raise SplatsegError(f"{path}: point {point_id}: xyz: expected finite values, found ({x}, {y}, {z})")
        if point_id in model.points:
            raise SplatsegError(f"{path}: expected unique point ids, found {point_id} twice")
        model.points[point_id] = (x, y, z), (r, g, b)
        _check_track(model, f"{path}: point {point_id}", track["image"], track["index"])
    _check_observed(model, path)


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


# Text ----------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> list[str]:
    try:
        # Line ends alone: str.splitlines would also end lines at characters that a name may hold.
        return [line.rstrip("\r") for line in read_text(path, "utf-8-sig").split("\n")]
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
        numbers = [int(token) for token in tokens]
    except ValueError as error:
        raise SplatsegError(f"{where}: expected whole numbers, found: {error}") from None
    if large := [number for number in numbers if not -(2**63) <= number < 2**63]:
        raise SplatsegError(f"{where}: expected numbers of 64 bits, found {str(large[0])[:40]}")
    return numbers


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
        if tokens[1] not in CAMERA_MODELS:
            raise SplatsegError(f"{where}: MODEL: expected a camera model COLMAP knows, found {tokens[1]}")
        camera_id, width, height = _integers(where, [tokens[0], *tokens[2:4]])
        model.cameras[camera_id] = checked_camera(where, tokens[1], (width, height), _numbers(where, tokens[4:]))


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
        pose = _numbers(where, tokens[1:8])
        # The line after a pose holds its 2D points, even when there are none and it is blank. Some tools leave blank
        # lines out, at the end of the file or everywhere: the next pose is none of points.
        points = lines[index].split() if index < len(lines) else []
        if _is_pose(points):
            points = []
        else:
            index += 1
        if len(points) % 3:
            raise SplatsegError(f"{path}: line {index}: expected triples X Y POINT3D_ID, found {len(points)} entries")
        ids = np.array(_integers(f"{path}: line {index}", points[2::3]), np.int64)
        _add_image(model, where, image_id, ModelImage(tokens[9], camera_id, tuple(pose[:4]), tuple(pose[4:])), ids)


def _is_pose(tokens: list[str]) -> bool:
    """Whether a line is one of an image and not of 2D points: its tenth entry, the name, is no number."""
    if len(tokens) < 10:
        return False
    try:
        [float(token) for token in tokens[:9]]
    except ValueError:
        return False
    try:
        float(tokens[9])
    except ValueError:
        return True
    return False


def _text_points(path: Path, model: _Model) -> None:
    for where, tokens in _records(path):
        _need(where, tokens, "POINT3D_ID X Y Z R G B ERROR")
        xyz = _numbers(where, tokens[1:4])
        _finite(where, "xyz", xyz)
        rgb = _integers(where, tokens[4:7])
        if any(not 0 <= value <= 255 for value in rgb):
            raise SplatsegError(f"{where}: rgb: expected 0..255, found {min(rgb)}..{max(rgb)}")
        track = _integers(where, tokens[8:])
        if len(track) % 2:
            raise SplatsegError(f"{where}: track: expected pairs IMAGE_ID POINT2D_IDX, found {len(track)} entries")
        if any(not 0 <= value < 2**32 for value in track):
            raise SplatsegError(f"{where}: track: expected ids of 32 bits, found {min(track)}..{max(track)}")
        pairs = np.array(track, np.uint32).reshape(-1, 2)
        _check_track(model, where, pairs[:, 0], pairs[:, 1])
        model.points[_integers(where, tokens[:1])[0]] = tuple(xyz), tuple(rgb)
    _check_observed(model, path)


# The whole -----------------------------------------------------------------------------------------------------


def holds_model(folder: Path) -> bool:
    """Whether any file of a COLMAP model is in ``folder``."""
    stems = ("cameras", "images", "points3D")
    return any((folder / f"{stem}{suffix}").is_file() for stem in stems for suffix in (".bin", ".txt"))


def read_model(folder: Path) -> Model:
    """The COLMAP model in ``folder``, binary where ``cameras.bin`` is there and else text.

    Raises:
        SplatsegError: a missing, truncated or inconsistent file, no registered view, or non-finite poses, intrinsics or
            points.
    """
    model = _walk(folder)
    if not model.images:
        raise SplatsegError(f"{folder}: images: expected at least one registered view, found none")
    order = sorted(model.points)
    return Model(
        model.cameras,
        tuple(sorted(model.images, key=lambda image: image.name)),
        np.array([model.points[i][0] for i in order], np.float64).reshape(-1, 3),
        np.array([model.points[i][1] for i in order], np.uint8).reshape(-1, 3),
    )


def count_images(folder: Path) -> int:
    """Number of registered images of the model in ``folder``; 0 where its files cannot be read."""
    model = _Model()
    binary = (folder / "cameras.bin").is_file()
    try:
        if binary:
            return int(_Reader(folder / "images.bin").count("number of images", _IMAGE.size + 1 + _COUNT.size))
        _text_cameras(folder / "cameras.txt", model)
        _text_images(folder / "images.txt", model)
    except SplatsegError:
        return 0
    return len(model.images)


def _walk(folder: Path) -> _Model:
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
        return model
    _binary_cameras(cameras, model)
    _binary_images(images, model)
    _binary_points(points, model)
    rigs, frames = folder / "rigs.bin", folder / "frames.bin"
    known = _binary_rigs(rigs, model) if rigs.is_file() else set()
    if frames.is_file():
        _binary_frames(frames, model, known)
    return model


def write_cameras_and_images(folder: Path, cameras: dict[int, ModelCamera], images: dict[str, ModelImage]) -> None:
    """A binary model without points in ``folder``, its images under the given names: what the undistorter needs."""
    folder.mkdir(parents=True, exist_ok=True)
    data = _COUNT.pack(len(cameras))
    for camera_id, camera in cameras.items():
        data += _CAMERA.pack(camera_id, CAMERA_MODELS[camera.model][0], camera.width, camera.height)
        data += np.array(camera.params, "<f8").tobytes()
    (folder / "cameras.bin").write_bytes(data)
    records = [
        _IMAGE.pack(number, *image.qvec, *image.tvec, image.camera_id) + name.encode() + b"\0" + _COUNT.pack(0)
        for number, (name, image) in enumerate(images.items(), start=1)
    ]
    (folder / "images.bin").write_bytes(_COUNT.pack(len(records)) + b"".join(records))
    (folder / "points3D.bin").write_bytes(_COUNT.pack(0))


def write_names(folder: Path, names: dict[str, str]) -> None:
    """Give the images of the binary model in ``folder`` other names: old -> new; those not listed keep theirs."""
    path = folder / "images.bin"
    reader = _Reader(path)
    parts = [reader.data[: _COUNT.size]]
    for _ in range(reader.count("number of images", _IMAGE.size + 1 + _COUNT.size)):
        start = reader.offset
        reader.take(_IMAGE, "image")
        parts.append(reader.data[start : reader.offset])
        name = reader.text("name")
        parts.append(names.get(name, name).encode() + b"\0")
        start = reader.offset
        reader.array(_POINT2D, reader.count("2D points", _POINT2D.itemsize), "2D points")
        parts.append(reader.data[start : reader.offset])
    path.write_bytes(b"".join(parts))
