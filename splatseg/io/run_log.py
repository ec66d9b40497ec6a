"""The run's log as a reporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from splatseg.core.progress import SILENT, Progress, Reporter
from splatseg.io.run import Run


class RunLog(Reporter):
    """Writes figures to the log of a run, and passes progress on to ``inner``, which may stop the work.

    Args:
        note: also called with the figures, each time.
    """

    def __init__(
        self, run: Run, inner: Reporter = SILENT, note: Callable[[Mapping[str, Any]], None] = lambda figures: None
    ) -> None:
        self._run = run
        self._inner = inner
        self._note = note

    def update(self, progress: Progress) -> None:
        self._inner.update(progress)

    def finish(self, label: str) -> None:
        self._inner.finish(label)

    def log(self, figures: Mapping[str, Any]) -> None:
        self._run.log(dict(figures))
        self._inner.log(figures)
        self._note(figures)
