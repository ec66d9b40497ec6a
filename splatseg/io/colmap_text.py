"""The text files of a COLMAP model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from splatseg.core.errors import SplatsegError
from splatseg.core.reading import read_text
from splatseg.io.colmap_types import (
    CAMERA_MODELS,
    ModelDraft,
    ModelImage,
    add_image,
    check_finite_values,
    check_track,
    model_camera,
)


def _lines(path: Path) -> list[str]:
    try:
        # Line ends alone: str.splitlines would also end lines at characters that a name may hold.
        return [line.rstrip("\r") for line in read_text(path, "utf-8-sig", "surrogateescape").split("\n")]
    except OSError as error:
        raise SplatsegError(f"{path}: expected a readable file, found: {error.strerror}") from None


def _says(where: str, line: str) -> bool:
    """Whether a line is neither blank nor a comment, which alone may hold bytes that are no UTF-8."""
    if not line.strip() or line.lstrip().startswith("#"):
        return False
    if any("\udc80" <= letter <= "\udcff" for letter in line):  # what Python makes of other bytes
        raise SplatsegError(f"{where}: expected UTF-8 text, found other bytes")
    return True


def _numbers(where: str, tokens: list[str]) -> list[float]:
    try:
        return [float(token) for token in tokens]
    except ValueError as error:
        raise SplatsegError(f"{where}: expected numbers, found: {error}") from None


def integers(where: str, tokens: list[str]) -> list[int]:
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
        if _says(where := f"{path}: line {number}", line):
            yield where, line.split()


def _need(where: str, tokens: list[str], fields: str) -> None:
    if len(tokens) < len(fields.split()):
        raise SplatsegError(f"{where}: expected {fields}, found {len(tokens)} entries")


def read_cameras_text(path: Path, model: ModelDraft) -> None:
    for where, tokens in _records(path):
        _need(where, tokens, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS")
        if tokens[1] not in CAMERA_MODELS:
            raise SplatsegError(f"{where}: MODEL: expected a camera model COLMAP knows, found {tokens[1]}")
        camera_id, width, height = integers(where, [tokens[0], *tokens[2:4]])
        model.cameras[camera_id] = model_camera(where, tokens[1], (width, height), _numbers(where, tokens[4:]))


def read_images_text(path: Path, model: ModelDraft) -> None:
    lines = _lines(path)
    index = 0
    while index < len(lines):
        line, where = lines[index].strip(), f"{path}: line {index + 1}"
        index += 1
        if not _says(where, line):
            continue
        tokens = line.split(maxsplit=9)
        _need(where, tokens, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")
        image_id, camera_id = integers(where, [tokens[0], tokens[8]])
        pose = _numbers(where, tokens[1:8])
        # The line after a pose holds its 2D points, even when there are none and it is blank. Some tools leave blank
        # lines out, at the end of the file or everywhere: the next pose is none of points.
        points = lines[index].split() if index < len(lines) else []
        if _is_pose(points):
            points = []
        else:
            index += 1
        image = ModelImage(tokens[9], camera_id, tuple(pose[:4]), tuple(pose[4:]))
        add_image(model, where, image_id, image, len(points) // 3)


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


def read_points_text(path: Path, model: ModelDraft) -> None:
    for where, tokens in _records(path):
        _need(where, tokens, "POINT3D_ID X Y Z R G B ERROR")
        xyz = _numbers(where, tokens[1:4])
        check_finite_values(where, "xyz", xyz)
        rgb = [value % 256 for value in integers(where, tokens[4:7])]  # as COLMAP casts them
        track = integers(where, tokens[8:])
        track = track[: len(track) // 2 * 2]
        if any(not 0 <= value < 2**32 for value in track):
            raise SplatsegError(f"{where}: track: expected ids of 32 bits, found {min(track)}..{max(track)}")
        pairs = np.array(track, np.uint32).reshape(-1, 2)
        check_track(model, where, pairs[:, 0], pairs[:, 1])
        model.points[integers(where, tokens[:1])[0]] = tuple(xyz), tuple(rgb)
