"""One thread a browser: its actions are done one after the other, and of a dragged slider only the newest value."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

log = logging.getLogger(__name__)


class Waiting(NamedTuple):
    """An action that has not begun."""

    key: str | None
    gesture: bool
    action: Callable[[], None]


class ActionQueue:
    """A queue of actions with one worker thread.

    An action posted under a key replaces one of the same key that has not begun; without a key nothing is replaced.
    What a person did stays in its order: a gesture replaces none that another gesture came after.
    """

    def __init__(self, name: str) -> None:
        self._waiting: list[Waiting] = []
        self._news = threading.Condition()
        self._closed = False
        self._busy = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def post(self, action: Callable[[], None], key: str | None = None, gesture: bool = False) -> None:
        with self._news:
            if key is not None:
                self._drop(key, gesture)
            self._waiting.append(Waiting(key, gesture, action))
            self._news.notify_all()

    def _drop(self, key: str, gesture: bool) -> None:
        """Take out the action that a newer one of ``key`` replaces, if any."""
        for place in range(len(self._waiting) - 1, -1, -1):
            known = self._waiting[place]
            if known.key == key:
                del self._waiting[place]
                return
            if gesture and known.gesture:
                return

    def close(self) -> None:
        """Forget what waits and end the thread after what it is doing."""
        with self._news:
            self._closed = True
            self._waiting.clear()
            self._news.notify_all()

    def join(self, timeout: float) -> None:
        """Wait for the end of a closed queue's thread. At the end of the process: a thread that is torn out of what it
        computes then aborts the process."""
        self._thread.join(timeout)

    def waiting(self, key: str) -> bool:
        with self._news:
            return any(entry.key == key for entry in self._waiting)

    def wait_idle(self, timeout: float) -> bool:
        """Wait until nothing is waiting or being done; False if that takes longer than ``timeout`` seconds."""
        with self._news:
            return self._news.wait_for(lambda: not self._waiting and not self._busy, timeout)

    def _work(self) -> None:
        while True:
            with self._news:
                self._busy = False
                self._news.notify_all()
                self._news.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                action = self._waiting.pop(0).action
                self._busy = True
            try:
                action()
            except Exception:
                # A bug in one action must not end the window's thread: it would look frozen from then on.
                log.exception("an action of the viewer failed")
