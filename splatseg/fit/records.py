"""What a run keeps of a fit's stages: which are done and of what, their figures, and how far a stopped one came."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from splatseg.core.atomic import write_text
from splatseg.core.progress import Reporter
from splatseg.core.reading import read_json
from splatseg.fit.hooks import FitHooks
from splatseg.fit.stages import Stage
from splatseg.io.run import Run
from splatseg.io.run_log import RunLog

log = logging.getLogger(__name__)


class StageRecords:
    """Stamps, checkpoints and ``metrics.json`` of ``run``; ``figures`` is what the latter holds."""

    def __init__(self, run: Run, reporter: Reporter) -> None:
        self.run = run
        self.reporter = reporter
        self.figures: dict[str, Any] = {}

    def load(self) -> None:
        """Take up the figures of stages that an earlier call finished."""
        try:
            self.figures = dict(read_json(self.run.metrics))
        except (OSError, ValueError, TypeError, RecursionError):
            self.figures = {}

    def note(self, **figures: Any) -> None:
        self.figures.update(figures)
        write_text(self.run.metrics, json.dumps(self.figures, indent=1) + "\n")

    def is_done(self, stage: Stage) -> bool:
        """Whether the result of ``stage`` is there; where one of other inputs is, a line says which have changed."""
        if self.run.is_done(stage.name, stage.key):
            self.run.drop_checkpoint(stage.name)  # of a call that was killed when the stage had just been done
            return True
        if self.run.was_done(stage.name) and (line := stage.line(self.run.made_from(stage.name))):
            log.warning(line)
        return False

    def finish(self, stage: Stage, outputs: Sequence[Path]) -> None:
        self.run.mark_done(stage.name, stage.key, outputs, stage.inputs)
        self.run.drop_checkpoint(stage.name)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note the seconds that the block takes as ``<name>_seconds``."""
        started = time.monotonic()
        yield
        self.note(**{f"{name}_seconds": round(time.monotonic() - started, 1)})

    def hooks(self, stage: Stage) -> FitHooks:
        """For a long stage: checkpoints of these very inputs, progress, and its seconds with those before a kill."""

        def load() -> dict[str, Any] | None:
            saved = self.run.load_checkpoint(stage.name)
            return saved["state"] if saved and saved.get("digest") == stage.key else None

        def save(state: dict[str, Any]) -> None:
            self.run.save_checkpoint(stage.name, {"digest": stage.key, "state": state})

        def note(figures: Mapping[str, Any]) -> None:
            self.note(**{f"{stage.name}_seconds": round(figures["seconds"], 1)})

        return FitHooks(load, save, RunLog(self.run, self.reporter, note))
