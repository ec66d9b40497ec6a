"""Undistorting the photos of a COLMAP capture into a cache."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from splatseg.core.atomic import remove_leftovers, temporary_name
from splatseg.core.errors import SplatsegError
from splatseg.core.photos import photo_size, read_photo
from splatseg.core.reading import read_json
from splatseg.io.colmap_binary import write_cameras_and_images
from splatseg.io.colmap_model import read_model
from splatseg.io.colmap_photos import CapturePhotos, in_parallel
from splatseg.io.colmap_process import photos_for_colmap, run_job
from splatseg.io.colmap_types import Model, ModelCamera
from splatseg.io.digests import digest

_JPEG_QUALITY = 97  # of undistorted photos; resized ones are stored without loss
_NAMES = "names.json"  # of an undistorted folder: image name -> name there


def _camera_sizes(model: Model, photos: CapturePhotos) -> dict[int, tuple[int, int]]:
    """The size of the photos of each camera; all photos of one camera must share it."""
    done: dict[int, tuple[int, int]] = {}
    for image in model.images:
        size = photos.sizes[image.name]
        if done.setdefault(image.camera_id, size) != size:
            other = done[image.camera_id]
            raise SplatsegError(
                f"{photos.paths[image.name]}: expected {other[0]}x{other[1]} pixels as other photos of camera "
                f"{image.camera_id}, found {size[0]}x{size[1]}"
            )
    return done


def undistort(model: Model, photos: CapturePhotos, cache: Path) -> tuple[Model, CapturePhotos]:
    """Undistort ``photos`` to pinhole cameras in a folder of ``cache``; returns the model and photos of that.

    The work is done in a folder of another name, checked, and renamed: what is found under the final name is whole.
    """
    sizes = _camera_sizes(model, photos)
    identity = [
        str(photos.root.resolve()),
        "undistorted in a process",
        _JPEG_QUALITY,
        {str(number): [camera.model, *camera.params, *sizes[number]] for number, camera in used_cameras(model).items()},
        [[image.name, image.camera_id, image.qvec, image.tvec] for image in model.images],
    ]
    final = cache / f"undistorted-{digest(identity, stats=photos.paths.values())}"
    if not final.is_dir():
        _make_undistorted(model, photos, sizes, final)
    names = {there: name for name, there in read_json(final / _NAMES).items()}
    undistorted = read_model(final / "sparse")
    images = tuple(replace(image, name=names[image.name]) for image in undistorted.images if image.name in names)
    result = replace(model, cameras=undistorted.cameras, images=tuple(sorted(images, key=lambda image: image.name)))
    return result, _undistorted_photos(result, final / "images", {name: there for there, name in names.items()})


def used_cameras(model: Model) -> dict[int, ModelCamera]:
    return {number: model.cameras[number] for number in sorted({image.camera_id for image in model.images})}


def _make_undistorted(model: Model, photos: CapturePhotos, sizes: dict[int, tuple[int, int]], final: Path) -> None:
    remove_leftovers(final.parent)  # what a killed call was making
    work = temporary_name(final)
    try:
        work.mkdir(parents=True)
        names = photos_for_colmap(photos.paths, work / "photos")
        images = {names[image.name]: image for image in model.images}
        write_cameras_and_images(work / "model", used_cameras(model), images)
        run_job(
            "undistort",
            final,
            model=str(work / "model"),
            images=str(work / "photos"),
            out=str(work / "out"),
            names=list(images),
            sizes=sizes,
            jpeg_quality=_JPEG_QUALITY,
        )
        in_parallel(lambda name: _check_written(work / "out" / "images" / names[name], photos, name), list(names))
        shutil.rmtree(work / "out" / "stereo", ignore_errors=True)
        (work / "out" / _NAMES).write_text(json.dumps(names), encoding="utf-8")
        with suppress(FileExistsError):
            os.replace(work / "out", final)
    except OSError as error:
        raise SplatsegError(f"{final}: expected undistorted photos, found: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_written(path: Path, photos: CapturePhotos, name: str) -> None:
    """COLMAP leaves out what it cannot read: say which photo that was."""
    read_photo(path if path.is_file() else photos.paths[name], name)
    if not path.is_file():
        raise SplatsegError(f"{photos.paths[name]}: expected a photo that COLMAP can undistort, found none written")


def _undistorted_photos(model: Model, root: Path, names: dict[str, str]) -> CapturePhotos:
    paths = {image.name: root / names[image.name] for image in model.images}
    return CapturePhotos(root, paths, {name: photo_size(path, name) for name, path in paths.items()})
