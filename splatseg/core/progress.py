"""Progress, log and cancellation of long work: what does the work tells a reporter, and asks for nothing else.

A reporter hears :class:`Progress` and figures for a log, and stops the work by raising :class:`Cancelled` from there.
:data:`SILENT` hears nothing, :class:`Terminal` draws bars, :class:`Job` shows one piece of work to another thread,
which may cancel it; the run's log is :class:`splatseg.io.run.RunLog`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tqdm import tqdm

from splatseg.core.errors import SplatsegError

Report = Callable[[str, float], None]
"""Called with what is being done and the share of it that is, in [0, 1]; may raise to stop. See Reporter.report."""


class Cancelled(SplatsegError):
    """The person stopped the work; nothing it was making is left behind."""


@dataclass(frozen=True)
class Progress:
    """Where a piece of work is.

    Attributes:
        label: the work, for people.
        done, total: how much of it, in ``unit``.
        figures: shown beside it.
    """

    label: str
    done: float
    total: float
    unit: str = "it"
    figures: Mapping[str, str] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """How much is done, in [0, 1]; 1 of nothing."""
        return min(max(self.done / self.total, 0.0), 1.0) if self.total > 0 else 1.0


class Reporter:
    """Hears nothing; those that do override :meth:`update`, :meth:`finish` or :meth:`log`."""

    def update(self, progress: Progress) -> None:
        """Hear where the work is.

        Raises:
            Cancelled: it is to stop.
        """

    def finish(self, label: str) -> None:
        """Hear that the work of this label has ended, or was left."""

    def log(self, figures: Mapping[str, Any]) -> None:
        """Hear figures of the work, for a log."""

    def report(self, step: str, share: float) -> None:
        """:meth:`update` by the share done; the :data:`Report` of this reporter."""
        self.update(Progress(step, share, 1.0, ""))

    def part(self, start: float, span: float) -> Report:
        """The report of work that is ``span`` of the whole, from ``start`` on."""
        return lambda step, share: self.report(step, start + span * share)

    def count(self, total: int, label: str, unit: str = "it", initial: int = 0) -> Counter:
        """A counter of ``total`` steps, ``initial`` of them already done."""
        return Counter(self, Progress(label, initial, total, unit))


SILENT = Reporter()


class Counter:
    """Counts steps for a reporter, between ``with`` and its end."""

    def __init__(self, reporter: Reporter, start: Progress) -> None:
        self._reporter = reporter
        self._now = start

    def advance(self, count: int = 1, **figures: str) -> None:
        """Count ``count`` steps; ``figures`` are shown beside them until replaced."""
        now = self._now
        self._now = Progress(now.label, now.done + count, now.total, now.unit, {**now.figures, **figures})
        self._reporter.update(self._now)

    def __enter__(self) -> Counter:
        self._reporter.update(self._now)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reporter.finish(self._now.label)


class Terminal(Reporter):
    """Bars on stderr with rate and time left: a terminal is refreshed ten times per second, a log file gets a line
    every ten seconds."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm] = {}

    def update(self, progress: Progress) -> None:
        bar = self._bars.get(progress.label)
        if bar is None:
            bar = self._bars[progress.label] = self._bar(progress)
        if progress.figures:
            bar.set_postfix(progress.figures, refresh=False)
        bar.update(progress.done - bar.n)

    def finish(self, label: str) -> None:
        bar = self._bars.pop(label, None)
        if bar is not None:
            bar.close()

    def _bar(self, progress: Progress) -> tqdm:
        interactive = sys.stderr.isatty()
        return tqdm(
            total=progress.total,
            desc=progress.label,
            unit=progress.unit,
            initial=progress.done,
            file=sys.stderr,
            mininterval=0.1 if interactive else 10.0,
            dynamic_ncols=interactive,
        )


def terminal(quiet: bool) -> Reporter:
    """Bars on stderr, or silence."""
    return SILENT if quiet else Terminal()


class Percent(Reporter):
    """Work that reports steps and shares, as one piece of work for another reporter: ``label``, in percent."""

    def __init__(self, inner: Reporter, label: str) -> None:
        self._inner = inner
        self._label = label

    def update(self, progress: Progress) -> None:
        self._inner.update(Progress(self._label, round(100 * progress.share), 100, "%", {"step": progress.label}))

    def log(self, figures: Mapping[str, Any]) -> None:
        self._inner.log(figures)

    def __enter__(self) -> Percent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.finish(self._label)


class Job(Reporter):
    """One piece of work as another thread sees it, which may :meth:`cancel` it.

    Attributes:
        step: what is being done, for people.
        share: how much is done, in [0, 1].
    """

    def __init__(self) -> None:
        self.step = ""
        self.share = 0.0
        self._cancelled = threading.Event()

    def update(self, progress: Progress) -> None:
        if self._cancelled.is_set():
            raise Cancelled("cancelled")
        self.step, self.share = progress.label, progress.share

    def cancel(self) -> None:
        """Have the work stop at its next :meth:`update`."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether it is to stop, or has stopped."""
        return self._cancelled.is_set()
