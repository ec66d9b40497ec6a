"""The one layout of contact sheets: captioned pictures in rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from splatseg.core.errors import SplatsegError

MARGIN = 4  # pixels
CELL_WIDTH = 320


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture (h, w, 3) uint8 of a sheet and the line above it."""

    image: NDArray[np.uint8]
    caption: str


def contact_sheet(cells: Sequence[Cell], columns: int, width: int = CELL_WIDTH) -> Image.Image:
    """The cells in rows of ``columns``, each ``width`` pixels wide; rows are as high as their highest picture.

    Captions grow with the pictures. Fewer cells than ``columns`` make a narrower sheet.

    Raises:
        SplatsegError: no cells.
    """
    if not cells:
        raise SplatsegError("contact sheet: expected at least one picture, found none")
    columns = min(columns, len(cells))
    pictures = [fit_width(Image.fromarray(cell.image), width) for cell in cells]
    font = ImageFont.load_default(max(width / 32, 10))
    caption = round(max(width / 32, 10) * 1.3) + MARGIN
    rows = [range(start, min(start + columns, len(cells))) for start in range(0, len(cells), columns)]
    heights = [max(pictures[k].height for k in row) + caption + MARGIN for row in rows]
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, sum(heights) + MARGIN), "white")
    draw, top = ImageDraw.Draw(sheet), MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, k in enumerate(row):
            left = MARGIN + column * (width + MARGIN)
            draw.text((left, top), cells[k].caption, fill="black", font=font)
            sheet.paste(pictures[k], (left, top + caption))
        top += height
    return sheet


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures under each other, all scaled to the width of the first."""
    width = pictures[0].width
    scaled = [fit_width(picture, width) for picture in pictures]
    sheet = Image.new("RGB", (width, sum(p.height for p in scaled)), "white")
    top = 0
    for picture in scaled:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def fit_width(image: Image.Image, width: int) -> Image.Image:
    """``image`` at another width, as high as its shape asks for; as it is where it has that width."""
    if image.width == width:
        return image
    return image.resize((width, max(round(image.height * width / image.width), 1)), Image.Resampling.LANCZOS)
