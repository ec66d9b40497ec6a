"""Masks that belong to the photos as they were taken, on photos that were resized or undistorted; and where a capture
keeps masks of what the geometry leaves out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splatseg.core.atomic import atomic_write
from splatseg.core.errors import SplatsegError
from splatseg.core.photos import has_alpha, photo_size, read_mask, read_photo
from splatseg.core.scene import PhotoSource, View
from splatseg.io.colmap_types import PINHOLES, Model, ModelCamera
from splatseg.io.names import is_file

_ROWS = 256  # of an image mapped at a time: bounds the memory
log = logging.getLogger(__name__)


def capture_masks(root: Path, model: Model, downscale: int, no_masks: Path | None) -> dict[str, Path]:
    """Image name -> mask of what the geometry leaves out (value 0), for the images that have one; said in a line.

    COLMAP has them in ``masks/NAME.png``, nerfstudio in ``masks/STEM.png`` or where ``transforms.json`` says; ``masks``
    is beside the folder of photos ``root``, or in it; where that is a link, its own place comes before what it leads
    to. ``masks_<downscale>`` comes first with smaller photos.

    Raises:
        SplatsegError: a ``transforms.json`` names a mask that is not there.
    """
    given = {image.name: image.mask for image in model.images if image.mask is not None}
    for name, mask in given.items():
        if not is_file(mask):
            raise SplatsegError(f"{mask}: expected the mask of view '{name}', found no such file")
    others = [image.name for image in model.images if image.name not in given]
    found = given | mask_files(root, others, downscale, no_masks)
    if found:
        where = next(iter(found.values())).parent
        log.warning(
            "%s: %d of %d photos have masks; what is 0 there is left out of the geometry",
            where,
            len(found),
            len(model.images),
        )
    return found


def mask_files(root: Path, names: Iterable[str], downscale: int, no_masks: Path | None) -> dict[str, Path]:
    """Image name -> mask, for those of ``names`` that have one in a folder of the capture (:func:`capture_masks`)."""
    wanted = ["masks", *([f"masks_{downscale}"] if downscale > 1 else [])][::-1]
    folders = [place / name for place in _places(root) for name in wanted]
    if no_masks is not None:
        folders = [folder for folder in folders if folder.resolve() != no_masks.resolve()]
    folders = [folder for folder in folders if folder.is_dir()]
    found: dict[str, Path] = {}
    for name in names:
        paths = (folder / mask for folder in folders for mask in _mask_names(name))
        if (path := next((path for path in paths if is_file(path)), None)) is not None:
            found[name] = path
    return found


def _places(root: Path) -> list[Path]:
    """Folders that may have one of masks, for photos in ``root``."""
    places = []
    for folder in dict.fromkeys((Path(os.path.abspath(root)), root.resolve())):
        places += [folder.parent, folder] if folder.name.startswith("images") else [folder]
    return places


def _mask_names(name: str) -> list[str]:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        path = Path(path.name.rpartition("\\")[2])
    return [f"{path.as_posix()}.png", path.with_suffix(".png").as_posix() if path.name else f"{path}.png"]


def source_pixels(view: View, size: tuple[int, int]) -> NDArray[np.int64]:
    """For every pixel of ``view`` the nearest [column, row] of a picture as the photo was taken.

    Args:
        view: with a ``source``.
        size: (width, height) of that picture, the photo's or any other.

    Returns:
        (h, w, 2) int64; -1 where the photo does not reach.
    """
    source = view.source
    assert source is not None
    inverse = np.linalg.inv(view.camera.K.double().numpy())
    width, height = view.camera.width, view.camera.height
    found = np.empty((height, width, 2), np.int64)
    for top in range(0, height, _ROWS):
        rows = np.arange(top, min(top + _ROWS, height))
        u, v = np.meshgrid(np.arange(width) + 0.5, rows + 0.5)
        rays = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3) @ inverse.T
        image = _projected(source, rays) * (size[0] / source.width, size[1] / source.height)
        inside = np.logical_and(image >= 0, image < size).all(axis=1, keepdims=True)  # nan is not
        nearest = np.where(inside, np.floor(np.where(inside, image, 0)), -1)
        found[rows] = nearest.astype(np.int64).reshape(len(rows), width, 2)
    return found


def _projected(source: PhotoSource, rays: NDArray[np.float64]) -> NDArray[np.float64]:
    """Image positions (m, 2) of directions (m, 3) in the camera's frame; nan where there is none."""
    if source.model in PINHOLES:
        camera = ModelCamera(source.model, source.width, source.height, source.params)
        image = rays @ camera.calibration_matrix().T
        return image[:, :2] / image[:, 2:]
    import pycolmap  # takes a second, and only distorted photos with masks need it

    distorted = pycolmap.Camera(
        model=source.model, width=source.width, height=source.height, params=list(source.params)
    )
    return np.asarray(distorted.img_from_cam(rays), np.float64)


def resampled(values: NDArray[np.generic], view: View) -> NDArray[np.generic]:
    """``values`` (h', w') of a picture as the photo was taken, on the pixels of ``view``; 0 where there is none."""
    pixels = source_pixels(view, (values.shape[1], values.shape[0]))
    taken: NDArray[np.generic] = values[pixels[..., 1].clip(0), pixels[..., 0].clip(0)]
    return np.asarray(np.where(pixels[..., 0] >= 0, taken, np.zeros((), values.dtype)))


def mask_of_photo(photo: Path, name: str, mask: Path | None) -> NDArray[np.bool_]:
    """(h, w) bool of all pixels of the photo as it was taken: what its alpha and its mask, of any size, leave of it."""
    width, height = photo_size(photo, name)
    shown = read_photo(photo, name).shown if has_alpha(photo, name) else None
    kept = np.ones((height, width), bool) if shown is None else shown
    if mask is None:
        return kept
    values = read_mask(mask)
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(np.int64)
    return np.asarray(kept & values[rows[:, None], columns])


def fitted_pixels(view: View, photo: Path, mask: Path | None) -> NDArray[np.bool_]:
    """(h, w) bool: what the geometry is fitted to, by the photo's alpha and its mask."""
    parts = [read_photo(photo, view.name).shown, None if mask is None else read_mask(mask)]
    fitted = np.ones((view.camera.height, view.camera.width), bool)
    for part in parts:
        if part is not None:
            fitted &= resampled(part, view).astype(bool)
    return fitted


def write_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    """A mask image, 255 and 0."""
    with atomic_write(path) as temporary:
        Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")
