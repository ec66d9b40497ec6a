"""A slider whose end changes where it stands."""

from __future__ import annotations

from typing import Any


def show_end(slider: Any, last: int) -> None:
    """Give ``slider`` the end ``last``, at least one above its least; its own value is moved inside first."""
    last = max(last, slider.min + 1)
    if slider.value > last:
        slider.value = last
    if slider.max != last:
        slider.max = last
