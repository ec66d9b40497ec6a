"""Captures: finding the model and the photos, checking both, undistorting and resizing into a cache.

The order is: read the model (COLMAP's, or a ``transforms.json``), find its photos and their masks, pick or make the
photos of the wanted size, and, where a camera is not a pinhole, undistort those. pycolmap works in its own process.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from splatseg.core.atomic import atomic_write, remove_leftovers, temporary_name
from splatseg.core.cache_folder import cache_folder
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError, naming
from splatseg.core.photos import find_photos, has_alpha, photo_size, read_photo
from splatseg.core.reading import read_json
from splatseg.core.scene import PhotoSource, Points, Scene, View
from splatseg.io.colmap_masks import capture_masks, fitted_pixels, write_mask
from splatseg.io.colmap_model import (
    PINHOLES,
    Model,
    ModelCamera,
    ModelImage,
    count_images,
    holds_model,
    read_model,
    write_cameras_and_images,
)
from splatseg.io.colmap_process import photos_for_colmap, run_job
from splatseg.io.digests import digest
from splatseg.io.frames import CaptureFrame, capture_frame
from splatseg.io.names import check_distinct, is_file, run_path
from splatseg.io.sfm import run_sfm
from splatseg.io.transforms import TRANSFORMS, read_transforms

__all__ = ["find_model", "load_colmap", "run_sfm"]

_MODEL_PARENTS = ("sparse", "colmap/sparse")
_JPEG_QUALITY = 97  # of undistorted photos; resized ones are stored without loss
_NAMES = "names.json"  # of an undistorted folder: image name -> name there
_NAMED = 3  # photos that a line names before it says how many more
log = logging.getLogger(__name__)
LARGEST_DOWNSCALE = 65_536  # more than any photo has pixels in a row


@dataclass(frozen=True)
class _Photos:
    """Where the photo of each image name is, and its (width, height)."""

    root: Path
    paths: dict[str, Path]
    sizes: dict[str, tuple[int, int]]


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


# Photos ----------------------------------------------------------------------------------------------------------


def _image_root(folder: Path, model_folder: Path, first: str) -> Path:
    """The folder that image names are relative to: ``images`` beside or above the model, or the scene folder itself."""
    candidates = [folder / "images", folder, model_folder.parent / "images", model_folder.parent.parent / "images"]
    for candidate in candidates:
        if is_file(candidate / first):
            return candidate
    return next((candidate for candidate in (*candidates[:1], *candidates[2:]) if candidate.is_dir()), candidates[0])


def _photo_path(root: Path, name: str) -> Path:
    """The photo called ``name``: there, else, for a path of another machine, the longest end of it in ``root``."""
    path = root / name
    if is_file(path):
        return path
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    ends = (root.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if is_file(end)), path)


def _full_size_photos(model: Model, root: Path) -> _Photos:
    """The photos as the model names them, each of the size of its camera."""
    paths, sizes = {}, {}
    taken: dict[Path, str] = {}
    for image in model.images:
        path = _photo_path(root, image.name)
        size = photo_size(path, image.name)
        camera = model.cameras[image.camera_id]
        if size != (camera.width, camera.height):
            raise SplatsegError(
                f"{path}: expected {camera.width}x{camera.height} pixels as its camera says, found {size[0]}x{size[1]}"
            )
        if taken.setdefault(path, image.name) != image.name:
            raise SplatsegError(f"{path}: expected the photo of one view, found '{taken[path]}' and '{image.name}'")
        paths[image.name], sizes[image.name] = path, size
    return _Photos(root, paths, sizes)


def _say_unregistered(photos: _Photos) -> None:
    """A line that counts the photos beside the registered ones that the model does not know."""
    known = {path.resolve() for path in photos.paths.values()}
    folders = {path.parent for path in known}
    root = photos.root.resolve()
    found = find_photos(root)
    left = [name for name in found.names if (root / name).parent in folders and (root / name) not in known]
    if left:
        log.warning(
            "%s: %d of %d photos are not registered in the model and not used (%s)",
            photos.root,
            len(left),
            len(left) + len(known),
            ", ".join(left[:_NAMED]) + (", ..." if len(left) > _NAMED else ""),
        )


def _existing_downscaled(model: Model, root: Path, downscale: int) -> _Photos | None:
    """The photos of ``images_<downscale>``, by name or by stem with another suffix; None where one is not there.

    Raises:
        SplatsegError: a photo there is not its camera's size divided by ``downscale`` (to a pixel).
    """
    folder = root.with_name(f"{root.name}_{downscale}")
    if not folder.is_dir():
        return None
    by_stem = {p.relative_to(folder).with_suffix("").as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    paths, sizes = {}, {}
    for image in model.images:
        if Path(image.name).is_absolute():
            return None
        path = folder / image.name
        if not is_file(path):
            found = by_stem.get(Path(image.name).with_suffix("").as_posix())
            if found is None:
                return None
            path = found
        size = photo_size(path, image.name)
        camera = model.cameras[image.camera_id]
        wanted = camera.width / downscale, camera.height / downscale
        if abs(size[0] - wanted[0]) > 1 or abs(size[1] - wanted[1]) > 1:
            raise SplatsegError(
                f"{path}: expected about {wanted[0]:g}x{wanted[1]:g} pixels (its camera / {downscale}), "
                f"found {size[0]}x{size[1]}"
            )
        paths[image.name], sizes[image.name] = path, size
    return _Photos(folder, paths, sizes)


def _parallel(function: Callable[[str], None], names: list[str]) -> None:
    """Call ``function`` on every name; Pillow releases the interpreter lock, so threads help."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(function, names):
            pass


