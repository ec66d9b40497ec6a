"""Photographs in: the one place where a photo becomes pixels, and where photos are looked for in a folder.

Every format that Pillow reads is read (HEIC with the plugin pillow-heif), and TIFFs of floats in color, which it does
not read, by tifffile (:mod:`splatseg.core.tiff`). How values become 8-bit RGB:

- 8 bits per channel, palette, CMYK, YCbCr, Lab, 1 bit: Pillow's conversion; 16-bit color PNG and TIFF: the upper byte.
- 16-bit gray (also stored as 32-bit integers): value / 257, the full range of 16 bits, rounded.
  A TIFF whose 0 is white is turned about, whatever its depth.
- float gray and color: the largest value says the range: at most 1 -> 0..1, 16 to 255 -> 0..255, above that up to
  65535 -> 0..65535. Anything else (negative, not finite, between 1 and 16: a radiance) is refused.
- alpha: what is less than half opaque is no photo. Those pixels are black, whatever color is hidden there, and are
  left out of the geometry loss, as in INRIA's code; all others keep their color.
- EXIF orientation is ignored, as COLMAP ignores it: poses and intrinsics belong to the pixels as they are stored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from splatseg.core.errors import SplatsegError
from splatseg.core.reading import read_json, regular
from splatseg.core.tiff import is_misread, is_tiff, is_white_at_0, read_tiff, to_bytes

HEIC = (".heic", ".heif", ".hif")
RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")  # sensor data: to be developed first
RUN_IDENTITY = "scene.json"  # of a run folder, whose pictures are ours
OPAQUE = 128  # alpha from which a pixel belongs to the photo
_BROKEN = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
    AssertionError,
)
"""What Pillow raises on damage; it asserts that a palette image has a palette."""
_COLMAP_WRITES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
# Formats that Pillow opens and that hold no photographs, or no pixels without a further program.
_NO_PHOTOS = {"BUFR", "CUR", "EPS", "FLI", "GRIB", "HDF5", "ICNS", "ICO", "IPTC", "MPEG", "WMF", "XBM", "XPM"}


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo: ``pixels`` (h, w, 3) uint8 RGB; ``shown`` (h, w) bool, None where all of it is."""

    pixels: NDArray[np.uint8]
    shown: NDArray[np.bool_] | None


@dataclass(frozen=True)
class FoundPhotos:
    """Names of the photos under a folder (posix, relative, sorted) and of raw files that no one can read."""

    names: tuple[str, ...]
    raw: tuple[str, ...]


def photo_suffixes() -> frozenset[str]:
    """Lower-case suffixes of the formats that are read, HEIC included: without its plugin that is an error."""
    Image.init()
    known = {s for s, form in Image.registered_extensions().items() if form in Image.OPEN and form not in _NO_PHOTOS}
    return frozenset(known | {".avif", *HEIC})


def find_photos(folder: Path, without: Sequence[Path] = ()) -> FoundPhotos:
    """The photos in ``folder`` and below: not in hidden folders, in run folders (ours, whatever their name is) or in
    the folders ``without``."""
    left_out = {folder.resolve(), *(path.resolve() for path in without)}
    suffixes = photo_suffixes()
    names: list[str] = []
    raw: list[str] = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        here = Path(parent)
        listed, folders[:] = sorted(folders), []
        for name in listed:
            if name[:1] != "." and not _is_ours(here / name, folder, left_out):
                folders.append(name)
                left_out.add((here / name).resolve())  # a link that leads there again is no second folder
        for file in files:
            suffix = os.path.splitext(file)[1].lower()
            if file[:1] != "." and (suffix in suffixes or suffix in RAW) and (here / file).is_file():
                (raw if suffix in RAW else names).append((here / file).relative_to(folder).as_posix())
    return FoundPhotos(tuple(sorted(names)), tuple(sorted(raw)))


def _is_ours(folder: Path, top: Path, left_out: set[Path]) -> bool:
    """Whether ``folder`` is left out: a run, one of ``left_out``, or a link to what is above ``top``."""
    resolved = folder.resolve()
    above = folder.is_symlink() and top.resolve().is_relative_to(resolved)
    return resolved in left_out or above or _is_run(folder)


