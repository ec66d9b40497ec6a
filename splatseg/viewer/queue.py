"""One thread a browser: its actions are done one after the other, and of a dragged slider only the newest value."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

log = logging.getLogger(__name__)


class ActionQueue:
    """A queue of actions with one worker thread.

    An action posted under a key replaces one of the same key that has not begun; without a key nothing is replaced.
    """

    def __init__(self, name: str) -> None:
        self._waiting: OrderedDict[object, Callable[[], None]] = OrderedDict()
        self._news = threading.Condition()
        self._closed = False
        self._busy = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def post(self, action: Callable[[], None], key: str | None = None) -> None:
        with self._news:
            self._waiting[object() if key is None else key] = action
            self._news.notify_all()

    def close(self) -> None:
        """Forget what waits and end the thread after what it is doing."""
        with self._news:
            self._closed = True
            self._waiting.clear()
            self._news.notify_all()

    def waiting(self, key: str) -> bool:
        with self._news:
            return key in self._waiting

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
                _, action = self._waiting.popitem(last=False)
                self._busy = True
            try:
                action()
            except Exception:
                # A bug in one action must not end the window's thread: it would look frozen from then on.
                log.exception("an action of the viewer failed")
