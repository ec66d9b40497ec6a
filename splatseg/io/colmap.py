"""COLMAP scenes: finding the model and the photos, checking both, undistorting and resizing into a cache.

The order is: check the model files, read them with pycolmap, pick or make the photos of the wanted size, and, where a
camera is not a pinhole, undistort those.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
import torch
from PIL import Image, UnidentifiedImageError

from splatseg.camera import Camera
from splatseg.errors import SplatsegError
from splatseg.io.atomic import atomic_write
from splatseg.io.colmap_check import check_model
from splatseg.io.run import digest
from splatseg.io.sfm import run_sfm
from splatseg.scene import Points, Scene, View

__all__ = ["find_model", "load_colmap", "run_sfm"]

_PINHOLE = ("SIMPLE_PINHOLE", "PINHOLE")
_MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", ".")
_JPEG_QUALITY = 97  # of undistorted photos; resized ones are stored without loss


@dataclass(frozen=True)
class _Photos:
    """Where the photo of each image name is, and its (width, height)."""

    root: Path
    paths: dict[str, Path]
    sizes: dict[str, tuple[int, int]]

    def has_names(self) -> bool:
        """Whether every photo is at ``root / name``, as pycolmap expects."""
        return all(path == self.root / name for name, path in self.paths.items())


def find_model(folder: Path) -> Path:
    """The folder of the COLMAP model of a scene: ``sparse/0``, ``sparse``, ``colmap/sparse/0`` or the folder itself.

    Raises:
        SplatsegError: the scene folder or a model in it does not exist.
    """
    if not folder.is_dir():
        raise SplatsegError(f"{folder}: expected a scene folder, found {'a file' if folder.exists() else 'nothing'}")
    for name in _MODEL_FOLDERS:
        for suffix in (".bin", ".txt"):
            if any((folder / name / f"{stem}{suffix}").is_file() for stem in ("cameras", "images", "points3D")):
                return folder / name if name != "." else folder
    raise SplatsegError(
        f"{folder}: expected a COLMAP model (cameras, images, points3D as .bin or .txt) in sparse/0, sparse or the "
        "folder itself, found none"
    )


def _read_model(folder: Path) -> pycolmap.Reconstruction:
    """The checked model, with at least one registered image and finite poses."""
    check_model(folder)
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value  # its complaints become the one-line error
    try:
        model = pycolmap.Reconstruction(str(folder))
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SplatsegError(f"{folder}: expected a COLMAP model pycolmap can read, found: {reason}") from None
    finally:
        pycolmap.logging.minloglevel = level
    if not any(image.has_pose for image in model.images.values()):
        raise SplatsegError(f"{folder}: images: expected at least one registered view, found none")
    for image in model.images.values():
        if image.has_pose and not np.isfinite(image.cam_from_world().matrix()).all():
            raise SplatsegError(f"{folder}: image {image.name}: pose: expected finite values, found others")
    return model


def _registered(model: pycolmap.Reconstruction) -> list[pycolmap.Image]:
    """The images that have a pose, by name."""
    return sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)


def _image_size(path: Path, name: str) -> tuple[int, int]:
    """(width, height) from the header of a photo."""
    try:
        with Image.open(path) as file:
            return file.size
    except FileNotFoundError:
        raise SplatsegError(f"{path}: image of view '{name}' not found") from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise SplatsegError(f"{path}: unreadable image of view '{name}' ({error})") from None


def _image_root(folder: Path, model_folder: Path, first: str) -> Path:
    """The folder that image names are relative to: ``images`` beside or above the model, or the scene folder itself."""
    candidates = [folder / "images", folder, model_folder.parent / "images", model_folder.parent.parent / "images"]
    for candidate in candidates:
        if (candidate / first).is_file():
            return candidate
    return next((candidate for candidate in (*candidates[:1], *candidates[2:]) if candidate.is_dir()), candidates[0])


def _full_size_photos(model: pycolmap.Reconstruction, root: Path) -> _Photos:
    """The photos as the model names them, each of the size of its camera."""
    paths, sizes = {}, {}
    for image in _registered(model):
        path = root / image.name
        size = _image_size(path, image.name)
        camera = model.cameras[image.camera_id]
        if size != (camera.width, camera.height):
            raise SplatsegError(
                f"{path}: expected {camera.width}x{camera.height} pixels as its camera says, found {size[0]}x{size[1]}"
            )
        paths[image.name], sizes[image.name] = path, size
    return _Photos(root, paths, sizes)


def _existing_downscaled(model: pycolmap.Reconstruction, root: Path, downscale: int) -> _Photos | None:
    """The photos of ``images_<downscale>``, by name or by stem with another suffix; None where one is not there.

    Raises:
        SplatsegError: a photo there is not its camera's size divided by ``downscale`` (to a pixel).
    """
    folder = root.with_name(f"{root.name}_{downscale}")
    if not folder.is_dir():
        return None
    by_stem = {p.relative_to(folder).with_suffix("").as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    paths, sizes = {}, {}
    for image in _registered(model):
        path = folder / image.name
        if not path.is_file():
            found = by_stem.get(Path(image.name).with_suffix("").as_posix())
            if found is None:
                return None
            path = found
        size = _image_size(path, image.name)
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


def _decode(path: Path, name: str) -> Image.Image:
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise SplatsegError(f"{path}: unreadable image of view '{name}' ({error})") from None


def _resize(photos: _Photos, downscale: int, cache: Path) -> _Photos:
    """Photos shrunk by ``downscale`` into ``cache``; those already there are kept."""
    key = digest([str(photos.root.resolve()), downscale], stats=photos.paths.values())
    root = cache / f"images_{downscale}-{key}"
    sizes = {n: (max(1, round(w / downscale)), max(1, round(h / downscale))) for n, (w, h) in photos.sizes.items()}
    paths = {name: root / f"{name}.png" for name in photos.paths}

    def shrink(name: str) -> None:
        if not paths[name].is_file():
            small = _decode(photos.paths[name], name).resize(sizes[name], Image.Resampling.LANCZOS)
            with atomic_write(paths[name]) as temporary:
                small.save(temporary)

    _parallel(shrink, list(paths))
    return _Photos(root, paths, sizes)


def _rescale(model: pycolmap.Reconstruction, photos: _Photos) -> None:
    """Give every camera of ``model`` the size of its photos; all photos of one camera must share it."""
    done: dict[int, tuple[int, int]] = {}
    for image in _registered(model):
        size = photos.sizes[image.name]
        if done.setdefault(image.camera_id, size) != size:
            other = done[image.camera_id]
            raise SplatsegError(
                f"{photos.paths[image.name]}: expected {other[0]}x{other[1]} pixels as other photos of camera "
                f"{image.camera_id}, found {size[0]}x{size[1]}"
            )
    for camera_id, (width, height) in done.items():
        camera = model.cameras[camera_id]
        if (camera.width, camera.height) != (width, height):
            camera.rescale(width, height)


def _link_by_name(photos: _Photos, folder: Path) -> Path:
    """A folder where every photo is found by its image name, as pycolmap needs: links to where they are."""
    if photos.has_names():
        return photos.root
    for name, path in photos.paths.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return folder


def _undistort(model_folder: Path, model: pycolmap.Reconstruction, photos: _Photos, cache: Path) -> Path:
    """Undistort ``photos`` to pinhole cameras; returns the folder with ``images`` and ``sparse`` inside ``cache``.

    The work is done in a folder of another name, checked, and renamed: what is found under the final name is whole.
    """
    files = sorted(p for p in model_folder.iterdir() if p.suffix in (".bin", ".txt"))
    key = digest([str(photos.root.resolve()), "undistorted", _JPEG_QUALITY], files, photos.paths.values())
    final = cache / f"undistorted-{key}"
    if final.is_dir():
        return final
    work = cache / f".undistorted-{key}.{uuid.uuid4().hex[:8]}.tmp"
    level = pycolmap.logging.minloglevel
    try:
        (work / "model").mkdir(parents=True)
        _rescale(model, photos)
        model.write_binary(str(work / "model"))
        root = _link_by_name(photos, work / "links")
        pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
        pycolmap.undistort_images(
            str(work / "out"), str(work / "model"), str(root), list(photos.paths), jpeg_quality=_JPEG_QUALITY
        )
        _parallel(lambda name: _decode(work / "out" / "images" / name, name).close(), list(photos.paths))
        shutil.rmtree(work / "out" / "stereo", ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.replace(work / "out", final)
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, SplatsegError):
            raise
        reason = str(error).strip().split("\n")[0]
        raise SplatsegError(f"{final}: expected undistorted photos, found: {reason}") from None
    finally:
        pycolmap.logging.minloglevel = level
        shutil.rmtree(work, ignore_errors=True)
    return final


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "splatseg"


def _scene(model: pycolmap.Reconstruction, photos: _Photos) -> Scene:
    views = []
    for image in _registered(model):
        source = model.cameras[image.camera_id]
        cam_from_world = np.eye(4)
        cam_from_world[:3] = image.cam_from_world().matrix()
        camera = Camera(
            torch.tensor(source.calibration_matrix(), dtype=torch.float32),
            torch.tensor(cam_from_world, dtype=torch.float32),
            source.width,
            source.height,
        )
        views.append(View(image.name, camera.resized(*photos.sizes[image.name]), photos.paths[image.name]))
    points = model.points3D
    order = sorted(points)
    xyz = np.array([points[i].xyz for i in order], np.float32).reshape(-1, 3)
    rgb = np.array([points[i].color for i in order], np.uint8).reshape(-1, 3)
    return Scene(tuple(views), Points(torch.from_numpy(xyz), torch.from_numpy(rgb)))


def load_colmap(
    folder: str | Path, downscale: int = 1, cache: str | Path | None = None, images: str | Path | None = None
) -> Scene:
    """Load a COLMAP capture: registered views by name, pinhole cameras of the true image size, and sparse points.

    Photos are checked by their headers: each must be there, readable and of the size of its camera. With ``downscale``
    above 1 the folder ``images_<downscale>`` is used where it exists, otherwise photos are shrunk into ``cache``. Where
    a camera is not PINHOLE or SIMPLE_PINHOLE, everything is then undistorted into ``cache``.

    Args:
        folder: scene folder with the model in ``sparse/0``, ``sparse`` or itself (binary or text).
        downscale: whole factor by which the photos are shrunk, 1 or more.
        cache: where resized and undistorted photos are kept; ``$XDG_CACHE_HOME/splatseg`` if not given.
        images: folder of the photos, ``images`` beside the model if not given.

    Raises:
        SplatsegError: a folder or file that is missing, a truncated or inconsistent model, no registered view,
            non-finite values, or a photo that is missing, unreadable or of another size than its camera.
    """
    folder = Path(folder)
    if downscale < 1:
        raise SplatsegError(f"downscale: expected a whole number of at least 1, found {downscale}")
    cache = Path(cache) if cache is not None else _default_cache()
    model_folder = find_model(folder)
    model = _read_model(model_folder)
    root = Path(images) if images is not None else _image_root(folder, model_folder, _registered(model)[0].name)
    if not root.is_dir():
        raise SplatsegError(
            f"{root}: expected the folder of the photos, found {'a file' if root.exists() else 'nothing'}"
        )
    photos = _existing_downscaled(model, root, downscale) if downscale > 1 else None
    if photos is None:
        photos = _full_size_photos(model, root)
        if downscale > 1:
            photos = _resize(photos, downscale, cache)
    if any(model.cameras[image.camera_id].model.name not in _PINHOLE for image in _registered(model)):
        undistorted = _undistort(model_folder, model, photos, cache)
        model = _read_model(undistorted / "sparse")
        photos = _full_size_photos(model, undistorted / "images")
    return _scene(model, photos)
