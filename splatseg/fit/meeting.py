"""Where the ranks of a fit see, before anything is written, that they are about to do the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splatseg.core.errors import SplatsegError
from splatseg.core.ranks import Ranks
from splatseg.io.shared_folder import check_shared

SAME_COMMAND = "give all ranks the same command"
SAME_FILES = "all ranks must read the same files"


@dataclass(frozen=True)
class Facts:
    """What must not differ between ranks.

    Attributes:
        settings: of the fit, plain values in nested tables.
        inputs: a digest of each input, by its name.
    """

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]


def meet(folder: Path, ranks: Ranks, facts: Callable[[], Facts]) -> None:
    """See that all ranks share the run ``folder`` and have the ``facts`` of rank 0.

    ``facts`` is called in every rank, in the others once they see the folder.

    Raises:
        SplatsegError: in all ranks, naming one and what differs there.
    """
    if ranks.alone:
        return
    check_shared(folder, ranks)
    own = ranks.agree(facts)
    first = ranks.broadcast(own)
    ranks.agree(lambda: compare(first, own))


def compare(first: Facts, own: Facts) -> None:
    """Raise :class:`SplatsegError` for the first setting or input of rank 0 that is another one here."""
    here, there = flat(own.settings), flat(first.settings)
    for name in sorted({*here, *there}):
        if here.get(name) != there.get(name):
            raise SplatsegError(
                f"{name}: expected {there.get(name)} as in rank 0, found {here.get(name)}; {SAME_COMMAND}"
            )
    for name, value in first.inputs.items():
        if own.inputs.get(name) != value:
            raise SplatsegError(f"{name}: expected those of rank 0, found others; {SAME_FILES}")


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dots between the names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def ask(ranks: Ranks, stage: str, *given: Any) -> Ranks:
    """Have the other ranks help with ``stage``, with what they need; they wait for that as long as it takes."""
    ranks.broadcast((stage, given))
    return ranks
