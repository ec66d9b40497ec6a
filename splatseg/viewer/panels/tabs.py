"""The widgets of one window: status line, progress, the photo, and the tabs."""

from __future__ import annotations

import html
from typing import Any, Literal

import numpy as np

from splatseg.core.scene import View
from splatseg.session import Job
from splatseg.viewer.actions import Actions
from splatseg.viewer.panels.files import FilesPanel
from splatseg.viewer.panels.labels import LabelsPanel
from splatseg.viewer.panels.objects import ObjectsPanel
from splatseg.viewer.panels.select import SelectPanel
from splatseg.viewer.panels.view import ViewPanel

PHOTO_WIDTH = 380
STATUS_HEIGHT = "7.4em"  # five lines; more are scrolled to
Kind = Literal["note", "done", "failed"]
MARKS: dict[Kind, tuple[str, str]] = {"note": ("", "inherit"), "done": ("✓ ", "#15803d"), "failed": ("✗ ", "#c2410c")}


class Panels:
    """Everything of a window that is not the splat. :meth:`sync` shows the session's state in the widgets."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._gui = gui = window.client.gui
        self._message: tuple[str, Kind] = ("", "note")
        self._running = ""
        self._facts: tuple[str, ...] = ()
        self._photo: tuple[Any, Any] | None = None
        gui.main_panel.dock_right()
        gui.main_panel.set_width(360)
        self._status = gui.add_html("")
        # In their places always: what came and went would move everything below it under the pointer.
        self._progress = gui.add_progress_bar(0)
        self._cancel = gui.add_button("Cancel", disabled=True, color="gray", hint="Stop what is running")
        self._cancel.on_click(lambda _: window.cancel())
        tabs = gui.add_tab_group()
        kinds = (
            ("Select", SelectPanel),
            ("Objects", ObjectsPanel),
            ("Labels", LabelsPanel),
            ("View", ViewPanel),
            ("Files", FilesPanel),
        )
        self._tabs: list[Any] = []
        for label, kind in kinds:
            with tabs.add_tab(label):
                self._tabs.append(kind(window))

    def sync(self) -> None:
        for tab in self._tabs:
            tab.sync()
        self._facts = self._told()  # after the widgets: it never tells of what they do not show yet
        self._show_status()

    # Status ----------------------------------------------------------------------------------------------------------

    def message(self, text: str, kind: Kind = "note") -> None:
        """Show ``text`` under the facts until the next step."""
        self._message = (text, kind)
        self._show_status()

    def forget_message(self) -> None:
        self._message = ("", "note")

    def _told(self) -> tuple[str, ...]:
        """The lines of the status that say how things are."""
        window, session = self._window, self._window.session
        lines = [f"<b>{len(session.selection):,}</b> selected · {window.template.statement}"]
        active = session.active
        if active is not None and active.level is not None and len(session.selection):
            share = active.levels[active.level].share
            lines.append(f"last click: level {active.level + 1} of {len(active.levels)} · {share:.2%} of the surface")
        if session.isolated is not None:
            lines.append("one object is shown alone (Objects → show all)")
        if session.workspace.autosave_error:
            lines.append(f"<span style='color:#c00'>not saved: {html.escape(session.workspace.autosave_error)}</span>")
        return tuple(lines)

    def _show_status(self) -> None:
        lines = list(self._facts)
        if self._running:
            lines.append(html.escape(self._running))
        text, kind = self._message
        if text:
            mark, color = MARKS[kind]
            lines.append(f"<span style='color:{color}'>{mark}{html.escape(text)}</span>")
        place = f"height:{STATUS_HEIGHT};overflow-y:auto;overflow-wrap:anywhere"
        style = f"font-size:0.85em;padding:0.3em 0.9em;line-height:1.45;{place}"
        content = f"<div style='{style}'>{'<br>'.join(lines)}</div>"
        if content != self._status.content:
            self._status.content = content

    def show_progress(self, title: str, job: Job) -> None:
        self._cancel.disabled, self._cancel.color = False, "red"
        self._progress.animated = True
        self._progress.value = round(100 * job.share, 1)
        self._running = f"{title}: {job.step or 'starting'} ({job.share:.0%})"
        self._show_status()

    def hide_progress(self) -> None:
        """Nothing is running: the bar is empty and Cancel has nothing to cancel."""
        self._cancel.disabled, self._cancel.color = True, "gray"
        self._progress.animated = False
        self._progress.value = 0
        self._running = ""
        self._show_status()

    # Photo -----------------------------------------------------------------------------------------------------------

    def show_photo(self, view: View | None, pixels: np.ndarray | None) -> None:
        """Show the photo in a panel of its own left of the canvas; None takes the panel away."""
        if view is None or pixels is None:
            if self._photo is not None:
                self._photo[0].remove()
                self._photo = None
            return
        if self._photo is not None and self._photo[1].label == view.name:
            self._photo[1].image = pixels
            return
        if self._photo is not None:
            self._photo[1].label = view.name
            self._photo[1].image = pixels
            return
        panel = self._gui.add_panel()
        with panel.add_tab("Photo"):
            picture = self._gui.add_image(pixels, label=view.name, jpeg_quality=85)
        panel.dock_left()
        panel.set_width(PHOTO_WIDTH)
        self._photo = (panel, picture)
