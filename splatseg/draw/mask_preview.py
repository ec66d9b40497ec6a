"""Pictures to check masks and hierarchies by eye."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.palette import palette
from splatseg.draw.layout import Cell, contact_sheet
from splatseg.masks.mask_set import MaskSet

Pixels = NDArray[np.uint8]

COLUMNS = 3  # of a hierarchy preview
PANEL_WIDTHS = (320, 640)  # smallest and largest panel: captions fit, and a person sees the whole at once


def mask_overlay(image: Pixels, masks: MaskSet, strength: float = 0.5) -> Pixels:
    """(h, w, 3) ``image`` with every mask tinted, small ones over large ones, and their outlines in white."""
    _check_size(image, (masks.height, masks.width))
    result = image.astype(np.float32)
    outline = np.zeros(image.shape[:2], bool)
    colors = palette(len(masks))
    for color, index in enumerate(np.argsort(-masks.areas, kind="stable")):
        mask = masks.dense(int(index)).numpy()
        edge = _outline(mask)
        outline = (outline & ~mask) | edge
        result[mask] = (1 - strength) * image[mask] + strength * colors[color].astype(np.float32)
    result[outline] = 255
    return result.round().astype(np.uint8)


def patch_overlay(image: Pixels, patch_ids: Tensor, strength: float = 0.65) -> Pixels:
    """(h, w, 3) ``image`` with each patch of ``patch_ids`` (h, w) in a color of its own; patch 0 (no mask) is
    darkened."""
    ids = patch_ids.numpy()
    _check_size(image, ids.shape)
    colors = np.concatenate([np.zeros((1, 3)), palette(int(ids.max()))]).astype(np.float32)
    return ((1 - strength) * image + strength * colors[ids]).round().astype(np.uint8)


@dataclass(frozen=True, eq=False)
class PixelLevels:
    """What a click on one pixel selects, level by level.

    Attributes:
        pixel: [column, row] of the click.
        votes: distinct numbers of masks shared with the clicked patch, descending; one level each.
        masks: (levels, h, w) bool; level l holds every pixel whose patch shares at least ``votes[l]`` masks.
    """

    pixel: tuple[int, int]
    votes: tuple[int, ...]
    masks: Tensor


def pixel_levels(patch_ids: Tensor, membership: Tensor, pixel: tuple[int, int]) -> PixelLevels:
    """The levels of a click (OmniSeg3D section 3.3, cumulated): from the patch itself to all that shares a mask with
    it.

    Args:
        patch_ids: (h, w) patch of each pixel, 0 in no mask.
        membership: (p, words) int64, bit m % 64 of word m // 64: mask m holds the patch.
        pixel: [column, row] inside the image; on patch 0 there are no levels.
    """
    column, row = pixel
    if not (0 <= column < patch_ids.shape[1] and 0 <= row < patch_ids.shape[0]):
        raise SplatsegError(
            f"pixel: expected column in 0..{patch_ids.shape[1] - 1} and row in 0..{patch_ids.shape[0] - 1}, "
            f"found {pixel}"
        )
    own = membership[int(patch_ids[row, column])].tolist()
    votes = torch.zeros(len(membership), dtype=torch.int64)
    for word, bits in enumerate(own):
        for bit in range(64):
            if bits >> bit & 1:
                votes += (membership[:, word] >> bit) & 1
    values = tuple(sorted(set(votes[votes > 0].tolist()), reverse=True))
    shared = votes[patch_ids.long()]
    masks = [shared >= value for value in values]
    return PixelLevels(
        pixel, values, torch.stack(masks) if masks else shared.new_zeros(0, *shared.shape, dtype=torch.bool)
    )


def most_nested_pixel(patch_ids: Tensor, membership: Tensor) -> tuple[int, int]:
    """A pixel [column, row] worth clicking: deep inside the patch that lies in the most masks (of those, the
    largest)."""
    depth = torch.zeros(len(membership), dtype=torch.int64)
    for bit in range(64):
        depth += ((membership >> bit) & 1).sum(dim=1)
    areas = torch.bincount(patch_ids.flatten(), minlength=len(membership))
    depth[areas == 0] = -1
    best = max(range(len(membership)), key=lambda k: (int(depth[k]), int(areas[k])))
    # Padded: a patch at the image's edge is deepest inside the image, not on the edge.
    inside = ndimage.distance_transform_edt(np.pad((patch_ids == best).numpy(), 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return int(column), int(row)


def hierarchy_preview(
    image: Pixels, patch_ids: Tensor, membership: Tensor, pixel: tuple[int, int] | None = None, panels: int = 4
) -> Image.Image:
    """Rows of three pictures: the photo with the click, its patches in color, up to ``panels`` levels of the click.

    Args:
        image: (h, w, 3) uint8 RGB.
        patch_ids: as :func:`pixel_levels`.
        membership: as :func:`pixel_levels`.
        pixel: [column, row] of the click; None: :func:`most_nested_pixel`.
        panels: of more levels the first, the last and evenly spaced ones between are shown.
    """
    found = pixel_levels(patch_ids, membership, pixel or most_nested_pixel(patch_ids, membership))
    levels = len(found.votes)
    width = min(max(image.shape[1], PANEL_WIDTHS[0]), PANEL_WIDTHS[1])
    small, click = _scaled(image, width), tuple((c + 0.5) * width / image.shape[1] for c in found.pixel)
    patches = torch.from_numpy(_scaled(patch_ids.numpy(), width))
    pictures = [
        (f"click at {found.pixel[0]}, {found.pixel[1]}", _with_click(small, click)),
        (f"{len(membership) - 1} patches", patch_overlay(small, patches)),
    ]
    for level in sorted({round(i) for i in np.linspace(0, levels - 1, min(panels, levels))}):
        mask = _scaled(found.masks[level].numpy(), width)
        tinted = np.where(mask[..., None], 0.45 * small + 0.55 * np.array([255, 140, 0]), 0.35 * small)
        tinted[_outline(mask)] = 255
        shared = "1 mask" if found.votes[level] == 1 else f"{found.votes[level]} masks"
        caption = f"level {level + 1} of {levels}: shares {shared} with the click"
        pictures.append((caption, _with_click(tinted.round().astype(np.uint8), click)))
    return contact_sheet([Cell(pixels, caption) for caption, pixels in pictures], COLUMNS, width)


def _scaled(pixels: NDArray[Any], width: int) -> NDArray[Any]:
    """Pictures (h, w, 3) and label maps (h, w) at another width; labels and masks keep their values."""
    size = (width, max(1, round(pixels.shape[0] * width / pixels.shape[1])))
    shrinks_a_photo = pixels.ndim == 3 and width < pixels.shape[1]
    resample = Image.Resampling.LANCZOS if shrinks_a_photo else Image.Resampling.NEAREST
    return np.array(Image.fromarray(pixels).resize(size, resample))


def _with_click(image: Pixels, pixel: tuple[float, ...]) -> Pixels:
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    x, y = pixel
    for radius, color in ((9, "black"), (7, "white"), (5, "black")):
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=color, width=2)
    return np.array(picture)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of ``mask`` with a 4-neighbor outside it; the image's edge is no outline."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def _check_size(image: Pixels, size: tuple[int, ...]) -> None:
    if image.shape != (*size, 3) or image.dtype != np.uint8:
        raise SplatsegError(f"image: expected shape ({size[0]}, {size[1]}, 3) uint8, found {image.shape} {image.dtype}")
