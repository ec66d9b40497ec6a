"""The tab with the kept objects, shared by all windows."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from splatseg.session import SceneObject
from splatseg.session.copies import LARGEST, SMALLEST
from splatseg.viewer.actions import Actions
from splatseg.viewer.events import in_order, pressed, put
from splatseg.viewer.panels.lit import add_button, light
from splatseg.viewer.panels.search import SearchSection
from splatseg.viewer.status import ONE_LINE, short, swatch

TWICE_SECONDS = 0.5  # between two presses of Select that are a double-click, which browsers count alike


class ObjectRow:
    """One object: a row of buttons, and its color, name and copies folded below."""

    def __init__(self, window: Actions, entry: SceneObject) -> None:
        self._window, self._key = window, entry.id
        self._selected_at = -math.inf
        gui = window.client.gui
        self.folder = gui.add_folder(self._label(entry))
        with self.folder:
            self._buttons = gui.add_button_group("", self._options(entry))
            self._buttons.on_click(in_order(self._pressed))
            with gui.add_folder("Color, name, copy", expand_by_default=False):
                self._add_details(entry)

    def _add_details(self, entry: SceneObject) -> None:
        window, gui, key = self._window, self._window.client.gui, entry.id
        self._color = gui.add_rgb("Color", entry.color)
        self._color.on_update(
            in_order(partial(self._changed, lambda value: window.session.recolor(key, value), f"color {key}"))
        )
        self._name = gui.add_text("Name", entry.name)
        rename = add_button(gui, "Rename")
        rename.on_click(pressed(lambda: window.act(partial(window.session.rename, key, self._name.value))))
        copy = add_button(gui, "Duplicate", hint="A copy to move, turn and scale")
        copy.on_click(pressed(lambda: window.act(partial(self._duplicate, key))))
        self._scale = None if entry.placement is None else self._add_placing(entry)

    @staticmethod
    def _options(entry: SceneObject) -> tuple[str, ...]:
        """What the buttons of the row say."""
        return ("Hide" if entry.visible else "Show", "Isolate", "Select", "Delete")

    def _pressed(self, event: Any) -> None:
        session, pressed_at = self._window.session, time.monotonic()
        acts: dict[str, Callable[[], object]] = {
            "Hide": partial(session.show, self._key, False),
            "Show": partial(session.show, self._key),
            "Isolate": partial(session.isolate, self._key),
            "Select": partial(session.combine, self._key, "replace"),
            "Delete": partial(session.delete, self._key),
        }
        self._window.act(acts[event.target.value])
        if event.target.value == "Select":
            if pressed_at - self._selected_at < TWICE_SECONDS:
                self._window.act(self._window.focus)
            self._selected_at = pressed_at

    def _duplicate(self, key: int) -> None:
        window = self._window
        copy = window.session.duplicate(key)
        window.copy_gizmo.show(copy.id)
        window.say(f"'{short(copy.name)}' stands where the original does: drag the gizmo to move it", "done")

    def _add_placing(self, entry: SceneObject) -> Any:
        window, gui, key = self._window, self._window.client.gui, entry.id
        assert entry.placement is not None
        move = gui.add_button_group("Gizmo", ("Show", "Put away"))
        move.on_click(
            in_order(
                lambda event: window.act(lambda: window.copy_gizmo.show(key if event.target.value == "Show" else None))
            )
        )
        scale = gui.add_number("Scale", entry.placement.scale, min=SMALLEST, max=LARGEST, step=0.01)
        scale.on_update(
            in_order(partial(self._changed, lambda value: window.session.place(key, scale=value), f"scale {key}"))
        )
        return scale

    def _changed(self, change: Any, event_or_key: Any, event: Any = None) -> None:
        key, event = (None, event_or_key) if event is None else (event_or_key, event)
        if event.client is not None:
            self._window.act(partial(change, event.target.value), key)

    @staticmethod
    def _label(entry: SceneObject) -> str:
        kind = "" if entry.placement is None else " · copy"
        return f"{short(entry.name)} · {len(entry):,}{kind}{'' if entry.visible else ' · hidden'}"

    def update(self, before: SceneObject, entry: SceneObject) -> None:
        """Show what has changed: a name that is being typed and a slider that is being dragged stay."""
        self.folder.label = self._label(entry)
        if entry.visible != before.visible:
            self._buttons.options = self._options(entry)
        if entry.color != before.color:
            put(self._window, self._color, entry.color, f"color {entry.id}")
        if entry.name != before.name:
            put(self._window, self._name, entry.name)
        if self._scale is not None and entry.placement is not None:
            put(self._window, self._scale, entry.placement.scale, f"scale {entry.id}")


class ObjectsPanel:
    """A list of all objects with their colors and counts, and a folder of widgets for each."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        gui = window.client.gui
        self._search = SearchSection(window)
        self._list = gui.add_html("")
        self._everything = add_button(gui, "Show all", disabled=True)
        self._everything.on_click(pressed(lambda: window.act(self._show_all)))
        self._folder = gui.add_folder(None)
        self._rows: dict[int, tuple[SceneObject, ObjectRow]] = {}
        self._listed = ""

    def _show_all(self) -> None:
        session = self._window.session
        session.isolate(None)
        for entry in session.objects:
            if not entry.visible:
                session.show(entry.id)

    def sync(self) -> None:
        objects = {entry.id: entry for entry in self._window.session.objects}
        for key in self._rows.keys() - objects.keys():
            self._rows.pop(key)[1].folder.remove()
        for key, entry in objects.items():
            known = self._rows.get(key)
            if known is None:
                with self._folder:
                    self._rows[key] = (entry, ObjectRow(self._window, entry))
            elif known[0] is not entry:
                known[1].update(known[0], entry)
                self._rows[key] = (entry, known[1])
        light(
            self._everything,
            self._window.session.isolated is not None or not all(entry.visible for entry in objects.values()),
        )
        self._show_list(list(objects.values()))
        self._search.sync()

    def _show_list(self, objects: list[SceneObject]) -> None:
        lines = [
            f"<div style='display:flex;align-items:center;opacity:{1 if o.visible else 0.45}'>{swatch(o.color)}"
            f"<span style='flex:1;{ONE_LINE}' title='{html.escape(o.name, quote=True)}'>{html.escape(o.name)}</span>"
            f"<span style='margin-left:0.5em'>{len(o):,}</span></div>"
            for o in objects
        ]
        body = "".join(lines) or "Nothing kept yet: select something and press <b>Keep as object</b>."
        content = f"<div style='font-size:0.85em;padding:0.3em 0.9em'>{body}</div>"
        if content != self._listed:
            self._list.content = self._listed = content
