"""The tab for selecting: what a click does, level and threshold, sets, undo, and keeping what was found."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from splatseg.core.errors import SplatsegError
from splatseg.session import Mode, Pick, SceneObject
from splatseg.viewer.actions import Actions
from splatseg.viewer.events import in_order, pressed, put
from splatseg.viewer.panels.gestures import GesturesSection
from splatseg.viewer.panels.lit import add_button, add_buttons, light
from splatseg.viewer.panels.properties import PropertySection
from splatseg.viewer.panels.sliders import show_end
from splatseg.viewer.panels.tools import ToolsFolder
from splatseg.viewer.status import short

STEP = 0.005
LEVELS = ("part", "object", "group")


class SelectPanel:
    """Widgets over the selection of ``window.session``."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._gui = window.client.gui
        self._gestures = GesturesSection(window)
        self._level = self._gui.add_slider(
            "Level", 1, 2, 1, 1, disabled=True, hint="From the part that was clicked to the group it belongs to"
        )
        self._level.on_update(in_order(self._level_moved))
        takes = {name: partial(window.act, partial(self._take, name)) for name in LEVELS}
        self._named = add_buttons(self._gui, takes)
        self._threshold = self._gui.add_slider(
            "Threshold", -1.0, 1.0, STEP, 0.5, disabled=True, hint="Select what looks at least this similar"
        )
        self._threshold.on_update(in_order(self._threshold_moved))
        self._add_history()
        self._add_keeping()
        self._add_sets()
        self._tools = ToolsFolder(window)
        PropertySection(window)
        self._add_keys()

    def _add_history(self) -> None:
        window, session = self._window, self._window.session
        self._row: dict[str, Callable[[], object]] = {
            "Undo": partial(self._step, session.undo),
            "Redo": partial(self._step, session.redo),
            "Clear": session.clear,
            "Invert": session.invert,
        }
        self._steps = add_buttons(self._gui, {label: partial(window.act, act) for label, act in self._row.items()})

    def _step(self, step: Callable[[], object]) -> None:
        step()
        if self._window.session.notice:
            self._window.complain(self._window.session.notice)

    def _add_keeping(self) -> None:
        window = self._window
        self._name = self._gui.add_text("Name", "object 1")
        keep = add_button(
            self._gui, "Keep as object", hint="Name the selection and list it under Objects", disabled=True
        )
        keep.on_click(pressed(self._keep))
        hide = add_button(self._gui, "Hide selection", color="gray", hint="Objects shows it again", disabled=True)
        hide.on_click(pressed(lambda: window.act(self._hide)))
        self._acting = (keep, hide)  # lit while something is selected

    def _hide(self) -> None:
        entry = self._window.session.hide_selection()
        self._window.say(f"{len(entry):,} Gaussians are out of sight; Objects → {entry.name} shows them again", "done")

    def _keep(self) -> None:
        name, window = self._name.value, self._window

        def keep() -> None:
            entry = window.session.keep(name)
            window.say(f"kept '{entry.name}', {len(entry):,} Gaussians", "done")

        window.act(keep)

    def _add_sets(self) -> None:
        with self._gui.add_folder("Combine with an object", expand_by_default=False):
            self._other = self._gui.add_dropdown("Object", ("none",))
            ways: dict[str, Mode] = {"Union": "add", "Intersect": "intersect", "Subtract": "subtract"}
            acts = {label: partial(self._combine, mode) for label, mode in ways.items()}
            self._combining = add_buttons(self._gui, acts)

    def _combine(self, mode: Mode) -> None:
        other, session = self._other.value, self._window.session

        def combine() -> None:
            keys = {_option(o): o.id for o in session.objects}
            session.combine(keys.get(other, other), mode)

        self._window.act(combine)

    # Keys ------------------------------------------------------------------------------------------------------------

    def _add_keys(self) -> None:
        """Keys of the canvas; Ctrl-K lists them. Letters that move the camera (W A S D Q E) are left to it."""
        act = self._window.act
        keys: tuple[tuple[str, str, str | None, Callable[[], object]], ...] = (
            ("Undo", "Z", "cmd/ctrl", lambda: act(self._row["Undo"])),
            ("Redo", "Z", "cmd/ctrl+shift", lambda: act(self._row["Redo"])),
            ("Clear the selection, or the lasso", "escape", None, lambda: act(self._escape)),
            ("Invert the selection", "I", "cmd/ctrl", lambda: act(self._row["Invert"])),
            ("Larger level", "pageup", None, lambda: act(partial(self._step_level, 1))),
            ("Smaller level", "pagedown", None, lambda: act(partial(self._step_level, -1))),
            ("Keep as object", "K", None, self._keep),
            ("Hide the selection", "H", None, lambda: act(self._hide)),
            ("Look at the selection", "F", None, lambda: act(self._window.focus)),
        )
        for label, hotkey, modifier, act_on in keys:
            command = self._gui.add_command(label, hotkey=hotkey, modifier=modifier)
            command.on_trigger(pressed(act_on))

    def _escape(self) -> None:
        if not self._window.canvas.forget_lasso():
            self._window.session.clear()

    # Sliders ---------------------------------------------------------------------------------------------------------

    def _threshold_moved(self, event: Any) -> None:
        if event.client is not None:  # moved by the person, not by sync()
            value, drag = event.target.value, self._window.drags.number("threshold")
            self._window.act(partial(self._window.session.set_threshold, value, drag), "threshold")

    def _level_moved(self, event: Any) -> None:
        if event.client is not None:
            value, drag = int(event.target.value), self._window.drags.number("level")
            self._window.act(partial(self._window.session.set_level, value - 1, drag), "level")

    def _take(self, name: str) -> None:
        """One of ``LEVELS`` of the last click: the smallest proposal, the second, or the largest."""
        session = self._window.session
        count = 1 if session.active is None else len(session.active.levels)
        session.set_level({"part": 0, "object": min(1, count - 1)}.get(name, count - 1))
        if count < len(LEVELS):
            self._window.say(f"this click has {count} level{'' if count == 1 else 's'}, the last one is shown")

    def _step_level(self, by: int) -> None:
        active = self._window.session.active
        if active is None:
            raise SplatsegError("level: expected a clicked thing, found none; click one first")
        nearest = nearest_level(active)
        self._window.session.set_level(min(max(nearest + by, 0), len(active.levels) - 1))

    def _show_level(self, count: int, index: int) -> None:
        """A slider from 1 to the number of proposed levels. It is never put anew: a hand may be on it."""
        show_end(self._window, self._level, count)
        self._level.disabled = count < 2
        put(self._window, self._level, index + 1, "level")

    def sync(self) -> None:
        session = self._window.session
        active = session.active
        self._threshold.disabled = active is None
        if active is None:
            self._show_level(1, 0)
        else:
            shown = min(max(round(active.threshold / STEP) * STEP, -1.0), 1.0)
            put(self._window, self._threshold, shown, "threshold")  # the hand on the slider is ahead of the session
            if not self._window.waiting("level"):
                self._show_level(len(active.levels), nearest_level(active))
        something = len(session.selection) > 0
        for button in (*self._acting, self._steps["Clear"]):
            light(button, something)
        light(self._steps["Undo"], session.can_undo)
        light(self._steps["Redo"], session.can_redo)
        light(self._steps["Invert"], True)
        for button in self._named.values():
            light(button, active is not None)
        for button in self._combining.values():
            light(button, bool(session.objects))
        self._gestures.sync()
        self._tools.sync()
        options = tuple(_option(o) for o in session.objects) or ("none",)
        if options != self._other.options:
            self._other.options = options
        taken = {o.name for o in session.objects}
        if self._name.value in taken:
            free = (f"object {i}" for i in range(1, len(taken) + 2))
            put(self._window, self._name, next(name for name in free if name not in taken))


def nearest_level(active: Pick) -> int:
    """The level a click is at; after its threshold was set by hand, the one whose threshold is nearest."""
    gaps = [abs(level.threshold - active.threshold) for level in active.levels]
    return gaps.index(min(gaps)) if active.level is None else active.level


def _option(entry: SceneObject) -> str:
    """What a list calls an object: names may be long, and repeat."""
    return f"{short(entry.name)} ({entry.id})"
