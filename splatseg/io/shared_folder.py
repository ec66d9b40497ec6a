"""Whether all ranks see the same run folder."""

from __future__ import annotations

import time
from pathlib import Path

from splatseg.core.atomic import temporary_name, write_text
from splatseg.core.errors import SplatsegError
from splatseg.core.ranks import Ranks

PATIENCE = 10.0  # seconds: network file systems show new files late


def check_shared(folder: Path, ranks: Ranks) -> None:
    """Rank 0 writes a file to ``folder`` that the others must find; it is gone afterwards.

    Raises:
        SplatsegError: in all ranks, naming one that does not find it.
    """
    if ranks.alone:
        return
    token = temporary_name(folder / "shared")  # one that a killed rank leaves is removed with the other leftovers
    try:
        if ranks.first:
            write_text(token, "")
        name = ranks.broadcast(token.name)
        ranks.agree(lambda: _find(folder, name))
    finally:
        if ranks.first:
            token.unlink(missing_ok=True)


def _find(folder: Path, name: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        there = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        if name in there:
            return
        if time.monotonic() > deadline:
            found = "a folder without it" if folder.is_dir() else "no such folder"
            raise SplatsegError(
                f"{folder}: expected a run folder that all ranks share, with a file of rank 0, found {found}"
            )
        time.sleep(0.1)
