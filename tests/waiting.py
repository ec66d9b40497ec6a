"""Waits for states, never for times."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(what: str, condition: Callable[[], Any], patience: float, pause: float = 0.01) -> Any:
    """The first true value of ``condition``, asked every ``pause`` seconds.

    Raises:
        AssertionError: none within ``patience`` seconds; names ``what``.
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(pause)
    raise AssertionError(f"waited {patience:.0f} s in vain for: {what}")
