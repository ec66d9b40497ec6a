"""The one palette: labels, kept objects, masks and patches have their colors from it."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0.61803398875  # successive hues as far apart as they can be, whatever their number


def hue_color(index: int) -> tuple[int, int, int]:
    """(r, g, b) in 0..255 for the ``index``-th label; neighbors in order are far apart in hue, then in lightness."""
    red, green, blue = colorsys.hls_to_rgb(index * GOLDEN % 1.0, (0.55, 0.42, 0.68)[index % 3], 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)


def palette(count: int) -> NDArray[np.uint8]:
    """(count, 3) the colors of labels 1 .. count, the same for every call."""
    return np.array([hue_color(index) for index in range(1, count + 1)], np.uint8).reshape(-1, 3)


def color_from_json(value: Sequence[Any]) -> tuple[int, int, int]:
    """(r, g, b) as JSON holds it; raises what :data:`splatseg.core.errors.DAMAGED` lists."""
    red, green, blue = (int(v) for v in value)
    if not all(0 <= v <= 255 for v in (red, green, blue)):
        raise ValueError(f"color: expected three values in 0..255, found {list(value)}")
    return red, green, blue
