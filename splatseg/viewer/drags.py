"""Where one drag of a slider ends and the next begins: viser tells of values, not of the hand that lets go."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

PAUSE_SECONDS = 1.0  # a slider that rests as long was let go

_numbers = itertools.count(1)  # of all windows: a session may go from one to the next


class Drags:
    """Numbers the drags of a window's sliders.

    Args:
        clock: seconds, rising.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._number, self._slider, self._last = 0, "", 0.0

    def begin(self) -> int:
        """The number of a drag whose beginning and end are told."""
        with self._lock:
            self._slider = ""
            return next(_numbers)

    def number(self, slider: str) -> int:
        """The number of the drag that moves ``slider`` now: another one after a pause, and after another slider."""
        with self._lock:
            now = self.clock()
            if slider != self._slider or now - self._last > PAUSE_SECONDS:
                self._number = next(_numbers)
            self._slider, self._last = slider, now
            return self._number
