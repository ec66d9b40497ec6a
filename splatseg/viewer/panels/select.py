"""The tab for selecting: what a click does, level and threshold, sets, undo, and keeping what was found."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from splatseg.session import Mode, level_names
from splatseg.viewer.actions import Actions
from splatseg.viewer.panels.marks import show_marks
from splatseg.viewer.panels.tools import ToolsFolder

MODE_NAMES: dict[str, Mode] = {
    "new selection": "replace",
    "add (Shift)": "add",
    "subtract (Alt)": "subtract",
    "intersect": "intersect",
}
STEP = 0.005


class SelectPanel:
    """Widgets over the selection of ``window.session``."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._gui = window.client.gui
        self._add_gestures()
        self._level = self._gui.add_slider(
            "Level", 1, 2, 1, 1, disabled=True, hint="From the part that was clicked to the group it belongs to"
        )
        self._level.on_update(self._level_moved)
        self._threshold = self._gui.add_slider(
            "Threshold", -1.0, 1.0, STEP, 0.5, disabled=True, hint="Select what looks at least this similar"
        )
        self._threshold.on_update(self._threshold_moved)
        self._add_history()
        self._add_keeping()
        self._add_sets()
        ToolsFolder(window)

    def _add_gestures(self) -> None:
        window, gui = self._window, self._gui
        mode = gui.add_dropdown("Click does", tuple(MODE_NAMES), hint="Shift adds, Alt subtracts, Alt+Shift intersects")
        mode.on_update(lambda event: setattr(window.choices, "mode", MODE_NAMES[event.target.value]))
        drag = gui.add_checkbox(
            "Drag a rectangle", False, hint="Off: Ctrl-drag draws one, a plain drag turns the camera"
        )
        drag.on_update(lambda event: window.set_drag_rectangle(event.target.value))

    def _add_history(self) -> None:
        window, session = self._window, self._window.session
        row: dict[str, Callable[[], object]] = {
            "Undo": partial(self._step, session.undo),
            "Redo": partial(self._step, session.redo),
            "Clear": session.clear,
            "Invert": session.invert,
        }
        buttons = self._gui.add_button_group("Steps", tuple(row))
        buttons.on_click(lambda event: window.act(row[event.target.value]))
        for label, hotkey, modifier in (
            ("Undo", "Z", "cmd/ctrl"),
            ("Redo", "Z", "cmd/ctrl+shift"),
            ("Clear", "escape", None),
            ("Invert", "I", "cmd/ctrl"),
        ):
            command = self._gui.add_command(f"{label} selection step", hotkey=hotkey, modifier=modifier)
            command.on_trigger(lambda _, label=label: window.act(row[label]))

    def _step(self, step: Callable[[], object]) -> None:
        step()
        if self._window.session.notice:
            self._window.complain(self._window.session.notice)

    def _add_keeping(self) -> None:
        window = self._window
        self._name = self._gui.add_text("Name", "object 1")
        keep = self._gui.add_button(
            "Keep as object", color="green", hint="Name the selection and list it under Objects"
        )
        keep.on_click(lambda _: window.act(self._keep))
        hide = self._gui.add_button("Hide selection", hint="See the scene without it; Objects shows it again")
        hide.on_click(lambda _: window.act(window.session.hide_selection))

    def _keep(self) -> None:
        entry = self._window.session.keep(self._name.value)
        self._window.say(f"kept '{entry.name}', {len(entry):,} Gaussians", "done")

    def _add_sets(self) -> None:
        with self._gui.add_folder("Combine with an object", expand_by_default=False):
            self._other = self._gui.add_dropdown("Object", ("none",))
            ways: dict[str, Mode] = {"Union": "add", "Intersect": "intersect", "Subtract": "subtract"}
            buttons = self._gui.add_button_group("Combine", tuple(ways))
            buttons.on_click(lambda event: self._window.act(partial(self._combine, ways[event.target.value])))

    def _combine(self, mode: Mode) -> None:
        keys = {f"{o.name} ({o.id})": o.id for o in self._window.session.objects}
        self._window.session.combine(keys.get(self._other.value, self._other.value), mode)

    # Sliders ---------------------------------------------------------------------------------------------------------

    def _threshold_moved(self, event: Any) -> None:
        if event.client is not None:  # moved by the person, not by sync()
            value, drag = event.target.value, self._window.drags.number("threshold")
            self._window.act(partial(self._window.session.set_threshold, value, drag), "threshold")

    def _level_moved(self, event: Any) -> None:
        if event.client is not None:
            value, drag = int(event.target.value), self._window.drags.number("level")
            self._window.act(partial(self._window.session.set_level, value - 1, drag), "level")

    def _show_level(self, count: int, index: int) -> None:
        """A slider from 1 whose marks are the proposed levels. It is never put anew: a hand may be on it."""
        show_marks(self._level, tuple(enumerate(level_names(count), 1)))
        self._level.disabled = count < 2
        self._level.value = index + 1

    def sync(self) -> None:
        session = self._window.session
        active = session.active
        self._threshold.disabled = active is None
        if active is None:
            self._show_level(1, 0)
        else:
            if not self._window.waiting("threshold"):  # the hand on the slider is ahead of the session
                self._threshold.value = min(max(round(active.threshold / STEP) * STEP, -1.0), 1.0)
            gaps = [abs(level.threshold - active.threshold) for level in active.levels]
            nearest = gaps.index(min(gaps)) if active.level is None else active.level
            if not self._window.waiting("level"):
                self._show_level(len(active.levels), nearest)
        options = tuple(f"{o.name} ({o.id})" for o in session.objects) or ("none",)
        if options != self._other.options:
            self._other.options = options
        taken = {o.name for o in session.objects}
        if self._name.value in taken:
            free = (f"object {i}" for i in range(1, len(taken) + 2))
            self._name.value = next(name for name in free if name not in taken)
