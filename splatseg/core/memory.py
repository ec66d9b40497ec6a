"""Whether there is memory for what is about to begin, asked before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping

from splatseg.core.errors import SplatsegError
from splatseg.core.machine import available_memory

GB = 1e9


def require_memory(needs: Mapping[str, float], advice: str) -> None:
    """Raise :class:`SplatsegError` where a step needs more than can be had; nothing happens where that is not known.

    Args:
        needs: bytes by the step's name, each beside what the process holds now; estimates that leave out what depends
            on the data.
        advice: what a person can do.
    """
    free = available_memory()
    if free is None or not needs:
        return
    step = max(needs, key=lambda name: needs[name])
    if needs[step] > free:
        raise SplatsegError(
            f"memory: expected {needs[step] / GB:.1f} GB for {step}, found {free / GB:.1f} GB free; {advice}"
        )
