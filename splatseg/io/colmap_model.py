"""Reading COLMAP model files, binary and text, as people have them, with a line for what is broken.

The records are walked here, by our own code, because pycolmap cannot tell: where a file is truncated, COLMAP's reader
takes what happens to be in memory for the rest (cameras.bin, rigs.bin), asks for 2^60 bytes (points3D.bin) or does not
end (frames.bin), and NaN poses come in as they are. Only what a fit needs is asked for, so that no model is refused
that pycolmap reads and that can be used: rigs and frames are not opened, points that images refer to may be gone, and
a camera that no image has may be anything. Where COLMAP's text reader would lose something, ours does not: a name
with spaces, the last view of an ``images.txt`` without a final blank line. Bytes after the last record are ignored, as
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
    read_images,
    read_points,
)
from splatseg.io.colmap_text import read_cameras_text, read_images_text, read_points_text
from splatseg.io.colmap_types import Model, ModelDraft, check_camera


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
    (read_cameras if binary else read_cameras_text)(cameras, model)
    (read_images if binary else read_images_text)(images, model)
    for number in sorted({image.camera_id for image in model.images}):
        check_camera(f"{cameras}: camera {number}", model.cameras[number])
    (read_points if binary else read_points_text)(points, model)
    return model
