"""What the caller of a long fit lends to it: where checkpoints and figures go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FitHooks:
    """All optional; without them a fit keeps nothing and starts from its beginning."""

    load_checkpoint: Callable[[], dict[str, Any] | None] = lambda: None
    save_checkpoint: Callable[[dict[str, Any]], None] = lambda state: None
    log: Callable[[dict[str, Any]], None] = lambda figures: None
    checkpoint_seconds: float = 30.0
    quiet: bool = False
