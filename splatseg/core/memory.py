"""Whether there is memory for what is about to begin, asked before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping

from splatseg.core.errors import SplatsegError
from splatseg.core.machine import available_memory
from splatseg.core.ranks import Ranks

GB = 1e9


def require_memory_of_ranks(
    needs: Mapping[str, float], helping: Mapping[str, float], advice: str, ranks: Ranks
) -> None:
    """:func:`require_memory` in every rank, for all ranks of its machine together: they share its memory.

    Args:
        needs: bytes by the step's name that rank 0 takes; rank 0's count, others may know none.
        helping: ... and each other rank.
        advice: what a person can do.

    Raises:
        SplatsegError: in all ranks, naming one whose machine has too little.
    """
    needs, helping, advice = ranks.broadcast((needs, helping, advice))
    first = int(ranks.places[0].host == ranks.places[ranks.rank].host)
    others = ranks.neighbors() - first
    total = {}
    for name, need in needs.items():
        sharing = first + (others if name in helping else 0)
        together = f"{name} of {sharing} ranks" if sharing > 1 else name
        total[together] = first * need + others * helping.get(name, 0.0)
    ranks.agree(lambda: require_memory(total, advice))


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
