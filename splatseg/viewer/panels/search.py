"""A box to search objects and labels in; what is chosen is selected and looked at."""

from __future__ import annotations

from functools import partial
from typing import Any

from splatseg.session.search import MOST, Found, search, select_found
from splatseg.viewer.actions import Actions
from splatseg.viewer.events import in_order, pressed
from splatseg.viewer.panels.lit import add_button, light
from splatseg.viewer.status import short

NONE_FOUND = "nothing found"


class SearchSection:
    """The upper end of the Objects tab."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        gui = window.client.gui
        self._text = gui.add_text("Search", "", hint="Name or class; >1000 or <500 bounds the number of Gaussians")
        self._text.on_update(
            in_order(lambda event: window.post(self._look, "search") if event.client is not None else None)
        )
        self._list = gui.add_dropdown("Found", (NONE_FOUND,), hint="Selected and looked at when chosen")
        self._list.on_update(in_order(self._chosen))
        self._again = add_button(gui, "Select and go there", disabled=True)
        self._again.on_click(pressed(lambda: window.act(partial(self._go, self._list.value))))
        self._found: dict[str, Found] = {}
        self._listed: tuple[str, int] = ("", -1)

    def _look(self) -> None:
        """List what the text is about; choosing nothing."""
        self._listed = self._asked()
        found = search(self._window.session, self._text.value)
        self._found = {_line(entry): entry for entry in found}
        # The first line is never one that can be chosen: a browser does not tell of a choice that stands already.
        count = f"{len(found)}{' or more' if len(found) == MOST else ''} found"
        options = (count if found else NONE_FOUND, *self._found)
        if options != self._list.options:
            self._list.options = options
        light(self._again, self._list.value in self._found)

    def _chosen(self, event: Any) -> None:
        light(self._again, event.target.value in self._found)
        if event.client is not None:
            self._window.act(partial(self._go, event.target.value))

    def _go(self, line: str) -> None:
        if line in self._found:
            select_found(self._window.session, self._found[line])
            self._window.focus()

    def sync(self) -> None:
        """Objects and labels may have changed."""
        if self._asked() != self._listed:
            self._look()

    def _asked(self) -> tuple[str, int]:
        return self._text.value, self._window.session.workspace.shared.version


def _line(found: Found) -> str:
    category = f", {short(found.category)}" if found.category else ""
    return f"{short(found.name)}{category} · {found.kind} {found.id} · {found.count:,}"
