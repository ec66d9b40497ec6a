"""What is said of a process that ended without an answer."""

from __future__ import annotations

import signal


def ending(code: int) -> str:
    """How a process ended, by its return code: an exit code, or the name of the signal that it died of."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
