"""A slider that changes its marks, and its end with them, where it stands."""

from __future__ import annotations

from typing import Any

from viser._messages import GuiSliderMark  # public where a slider is made, but not to change it


def show_marks(slider: Any, marks: tuple[tuple[int, str], ...]) -> None:
    """Give ``slider`` the marks (value, text), and the largest of their values, at least one above its least, as its
    end; its own value is moved inside first."""
    last = max(marks[-1][0], slider.min + 1)
    if slider.value > last:
        slider.value = last
    if slider.max != last:
        slider.max = last
    wanted = tuple(GuiSliderMark(value=float(value), label=text) for value, text in marks)
    if slider._marks != wanted:
        slider._marks = wanted
