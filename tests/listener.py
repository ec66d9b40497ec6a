"""A reporter that keeps what it hears."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splatseg.core.progress import Cancelled, Progress, Reporter


class Listener(Reporter):
    """Figures go to ``logged``, progress to ``heard``; with ``stop_at`` it cancels at that many updates."""

    def __init__(self, logged: list[dict[str, Any]] | None = None, stop_at: int | None = None) -> None:
        self.logged = [] if logged is None else logged
        self.heard: list[Progress] = []
        self.finished: list[str] = []
        self.stop_at = stop_at

    def update(self, progress: Progress) -> None:
        self.heard.append(progress)
        if len(self.heard) == self.stop_at:
            raise Cancelled("cancelled")

    def finish(self, label: str) -> None:
        self.finished.append(label)

    def log(self, figures: Mapping[str, Any]) -> None:
        self.logged.append(dict(figures))
