"""Doing something a moment later, beside the queue: an action that waits in it would hold up the clicks behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Later:
    """Does ``act`` some time after :meth:`tell`, once for all that was told until then.

    Args:
        seconds: how long after.
        act: what to do; it posts to a queue and returns at once.
        rest: count from the last word, not from the first: what goes on moving is left to come to rest.
    """

    def __init__(self, seconds: float, act: Callable[[], object], rest: bool) -> None:
        self._seconds, self._act, self._rest = seconds, act, rest
        self._news = threading.Condition()
        self._due: float | None = None
        self._closed = False

    def tell(self) -> None:
        """Something has changed."""
        with self._news:
            if self._closed or (self._due is not None and not self._rest):
                return
            begun, self._due = self._due is not None, time.monotonic() + self._seconds
        if not begun:
            threading.Thread(target=self._wait, name="splatseg-later", daemon=True).start()

    @property
    def waiting(self) -> bool:
        """Whether it is still to be done."""
        return self._due is not None

    def close(self) -> None:
        """Forget what was to be done."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def _wait(self) -> None:
        with self._news:
            while not self._closed and self._due is not None and self._due > time.monotonic():
                self._news.wait(self._due - time.monotonic())
            self._due = None
            if self._closed:
                return
        self._act()