def _resize(photos: _Photos, downscale: int, cache: Path) -> _Photos:
    """Photos shrunk by ``downscale`` into ``cache``; those already there are kept."""
    key = digest([str(photos.root.resolve()), downscale, "rgb"], stats=photos.paths.values())
    root = cache / f"images_{downscale}-{key}"
    sizes = {n: (max(1, round(w / downscale)), max(1, round(h / downscale))) for n, (w, h) in photos.sizes.items()}
    paths = {name: run_path(root, name, ".png") for name in photos.paths}

    def shrink(name: str) -> None:
        if not paths[name].is_file():
            pixels = Image.fromarray(read_photo(photos.paths[name], name).pixels)
            with atomic_write(paths[name]) as temporary:
                pixels.resize(sizes[name], Image.Resampling.LANCZOS).save(temporary)

    _parallel(shrink, list(paths))
    return _Photos(root, paths, sizes)


# Undistortion ----------------------------------------------------------------------------------------------------


def _camera_sizes(model: Model, photos: _Photos) -> dict[int, tuple[int, int]]:
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


def _undistort(model: Model, photos: _Photos, cache: Path) -> tuple[Model, _Photos]:
    """Undistort ``photos`` to pinhole cameras in a folder of ``cache``; returns the model and photos of that.

    The work is done in a folder of another name, checked, and renamed: what is found under the final name is whole.
    """
    sizes = _camera_sizes(model, photos)
    identity = [
        str(photos.root.resolve()),
        "undistorted in a process",
        _JPEG_QUALITY,
        {str(number): [camera.model, *camera.params, *sizes[number]] for number, camera in _used(model).items()},
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


def _used(model: Model) -> dict[int, ModelCamera]:
    return {number: model.cameras[number] for number in sorted({image.camera_id for image in model.images})}


def _make_undistorted(model: Model, photos: _Photos, sizes: dict[int, tuple[int, int]], final: Path) -> None:
    remove_leftovers(final.parent)  # what a killed call was making
    work = temporary_name(final)
    try:
        work.mkdir(parents=True)
        names = photos_for_colmap(photos.paths, work / "photos")
        images = {names[image.name]: image for image in model.images}
        write_cameras_and_images(work / "model", _used(model), images)
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
        _parallel(lambda name: _check_written(work / "out" / "images" / names[name], photos, name), list(names))
        shutil.rmtree(work / "out" / "stereo", ignore_errors=True)
        (work / "out" / _NAMES).write_text(json.dumps(names), encoding="utf-8")
        with suppress(FileExistsError):
            os.replace(work / "out", final)
    except OSError as error:
        raise SplatsegError(f"{final}: expected undistorted photos, found: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_written(path: Path, photos: _Photos, name: str) -> None:
    """COLMAP leaves out what it cannot read: say which photo that was."""
    read_photo(path if path.is_file() else photos.paths[name], name)
    if not path.is_file():
        raise SplatsegError(f"{photos.paths[name]}: expected a photo that COLMAP can undistort, found none written")


def _undistorted_photos(model: Model, root: Path, names: dict[str, str]) -> _Photos:
    paths = {image.name: root / names[image.name] for image in model.images}
    return _Photos(root, paths, {name: photo_size(path, name) for name, path in paths.items()})


# The whole -------------------------------------------------------------------------------------------------------


def _view(image: ModelImage, camera: ModelCamera, photos: _Photos, frame: CaptureFrame, where: Path) -> View:
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
    root = Path(images) if images is not None else _image_root(folder, model_folder, poses.images[0].name)
    if not root.is_dir():
        raise SplatsegError(
            f"{root}: expected the folder of the photos, found {'a file' if root.exists() else 'nothing'}"
        )
    photos = _existing_downscaled(poses, root, downscale) if downscale > 1 else None
    if photos is None:
        photos = _full_size_photos(poses, root)
        _say_unregistered(photos)
        given = photos
        if downscale > 1:
            photos = _resize(photos, downscale, cache)
    else:
        given = photos
    straight = poses
    if any(camera.model not in PINHOLES for camera in _used(poses).values()):
        straight, photos = _undistort(poses, photos, cache)
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


def _with_masks(views: list[View], given: _Photos, masks: dict[str, Path], cache: Path) -> list[View]:
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
