"""Work that takes longer than a blink: it reports where it is and stops when asked."""

from __future__ import annotations

import threading

from splatseg.errors import SplatsegError


class Cancelled(SplatsegError):
    """The person stopped the work; nothing it was making is left behind."""


class Job:
    """Progress of one piece of work. Pass :meth:`report` to what does the work; :meth:`cancel` from any thread.

    Attributes:
        step: what is being done, for people.
        share: how much is done, in [0, 1].
    """

    def __init__(self) -> None:
        self.step = ""
        self.share = 0.0
        self._cancelled = threading.Event()

    def report(self, step: str, share: float) -> None:
        """Note the progress.

        Raises:
            Cancelled: :meth:`cancel` was called.
        """
        if self._cancelled.is_set():
            raise Cancelled("cancelled")
        self.step, self.share = step, min(max(share, 0.0), 1.0)

    def cancel(self) -> None:
        self._cancelled.set()
