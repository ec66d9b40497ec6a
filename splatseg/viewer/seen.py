"""Which tab a person has open. viser's page keeps that to itself; but a browser fetches a picture when it is seen.

Every tab holds a picture of no size that is fetched when the tab is shown, from an address that is good for once. The
tab whose picture was fetched last is the open one; the one that was open before gets a new picture.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from splatseg.viewer.rest import Later

PATH = "splatseg/seen/"  # relative to the page: a proxy may serve it from a folder
AGAIN_SECONDS = 1.0  # two tabs that are seen at once, one pulled out of the panel, take turns no faster


class Fetches:
    """Addresses whose first fetch somebody wants to be told of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[str, Callable[[], object]] = {}

    def add(self, told: Callable[[], object]) -> str:
        """A new address, relative to the page; ``told`` is called in the event loop when it is fetched."""
        address = PATH + secrets.token_urlsafe(16)
        with self._lock:
            self._told[address] = told
        return address

    def forget(self, address: str) -> None:
        """Nobody wants to be told any more."""
        with self._lock:
            self._told.pop(address, None)

    def take(self, path: str) -> bool:
        """Tell of the fetch of ``path``, as a request names it; whether it is an address of these, waited for or not: a
        page may fetch a picture again."""
        address = path.lstrip("/")
        with self._lock:
            told = self._told.pop(address, None)
        if told is not None:
            told()
        return address.startswith(PATH)


class SeenTabs:
    """The pictures in the tabs of one window.

    Args:
        gui: the window's viser widgets.
        fetches: where their addresses are made.
        told: called in the event loop with the tab that is open now.
    """

    def __init__(self, gui: Any, fetches: Fetches, told: Callable[[str], object]) -> None:
        self._gui, self._fetches, self._told = gui, fetches, told
        self._lock = threading.Lock()
        self._pictures: dict[str, Any] = {}
        self._addresses: dict[str, str] = {}  # of those that were not fetched yet
        self._open = ""
        self._again = Later(AGAIN_SECONDS, self._renew, rest=True)

    def add(self, tab: str) -> None:
        """Put a picture into ``tab``, whose widgets are being made."""
        self._pictures[tab] = self._gui.add_html(self._markup(tab))

    def close(self) -> None:
        """Listen no more."""
        self._again.close()
        for address in self._addresses.values():
            self._fetches.forget(address)

    def _markup(self, tab: str) -> str:
        self._addresses[tab] = address = self._fetches.add(partial(self._seen, tab))
        place = "position:absolute;width:1px;height:1px;opacity:0"
        return f"<img src='{address}' loading='lazy' alt='' style='{place}'>"

    def _seen(self, tab: str) -> None:
        with self._lock:
            self._addresses.pop(tab, None)
            self._open = tab
        self._told(tab)
        self._again.tell()

    def _renew(self) -> None:
        """New pictures for those that are not open and whose own was fetched."""
        with self._lock:
            missing = [tab for tab in self._pictures if tab != self._open and tab not in self._addresses]
            written = {tab: self._markup(tab) for tab in missing}
        for tab, markup in written.items():
            self._pictures[tab].content = markup
