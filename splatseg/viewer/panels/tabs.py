"""The widgets of one window: status line, progress, the photo, and the tabs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from splatseg.session import Job
from splatseg.viewer.actions import Actions
from splatseg.viewer.events import pressed
from splatseg.viewer.page import page_html
from splatseg.viewer.panels.files import FilesPanel
from splatseg.viewer.panels.labels import LabelsPanel
from splatseg.viewer.panels.lit import add_button
from splatseg.viewer.panels.objects import ObjectsPanel
from splatseg.viewer.panels.photo import PhotoPanel
from splatseg.viewer.panels.select import SelectPanel
from splatseg.viewer.panels.view import ViewPanel
from splatseg.viewer.seen import Fetches, SeenTabs
from splatseg.viewer.status import Kind, facts, status_html

KINDS: dict[str, Callable[[Actions], Any]] = {
    "Select": SelectPanel,
    "Objects": ObjectsPanel,
    "Labels": LabelsPanel,
    "View": ViewPanel,
    "Files": FilesPanel,
}


class Panels:
    """Everything of a window that is not the splat. :meth:`sync` shows the session's state in the widgets."""

    def __init__(self, window: Actions, fetches: Fetches) -> None:
        self._window = window
        self._gui = gui = window.client.gui
        self._message: tuple[str, Kind] = ("", "note")
        self._running = ""
        self._facts: tuple[str, ...] = ()
        gui.main_panel.dock_right()
        gui.main_panel.set_width(360)
        gui.add_html(page_html())
        self._status = gui.add_html("")
        # In their places always: what came and went would move everything below it under the pointer.
        self._progress = gui.add_progress_bar(0)
        self._cancel = add_button(gui, "Cancel", disabled=True, color="gray", hint="Stop what is running")
        self._cancel.on_click(pressed(window.cancel))
        self._complete = self._shown = False  # whether all tabs are there, and whether one was seen
        self._seen = SeenTabs(gui, fetches, self._opened)
        self._group = gui.add_tab_group()
        panels = {label: self._add_tab(label) for label in sorted(KINDS, key=lambda label: label != window.choices.tab)}
        self._tabs = [panels[label] for label in KINDS]
        self._view: ViewPanel = panels["View"]
        self.photo = PhotoPanel(window)
        self._complete = True
        if self._shown:
            window.post(self._put_in_order)

    def _add_tab(self, label: str) -> Any:
        with self._group.add_tab(label):
            self._seen.add(label)
            return KINDS[label](self._window)

    def _opened(self, label: str) -> None:
        """That tab is open now; called in the event loop."""
        self._window.choices.tab = label
        self._shown = True
        if self._complete:
            self._window.post(self._put_in_order)

    def _put_in_order(self) -> None:
        """viser opens the first tab that a group is given; when that is seen, all take their places."""
        order, tabs = list(KINDS), self._group._tab_handles
        if [tab._label for tab in tabs] != order:
            with self._window.client.atomic():
                tabs.sort(key=lambda tab: order.index(tab._label))
                self._group._rebuild_tab_props()

    def close(self) -> None:
        """The browser is gone."""
        self._seen.close()

    def show_legend(self) -> None:
        """The key of the colors, where nothing else has changed."""
        self._view.show_legend()

    def sync(self) -> None:
        for tab in self._tabs:
            tab.sync()
        self._facts = facts(self._window)  # after the widgets: it never tells of what they do not show yet
        self._show_status()

    # Status ----------------------------------------------------------------------------------------------------------

    def message(self, text: str, kind: Kind = "note") -> None:
        """Show ``text`` under the facts until the next step."""
        self._message = (text, kind)
        self._show_status()

    def forget_message(self) -> None:
        self._message = ("", "note")

    def _show_status(self) -> None:
        content = status_html(self._facts, self._running, self._message)
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
