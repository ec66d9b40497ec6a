"""Widgets that are lit when they can act."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from splatseg.viewer.events import pressed


def add_buttons(gui: Any, ways: Mapping[str, Callable[[], object]], **options: Any) -> dict[str, Any]:
    """A button for each of ``ways``, gray at first. Not a group: viser cannot gray one, nor a part of it."""
    buttons = {label: gui.add_button(label, color="gray", disabled=True, **options) for label in ways}
    for label, button in buttons.items():
        button.on_click(pressed(ways[label]))
    return buttons


def light(widget: Any, can_act: bool) -> None:
    """Let ``widget`` be used, or gray it; nothing is sent where it is so already."""
    if bool(widget.disabled) == can_act:
        widget.disabled = not can_act
