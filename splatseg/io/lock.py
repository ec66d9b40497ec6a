"""One lock between processes: filelock's, which the system frees when its holder ends or is killed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from splatseg.core.errors import SplatsegError
from splatseg.core.reading import read_text


class Lock:
    """Holds ``path`` against other processes, and other locks of this one, between :meth:`take` and :meth:`free`.

    The system's lock on the file counts, not the file, so one left behind by a killed process is free. The holder's
    process id lies beside it (``path`` with ``.pid`` after it), as a waiting process may empty the file itself.

    Example::

        with Lock(run.folder / "lock", "a free run folder", run.folder):
            ...  # nobody else writes to it
    """

    def __init__(self, path: Path, expected: str, thing: Path | None = None, wait: bool = False) -> None:
        """``expected`` and ``thing`` (``path`` if None) are for the error's text; ``wait``: for whoever holds it."""
        self.path = path
        self._expected = expected
        self._thing = path if thing is None else thing
        self._wait = wait
        self._holder = path.with_name(path.name + ".pid")
        self._lock = FileLock(path, timeout=-1 if wait else 0, thread_local=False)

    def take(self) -> None:
        """Take the lock; the folder is made where it is not there.

        Raises:
            SplatsegError: another process holds it, naming its id; or its file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise SplatsegError(
                f"{self._thing}: expected {self._expected}, found it in use by process {self._held_by()}"
            ) from None
        except OSError as error:
            raise SplatsegError(
                f"{self.path}: expected a lock file to be writable, found: {error.strerror or error}"
            ) from None
        with suppress(OSError):  # for the message alone
            self._holder.write_text(f"{os.getpid()}\n")

    def free(self) -> None:
        """Let others take it; does nothing where it is not held."""
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)
            self._lock.release()

    def _held_by(self) -> str:
        try:
            return read_text(self._holder, errors="replace")[:32].strip() or "unknown"
        except (OSError, SplatsegError):
            return "unknown"

    def __enter__(self) -> Lock:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.free()
