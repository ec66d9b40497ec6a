"""Captures: finding the model and the photos, checking both, undistorting and resizing into a cache.

The order is: read the model (COLMAP's, or a ``transforms.json``), find its photos and their masks, pick or make the
photos of the wanted size, and, where a camera is not a pinhole, undistort those. pycolmap works in its own process.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from splatseg.core.cache_folder import cache_folder
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError, naming
from splatseg.core.photos import has_alpha
from splatseg.core.scene import PhotoSource, Points, Scene, View
from splatseg.io.colmap_masks import capture_masks, fitted_pixels, write_mask
from splatseg.io.colmap_model import count_images, holds_model, read_model
from splatseg.io.colmap_photos import (
    CapturePhotos,
    existing_downscaled,
    full_size_photos,
    image_root,
    say_unregistered,
    shrunk_photos,
)
from splatseg.io.colmap_types import PINHOLES, Model, ModelCamera, ModelImage
from splatseg.io.colmap_undistort import undistort, used_cameras
from splatseg.io.digests import digest
from splatseg.io.frames import CaptureFrame, capture_frame
from splatseg.io.names import check_distinct, run_path
from splatseg.io.sfm import run_sfm
from splatseg.io.transforms import TRANSFORMS, read_transforms

__all__ = ["find_model", "load_colmap", "run_sfm"]

_MODEL_PARENTS = ("sparse", "colmap/sparse")
log = logging.getLogger(__name__)
LARGEST_DOWNSCALE = 65_536  # more than any photo has pixels in a row


def find_model(folder: Path, model: str | None = None) -> Path:
    """The folder of the COLMAP model of a scene: of ``sparse/N``, ``sparse``, ``colmap/sparse/N`` and the folder itself
    the first that holds any, and of several ``N`` the one with most registered photos, said in a line.

    Args:
        model: take ``sparse/<model>`` (or ``colmap/sparse/<model>``).

    Raises:
        SplatsegError: the scene folder or a model in it does not exist.
    """
    if not folder.is_dir():
        raise SplatsegError(f"{folder}: expected a scene folder, found {'a file' if folder.exists() else 'nothing'}")
    for parent in _MODEL_PARENTS:
        numbered = _models_in(folder / parent)
        if model is not None:
            if chosen := [path for path in numbered if path.name == model]:
                return chosen[0]
        elif len(numbered) > 1:
            return _largest(folder, numbered)
        elif numbered:
            return numbered[0]
        elif holds_model(folder / parent):
            return folder / parent
    if model is not None:
        found = ", ".join(path.name for parent in _MODEL_PARENTS for path in _models_in(folder / parent)) or "none"
        raise SplatsegError(f"{folder / 'sparse'}: model: expected one of those there, '{model}' is not; found {found}")
    if holds_model(folder):
        return folder
    raise SplatsegError(
        f"{folder}: expected a COLMAP model (cameras, images, points3D as .bin or .txt) in sparse/0, sparse or the "
        f"folder itself, or {TRANSFORMS}, found none"
    )


def _models_in(parent: Path) -> list[Path]:
    """The folders below ``parent`` that hold a model, by number, then by name."""
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if path.is_dir() and path.name[:1] != "." and holds_model(path)]
    return sorted(found, key=lambda path: (not path.name.isdecimal(), len(path.name), path.name))


def _largest(folder: Path, models: list[Path]) -> Path:
    counts = {path: count_images(path) for path in models}
    best = max(models, key=lambda path: counts[path])  # of equal ones the first
    listed = ", ".join(f"{path.relative_to(folder).as_posix()} ({counts[path]} photos)" for path in models)
    log.warning(
        "%s: found %d models, %s; taking %s (--model chooses)", folder, len(models), listed, best.relative_to(folder)
    )
    return best


def has_model(folder: Path) -> bool:
    """Whether ``folder`` is a capture with poses: COLMAP's or a ``transforms.json``."""
    places = [folder / parent for parent in _MODEL_PARENTS]
    return (
        (folder / TRANSFORMS).is_file()
        or any(holds_model(place) for place in (folder, *places))
        or any(_models_in(place) for place in places)
    )


def _poses(folder: Path, model: str | None) -> tuple[Path, Model]:
    """The model of a capture and where it is: COLMAP's where there is one, else ``transforms.json``."""
    try:
        found = find_model(folder, model)
    except SplatsegError:
        if model is None and (folder / TRANSFORMS).is_file():
            return folder, read_transforms(folder / TRANSFORMS)
        raise
    return found, read_model(found)


def _view(image: ModelImage, camera: ModelCamera, photos: CapturePhotos, frame: CaptureFrame, where: Path) -> View:
    with naming(f"{where}: view '{image.name}'"):
        pinhole = Camera(
            torch.tensor(camera.calibration_matrix(), dtype=torch.float32),
            torch.tensor(frame.moved(image.cam_from_world()), dtype=torch.float32),
            camera.width,
            camera.height,
            frame.near,
        ).resized(*photos.sizes[image.name])
    return View(image.name, pinhole, photos.paths[image.name])


