"""TIFFs that Pillow cannot read (float color, 16-bit floats) or misreads (tiled planes of 16 bits), by tifffile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splatseg.core.errors import SplatsegError
from splatseg.core.reading import regular

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _PHOTOMETRIC, _PLANES = 258, 262, 284  # tags: bits of each sample; what values mean; 2 for a channel on its own
_WHITE_AT_0, _GRAY, _RGB = 0, 1, 2  # photometric interpretations
_PREMULTIPLIED, _ALPHA = 1, 2  # kinds of extra samples


def is_tiff(path: Path) -> bool:
    """By its first bytes."""
    with regular(path).open("rb") as file:
        return file.read(4) in _MAGIC


def is_misread(file: Image.Image) -> bool:
    """Whether Pillow gives other pixels of this TIFF without a word, by its header."""
    tags: Any = getattr(file, "tag_v2", {})
    return bool(tags.get(_PLANES, 1) == 2 and max(tags.get(_BITS, (8,))) > 8)


def is_white_at_0(file: Image.Image) -> bool:
    """Whether the numbers that Pillow gives of this TIFF are bright where they are small: it turns 8 bits about and
    leaves wider numbers as they are stored."""
    tags: Any = getattr(file, "tag_v2", {})
    return (file.mode.startswith("I") or file.mode == "F") and tags.get(_PHOTOMETRIC) == _WHITE_AT_0


def to_bytes(values: NDArray[Any], path: Path) -> NDArray[np.float64]:
    """Values of a photo on 0..255, not rounded. Floats: the largest says the range; integers have 16 bits.

    Raises:
        SplatsegError: values of no known range; names the file.
    """
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise SplatsegError(f"{path}: expected finite values, found others")
    low, high = float(wide.min(initial=0)), float(wide.max(initial=0))
    if values.dtype.kind != "f":
        if low < 0 or high > 65535:
            raise SplatsegError(f"{path}: expected gray values of 16 bits (0..65535), found {low:.0f}..{high:.0f}")
        return wide / 257
    if low < 0 or 1 < high < 16 or high > 65535:
        raise SplatsegError(f"{path}: expected float values in 0..1, 0..255 or 0..65535, found {low:g}..{high:g}")
    return wide * 255 if high <= 1 else wide if high <= 255 else wide / 257


def read_tiff(path: Path) -> Image.Image:
    """The first page as an image of 8 bits, RGB or RGBA.

    Colors of 16 bits keep their upper byte, as where Pillow reads them; gray and floats are scaled and rounded.

    Raises:
        SplatsegError: tifffile is not installed, or the file is damaged or no photo; names the file.
    """
    try:
        import tifffile
    except ImportError:
        raise SplatsegError(
            f"{path}: expected tifffile, which reads TIFFs of this kind, found none; install it with: "
            "pip install tifffile"
        ) from None
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            photometric, axes, extra = page.photometric, page.axes, tuple(page.extrasamples)
            values = page.asarray()
    except Exception as error:  # tifffile and its codecs raise what they like
        reason = str(error).split("\n", 1)[0]
        raise SplatsegError(f"{path}: expected a readable TIFF, found: {reason}") from None
    if axes == "SYX":
        values = np.moveaxis(values, 0, 2)
    values = values[..., None] if values.ndim == 2 else values
    colors = {_WHITE_AT_0: 1, _GRAY: 1, _RGB: 3}.get(int(photometric), 0)
    has_alpha = values.shape[-1] == colors + 1 and extra[:1] in ((_PREMULTIPLIED,), (_ALPHA,))
    if values.ndim != 3 or values.dtype.kind not in "uif" or values.shape[-1] != colors + has_alpha:
        raise SplatsegError(
            f"{path}: expected gray or RGB of one picture, found {values.shape} {values.dtype} ({photometric!s})"
        )
    image = _image(values, colors, bool(has_alpha and extra[0] == _PREMULTIPLIED), path)
    if int(photometric) == _WHITE_AT_0:
        pixels = np.array(image)
        pixels[..., :3] = 255 - pixels[..., :3]
        return Image.fromarray(pixels)
    return image


def _image(values: NDArray[Any], colors: int, premultiplied: bool, path: Path) -> Image.Image:
    """(h, w, colors) values, or one channel of alpha more, as 8-bit RGB or RGBA."""
    scaled = values.astype(np.float64) if values.dtype.itemsize == 1 else to_bytes(values[..., :colors], path)
    picture = scaled[..., :colors]
    alpha = values[..., colors:]
    if alpha.size:
        alpha = alpha if alpha.dtype.itemsize == 1 else to_bytes(alpha, path)
        if premultiplied:
            picture = (picture * 255 / np.maximum(alpha, 1e-3)).clip(0, 255)
    upper = values.dtype.kind != "f" and values.dtype.itemsize > 1 and colors == 3 and not premultiplied
    pixels = values[..., :colors].astype(np.int64) >> 8 if upper else picture.round()
    pixels = np.repeat(pixels, 3 // colors, axis=2)
    return Image.fromarray(np.ascontiguousarray(np.concatenate([pixels, alpha.round()], axis=2), np.uint8))
