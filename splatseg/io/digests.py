"""Digests of settings and files: what a stage was made from, as one text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from splatseg.core.errors import SplatsegError
from splatseg.core.reading import read_bytes

_WHOLE_FILE = 64 * 1024 * 1024  # bytes; larger files count by size and time of change instead of their contents


def canonical(value: Any) -> Any:
    """``value`` as JSON gives it back: what a stored copy is compared with."""
    try:
        return json.loads(json.dumps(value, sort_keys=True, default=str))
    except (TypeError, ValueError) as error:
        raise SplatsegError(f"settings: expected values that JSON can hold, found {error}") from None


@lru_cache(maxsize=1 << 16)
def _contents(path: Path, state: tuple[int, ...]) -> bytes:
    """SHA-256 of a file; once in a process while its ``state`` (inode, size, times) is the same: several stages ask for
    the same photos."""
    return hashlib.sha256(read_bytes(path)).digest()


def digest(settings: Any = None, files: Iterable[str | Path] = (), stats: Iterable[str | Path] = ()) -> str:
    """16 hex digits that change when a stage must run again.

    Args:
        settings: anything JSON can hold (paths count as text); key order does not matter.
        files: input files that count by their contents (above 64 MiB by size and time of change).
        stats: input files, such as photographs, that count by name, size and time of change.

    Raises:
        SplatsegError: a file that is missing or unreadable.
    """
    result = hashlib.sha256(json.dumps(canonical(settings), sort_keys=True).encode())
    for by_contents, paths in ((True, files), (False, stats)):
        for path in map(Path, paths):
            try:
                stat = path.stat()
                result.update(f"\0{path.name}\0{stat.st_size}\0".encode())
                if by_contents and stat.st_size <= _WHOLE_FILE:
                    result.update(_contents(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)))
                else:
                    result.update(str(stat.st_mtime_ns).encode())
            except OSError as error:
                raise SplatsegError(f"{path}: expected a readable file, found: {error.strerror}") from None
    return result.hexdigest()[:16]