def check_downscale(downscale: int) -> None:
    """Raise :class:`SplatsegError` for a factor that no photo can be shrunk by."""
    if downscale < 1:
        raise SplatsegError(f"downscale: expected a whole number of at least 1, found {downscale}")
    if downscale > LARGEST_DOWNSCALE:
        raise SplatsegError(f"downscale: expected at most {LARGEST_DOWNSCALE}, found {str(downscale)[:40]}")


def load_colmap(
    folder: str | Path,
    downscale: int = 1,
    cache: str | Path | None = None,
    images: str | Path | None = None,
    model: str | None = None,
    no_masks: Path | None = None,
) -> Scene:
    """Load a capture: registered views by name, pinhole cameras of the true image size, and sparse points.

    Photos are checked by their headers: each must be there, readable and of the size of its camera. With ``downscale``
    above 1 the folder ``images_<downscale>`` is used where it exists, otherwise photos are shrunk into ``cache``. Where
    a camera is not PINHOLE or SIMPLE_PINHOLE, everything is then undistorted into ``cache``. ``masks`` beside the
    photos (``masks/NAME.png`` as COLMAP, ``masks/STEM.png`` as nerfstudio has them) say what the geometry leaves out,
    and so does the alpha of a photo. A capture that lies too far from the origin for float32 comes in a local frame
    (:mod:`splatseg.io.frames`), said in a line.

    Args:
        folder: scene folder with the model in ``sparse/N``, ``sparse`` or itself (binary or text), or with a
            ``transforms.json``.
        downscale: whole factor by which the photos are shrunk, 1 or more.
        cache: where resized and undistorted photos are kept; ``core.cache_folder.cache_folder()`` if not given.
        images: folder of the photos, ``images`` beside the model if not given.
        model: of several models the one called so, see :func:`find_model`.
        no_masks: a folder that is none of masks of the capture, though it is called so (what ``--masks`` names).

    Raises:
        SplatsegError: a folder or file that is missing, a truncated or inconsistent model, no registered view,
            non-finite values, or a photo that is missing, unreadable or of another size than its camera.
    """
    folder = Path(folder)
    check_downscale(downscale)
    cache = Path(cache) if cache is not None else cache_folder()
    model_folder, poses = _poses(folder, model)
    check_distinct([image.name for image in poses.images], cache)
    root = Path(images) if images is not None else image_root(folder, model_folder, poses.images[0].name)
    if not root.is_dir():
        raise SplatsegError(
            f"{root}: expected the folder of the photos, found {'a file' if root.exists() else 'nothing'}"
        )
    photos = existing_downscaled(poses, root, downscale) if downscale > 1 else None
    if photos is None:
        photos = full_size_photos(poses, root)
        say_unregistered(photos)
        given = photos
        if downscale > 1:
            photos = shrunk_photos(photos, downscale, cache)
    else:
        given = photos
    straight = poses
    if any(camera.model not in PINHOLES for camera in used_cameras(poses).values()):
        straight, photos = undistort(poses, photos, cache)
    frame = capture_frame(poses, folder)
    views = [_view(image, straight.cameras[image.camera_id], photos, frame, model_folder) for image in straight.images]
    views = _with_sources(views, poses)
    views = _with_masks(views, given, capture_masks(root, poses, downscale, no_masks), cache)
    with naming(model_folder), np.errstate(over="ignore"):
        points = Points(torch.from_numpy((poses.xyz - frame.offset).astype(np.float32)), torch.from_numpy(poses.rgb))
    return Scene(tuple(views), points, frame.offset)


def _with_sources(views: list[View], model: Model) -> list[View]:
    """The views; those whose pixels are not those of the photo as it was taken, with its size and camera."""
    cameras = {image.name: model.cameras[image.camera_id] for image in model.images}
    done = []
    for view in views:
        taken = cameras[view.name]
        same = taken.model in PINHOLES and (taken.width, taken.height) == (view.camera.width, view.camera.height)
        source = None if same else PhotoSource(taken.width, taken.height, taken.model, taken.params)
        done.append(replace(view, source=source))
    return done


def _with_masks(views: list[View], given: CapturePhotos, masks: dict[str, Path], cache: Path) -> list[View]:
    """The views with the masks of the capture; those made of other photos with the alpha that these had, too."""
    done = []
    for view in views:
        mask, photo = masks.get(view.name), given.paths[view.name]
        if view.source is None:
            done.append(replace(view, mask_path=mask))
        elif mask is None and (photo == view.image_path or not has_alpha(photo, view.name)):
            done.append(view)
        else:
            identity = [view.name, asdict(view.source), view.camera.K.tolist(), view.camera.width, view.camera.height]
            key = digest(identity, stats=[path for path in (mask, photo) if path is not None])
            path = run_path(cache / f"masks-{key}", view.name, ".png")
            if not path.is_file():
                write_mask(path, fitted_pixels(view, photo, mask))
            done.append(replace(view, mask_path=path))
    return done
