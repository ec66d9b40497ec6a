"""The widgets of one window: status line, progress, the photo, and the tabs."""

from __future__ import annotations

import html
from typing import Any

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


class Panels:
    """Everything of a window that is not the splat. :meth:`sync` shows the session's state in the widgets."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._gui = gui = window.client.gui
        self._message = self._running = ""
        self._photo: tuple[Any, Any] | None = None
        gui.main_panel.dock_right()
        gui.main_panel.set_width(360)
        self._status = gui.add_html("")
        self._progress = gui.add_progress_bar(0, visible=False, animated=True)
        self._cancel = gui.add_button("Cancel", visible=False, color="red")
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
        self._show_status()

    # Status ----------------------------------------------------------------------------------------------------------

    def message(self, text: str) -> None:
        """Show ``text`` under the status line until the next step."""
        self._message = text
        self._show_status()

    def forget_message(self) -> None:
        self._message = ""

    def _show_status(self) -> None:
        window = self._window
        session = window.session
        lines = [f"<b>{len(session.selection):,}</b> selected · {window.template.statement}"]
        active = session.active
        if active is not None and active.level is not None:
            share = active.levels[active.level].share
            lines.append(f"level {active.level + 1} of {len(active.levels)} · {share:.2%} of the surface")
        if session.isolated is not None:
            lines.append("one object is shown alone (Objects → show all)")
        if session.workspace.autosave_error:
            lines.append(f"<span style='color:#c00'>not saved: {html.escape(session.workspace.autosave_error)}</span>")
        if self._running:
            lines.append(html.escape(self._running))
        if self._message:
            lines.append(f"<span style='color:#b45309'>{html.escape(self._message)}</span>")
        body = "<br>".join(lines)
        self._status.content = f"<div style='font-size:0.85em;padding:0.3em 0.9em;line-height:1.45'>{body}</div>"

    def show_progress(self, title: str, job: Job) -> None:
        self._progress.visible = self._cancel.visible = True
        self._progress.value = round(100 * job.share, 1)
        self._running = f"{title}: {job.step or 'starting'} ({job.share:.0%})"
        self._show_status()

    def hide_progress(self) -> None:
        self._progress.visible = self._cancel.visible = False
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
