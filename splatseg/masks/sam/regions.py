"""Small holes and islands of a mask, by scipy: segment-anything's ``remove_small_regions`` without OpenCV."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_EIGHT_NEIGHBORS = np.ones((3, 3), np.int8)


def fill_small_holes(mask: NDArray[np.bool_], min_area: int) -> NDArray[np.bool_] | None:
    """``mask`` (h, w) with the 8-connected regions outside it that are below ``min_area`` pixels added; None if none
    is.

    As in the library, a small piece of background at the image's edge counts as a hole.
    """
    labels, sizes = _regions(~mask)
    small = sizes < min_area
    small[0] = False
    return mask | small[labels] if small.any() else None


def drop_small_islands(mask: NDArray[np.bool_], min_area: int) -> NDArray[np.bool_] | None:
    """``mask`` (h, w) without its 8-connected regions below ``min_area`` pixels; None if none is.

    Where all are small the largest stays (of equal ones the first met row by row).
    """
    labels, sizes = _regions(mask)
    keep = sizes >= min_area
    keep[0] = False
    if keep[1:].all():
        return None
    if not keep.any():
        keep[1 + int(np.argmax(sizes[1:]))] = True
    return keep[labels]


def remove_small_regions(mask: NDArray[np.bool_], min_area: int) -> NDArray[np.bool_] | None:
    """Holes of ``mask`` (h, w) filled, then islands dropped; None where nothing changes."""
    filled = fill_small_holes(mask, min_area)
    dropped = drop_small_islands(mask if filled is None else filled, min_area)
    return filled if dropped is None else dropped


def _regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """8-connected region of each pixel (0: outside ``mask``) and the pixels of each region."""
    labels, count = ndimage.label(mask, structure=_EIGHT_NEIGHBORS, output=np.int32)
    return labels, np.bincount(labels.ravel(), minlength=count + 1)