def _is_run(folder: Path) -> bool:
    """Whether ``folder`` is a run: by the file that :class:`splatseg.io.run.Run` leaves there first."""
    try:
        identity = read_json(folder / RUN_IDENTITY)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(identity, dict) and {"scene", "downscale"} <= identity.keys()


def photo_size(path: Path, view: str) -> tuple[int, int]:
    """(width, height) from the header of the photo of ``view``.

    Raises:
        SplatsegError: it is missing or unreadable.
    """
    with _opened(path, view) as file:
        return file.size


def read_photo(path: Path, view: str) -> Photo:
    """Decode the photo of ``view``; see the top of this module for how.

    Raises:
        SplatsegError: it is missing, unreadable, or its values have no known range.
    """
    with _opened(path, view) as file:
        if file.mode.startswith("I") or file.mode == "F":
            gray = to_bytes(np.array(file), path)
            return Photo(_gray(255 - gray if is_white_at_0(file) else gray), None)
        if file.has_transparency_data:
            return _from_alpha(np.array(file.convert("RGBA")))
        return Photo(np.array(file.convert("RGB")), None)


def is_plain(path: Path, view: str) -> bool:
    """Whether COLMAP's own reader gives the pixels of :func:`read_photo`: 8 bits, opaque, of a common format."""
    with _opened(path, view) as file:
        named = path.suffix.lower() in _COLMAP_WRITES  # by its suffix COLMAP chooses the format it writes
        plain = named and file.format in ("JPEG", "MPO", "PNG", "BMP", "TIFF") and file.mode in ("L", "RGB")
        wide = ";16" in str(getattr(file, "tile", [])[:1])  # COLMAP rounds where Pillow keeps the upper byte
        return plain and not wide and not file.has_transparency_data


def has_alpha(path: Path, view: str) -> bool:
    """Whether the photo may be transparent somewhere, by its header."""
    with _opened(path, view) as file:
        return bool(file.has_transparency_data)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """(h, w) bool of a mask image, True where any channel is above 0: what counts, by COLMAP's and nerfstudio's rule.

    Raises:
        SplatsegError: it is missing or unreadable.
    """
    with _opened(path, path.stem) as file:
        values = np.array(file.convert("RGB") if file.mode in ("P", "PA", "RGBA", "LA") else file)
        if is_white_at_0(file):
            values = 255 - to_bytes(values, path)
    return np.asarray((values > 0).any(axis=2) if values.ndim == 3 else values > 0)


@contextmanager
def _opened(path: Path, view: str) -> Iterator[Image.Image]:
    """The image file, errors of opening it and of all that is done in the block as one line."""
    try:
        if path.suffix.lower() in HEIC:
            _register_heic(path)
        with _identified(path) as file:
            yield read_tiff(path) if is_misread(file) else file
    except SplatsegError:
        raise
    except FileNotFoundError:
        raise SplatsegError(f"{path}: image of view '{view}' not found") from None
    except _BROKEN as error:
        raise SplatsegError(f"{path}: unreadable image of view '{view}' ({error})") from None


def _identified(path: Path) -> Image.Image:
    """The opened image; a TIFF of a kind that Pillow does not know whole, as 8 bits."""
    try:
        return Image.open(regular(path))
    except UnidentifiedImageError:
        if not is_tiff(path):
            raise
    return read_tiff(path)


def read_exif(path: Path, view: str) -> Image.Exif:
    """What the camera wrote into the photo; empty where that is unknown."""
    with _opened(path, view) as file:
        return file.getexif()


def _register_heic(path: Path) -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise SplatsegError(
            f"{path}: expected the Pillow plugin pillow-heif, which reads HEIC, found none; install it with: "
            "pip install pillow-heif"
        ) from None
    register_heif_opener()


def _gray(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.repeat(values.round().astype(np.uint8)[..., None], 3, axis=2)


def _from_alpha(values: NDArray[np.uint8]) -> Photo:
    """(h, w, 4) RGBA, colors not multiplied by alpha."""
    shown = values[..., 3] >= OPAQUE
    pixels = np.where(shown[..., None], values[..., :3], 0).astype(np.uint8)
    return Photo(pixels, None if bool(shown.all()) else shown)
