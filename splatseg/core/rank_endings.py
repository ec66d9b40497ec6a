"""How several ranks end together: one line, by one of them, that names the rank and the cause.

A rank that fails notes why in the store that torchrun holds, closes its connections, by which the others hear of it,
and leaves quietly; the first rank that is still there says it. A rank that was killed has left no note.
"""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from splatseg.core.errors import SplatsegError
from splatseg.core.machine import is_running
from splatseg.core.ranks import ALONE, Ranks, RefusedError, UnreachedError, join, launched

NOTES = 5.0  # seconds in which ranks that live note how they ended
TOLD = 20.0  # seconds that others wait for the line: torchrun ends all ranks when one has left
GOES_ON = "the same command, with any number of ranks, goes on where this one stopped"


class EndedError(BaseException):
    """torchrun, or a person by way of it, ended this rank (SIGTERM); no bad input, which a handler might pass over."""


@contextmanager
def process_ranks() -> Iterator[Ranks]:
    """The ranks of this command for the length of the block; one alone unless torchrun started it.

    What ends the block in one rank ends it in all: the first one alive raises :class:`SplatsegError` with the line for
    people, the others leave quietly with exit code 2. A bug keeps its traceback, and exit code 1.

    Raises:
        SplatsegError: what any rank refuses, or a rank that is lost.
    """
    if launched()[1] == 1:
        yield ALONE
        return
    ranks, store = join()
    notes = _Notes(ranks, store)
    before = signal.signal(signal.SIGTERM, _ended)
    try:
        yield ranks
        ranks.wait()
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from now on: another rank that leaves brings one
        _leave_in_time(ranks)
        _end(notes, error)
        raise
    ranks.leave()
    signal.signal(signal.SIGTERM, before)


def _leave_in_time(ranks: Ranks) -> None:
    """:meth:`Ranks.leave`, which may wait for what a lost rank was to send."""
    leaving = threading.Thread(target=ranks.leave, daemon=True)
    leaving.start()
    leaving.join(NOTES)


def _ended(number: int, frame: object) -> None:
    raise EndedError


@dataclass(frozen=True)
class _Note:
    """How a rank ended: ``refused`` in words, ``bug`` with its kind, ``broken`` off or ``ended`` from outside by what
    befell another one, ``left`` of its own will (exit codes, Ctrl-C)."""

    kind: str
    text: str = ""

    @staticmethod
    def of(error: BaseException) -> _Note:
        if isinstance(error, UnreachedError):
            return _Note("broken", str(error))
        if isinstance(error, EndedError):
            return _Note("ended")
        if isinstance(error, SplatsegError):
            return _Note("refused", str(error))
        if isinstance(error, MemoryError):
            return _Note("refused", "out of memory")
        if isinstance(error, OSError):
            return _Note("refused", f"{error.filename or 'output'}: {error.strerror}")
        return _Note("bug", type(error).__name__) if isinstance(error, Exception) else _Note("left")


class _Notes:
    """The notes of all ranks in the store."""

    def __init__(self, ranks: Ranks, store: dist.Store) -> None:
        self.ranks = ranks
        self._store = store
        self._lost = False

    def write(self, note: _Note) -> None:
        self._set(f"ended/{self.ranks.rank}", json.dumps([note.kind, note.text]))

    def read(self) -> dict[int, _Note]:
        """Of the ranks that have ended, once every rank that can has noted it, or one says why."""
        deadline = time.monotonic() + NOTES
        while True:
            found = self._found()
            missing = [rank for rank in range(self.ranks.size) if rank not in found]
            known = any(note.kind in ("refused", "bug") for note in found.values())
            if known or all(self.runs(rank) is False for rank in missing) or time.monotonic() > deadline:
                return found
            time.sleep(0.02)

    def runs(self, rank: int) -> bool | None:
        """Whether a process of this machine is still there; None of another machine, where that is not known."""
        place = self.ranks.places[rank]
        return is_running(place.process) if place.host == socket.gethostname() else None

    def tell(self) -> None:
        """Let the others leave: the line has been said, or is about to be."""
        self._set("told", "1")

    def is_left_to_others(self) -> bool:
        """Wait for the line of a lower rank; False where those are gone, or silent for too long: then it is this one's
        turn."""
        deadline = time.monotonic() + TOLD
        lower = range(self.ranks.rank)
        while True:
            gone = all(self.runs(rank) is False for rank in lower)  # asked first: who is gone may have told before
            if self._has("told"):
                return True
            if gone:
                return False
            if self._lost or time.monotonic() > deadline:
                return any(self.runs(rank) for rank in lower)
            time.sleep(0.02)

    def _found(self) -> dict[int, _Note]:
        found = {}
        for rank in range(self.ranks.size):
            if self._has(f"ended/{rank}"):
                found[rank] = _Note(*json.loads(self._store.get(f"splatseg/ended/{rank}")))
        return found

    def _has(self, key: str) -> bool:
        return bool(self._asked(lambda: self._store.check([f"splatseg/{key}"])))

    def _set(self, key: str, value: str) -> None:
        self._asked(lambda: self._store.set(f"splatseg/{key}", value))

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """None once the store is gone, with the machine that held it: each call would say so at length."""
        if not self._lost:
            try:
                return ask()
            except RuntimeError:
                self._lost = True
        return None


def _end(notes: _Notes, error: BaseException) -> None:
    """Raise what this rank leaves with instead of ``error``; return where that is right as it is."""
    own = _Note.of(error)
    known_to_all = isinstance(error, RefusedError)
    if not known_to_all:
        notes.write(own)
    if not notes.ranks.first and notes.is_left_to_others():
        if own.kind in ("bug", "left"):
            return
        raise SystemExit(2)
    if known_to_all or own.kind in ("refused", "bug", "left"):
        notes.tell()
        return
    found = {**notes.read(), notes.ranks.rank: own}
    notes.tell()
    raise SplatsegError(_line(notes, found)) from None


def _line(notes: _Notes, found: dict[int, _Note]) -> str:
    """What ended the ranks, for people."""
    ranks = notes.ranks
    for kind, said in (("refused", "{}"), ("bug", "stopped by a bug ({}), its traceback is above")):
        rank = next((rank for rank, note in sorted(found.items()) if note.kind == kind), None)
        if rank is not None:
            text = said.format(found[rank].text)
            return text if rank == 0 and kind == "refused" else f"{ranks.name(rank)}: {text}"
    lost = [rank for rank in range(ranks.size) if rank not in found and not notes.runs(rank)]
    if lost:
        names = " and ".join(ranks.name(rank) for rank in lost)
        return f"{names}: expected it to work on, found it lost (killed, out of memory, or its machine gone); {GOES_ON}"
    broken = next((note.text for note in found.values() if note.kind == "broken"), "")
    return f"ranks: ended from outside{f' ({broken})' if broken else ''}; {GOES_ON}"
