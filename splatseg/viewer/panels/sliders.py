"""A slider whose end changes where it stands."""

from __future__ import annotations

from typing import Any

from splatseg.viewer.actions import Actions
from splatseg.viewer.events import put


def show_end(window: Actions, slider: Any, last: int) -> None:
    """Give ``slider`` the end ``last``, at least one above its least; its own value is moved inside first."""
    last = max(last, slider.min + 1)
    if slider.value > last:
        put(window, slider, last)
    if slider.max != last:
        slider.max = last
