"""What the caller of a long fit lends to it: where checkpoints go, and who hears of progress and figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from splatseg.core.progress import SILENT, Reporter


@dataclass(frozen=True)
class FitHooks:
    """All optional; without them a fit keeps nothing, starts from its beginning and says nothing.

    A ``reporter`` that raises stops the fit; what it last saved is taken up by the next one.
    """

    load_checkpoint: Callable[[], dict[str, Any] | None] = lambda: None
    save_checkpoint: Callable[[dict[str, Any]], None] = lambda state: None
    reporter: Reporter = SILENT
    checkpoint_seconds: float = 30.0
