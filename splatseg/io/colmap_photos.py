"""The photos of a COLMAP capture: found, checked, shrunk into a cache."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from splatseg.core.atomic import atomic_write
from splatseg.core.errors import SplatsegError
from splatseg.core.photos import find_photos, photo_size, read_photo
from splatseg.io.colmap_types import Model
from splatseg.io.digests import digest
from splatseg.io.names import is_file, run_path

_NAMED = 3  # photos that a line names before it says how many more

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CapturePhotos:
    """Where the photo of each image name is, and its (width, height)."""

    root: Path
    paths: dict[str, Path]
    sizes: dict[str, tuple[int, int]]


def image_root(folder: Path, model_folder: Path, first: str) -> Path:
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


def full_size_photos(model: Model, root: Path) -> CapturePhotos:
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
    return CapturePhotos(root, paths, sizes)


def say_unregistered(photos: CapturePhotos) -> None:
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


def existing_downscaled(model: Model, root: Path, downscale: int) -> CapturePhotos | None:
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
    return CapturePhotos(folder, paths, sizes)


def in_parallel(function: Callable[[str], None], names: list[str]) -> None:
    """Call ``function`` on every name; Pillow releases the interpreter lock, so threads help."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(function, names):
            pass


def shrunk_photos(photos: CapturePhotos, downscale: int, cache: Path) -> CapturePhotos:
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

    in_parallel(shrink, list(paths))
    return CapturePhotos(root, paths, sizes)
