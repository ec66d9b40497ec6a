"""Work that takes longer than a blink: it reports where it is and stops when asked."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from splatseg.core.errors import SplatsegError

Method = TypeVar("Method", bound=Callable[..., Any])


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

    @property
    def cancelled(self) -> bool:
        """Whether it is to stop, or has stopped."""
        return self._cancelled.is_set()


def tell(job: Job | None, step: str, share: float) -> None:
    """:meth:`Job.report` where there is a job."""
    if job is not None:
        job.report(step, share)


def locked(method: Method) -> Method:
    """Methods so marked, of one object with a ``_lock``, run one after the other: a slider may be moved while a click
    is being worked on."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(Method, call)
