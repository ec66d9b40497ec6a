"""Reading COLMAP model files, binary and text, as people have them, with a line for whatever is broken.

The records are walked here, by our own code: COLMAP's reader trusts the counts in a file (a truncated or damaged one
can make it allocate without bound or crash the process), ends a name at its first space and loses the last view of an
``images.txt`` without a final blank line. A million points take a second. Bytes after the last record are ignored, as
COLMAP ignores them. The binary layouts are those of COLMAP's ``src/colmap/scene/reconstruction_io_binary.cc``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from splatseg.core.errors import SplatsegError
from splatseg.io.colmap_binary import (
    COUNT,
    IMAGE,
    Reader,
    read_cameras,
    read_frames,
    read_images,
    read_points,
    read_rigs,
)
from splatseg.io.colmap_text import read_cameras_text, read_images_text, read_points_text
from splatseg.io.colmap_types import Model, ModelDraft


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
    model = ModelDraft()
    binary = (folder / "cameras.bin").is_file()
    try:
        if binary:
            return int(Reader(folder / "images.bin").count("number of images", IMAGE.size + 1 + COUNT.size))
        read_cameras_text(folder / "cameras.txt", model)
        read_images_text(folder / "images.txt", model)
    except SplatsegError:
        return 0
    return len(model.images)


def _walk(folder: Path) -> ModelDraft:
    binary = (folder / "cameras.bin").is_file()
    suffix = ".bin" if binary else ".txt"
    cameras, images, points = (folder / f"{stem}{suffix}" for stem in ("cameras", "images", "points3D"))
    for path in (cameras, images, points):
        if not path.is_file():
            raise SplatsegError(f"{path}: expected a file of the COLMAP model, found none")
    model = ModelDraft()
    if not binary:
        read_cameras_text(cameras, model)
        read_images_text(images, model)
        read_points_text(points, model)
        return model
    read_cameras(cameras, model)
    read_images(images, model)
    read_points(points, model)
    rigs, frames = folder / "rigs.bin", folder / "frames.bin"
    known = read_rigs(rigs, model) if rigs.is_file() else set()
    if frames.is_file():
        read_frames(frames, model, known)
    return model
