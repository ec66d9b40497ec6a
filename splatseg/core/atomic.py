"""Writing a file so that a reader sees the whole of it or nothing."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from splatseg.core.errors import SplatsegError
from splatseg.core.machine import file_size_limit, is_alive

_FULL = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "disk quota used up", errno.EFBIG: "file too large"}
_FULL_BELOW = 64 * 1024  # bytes; a disk with less than this free after a failed write is taken to be full

_TEMPORARY = re.compile(r"\..*\.(\d+)-[0-9a-f]{8}\.tmp(\..*)?")  # the names given below; the number is the writer

_ASIDE, _WHOLE = ".aside", ".whole"  # in the hidden folder of write_together: what was there before; all is written


def temporary_name(target: Path) -> Path:
    """A name beside ``target`` that nobody else takes, with its suffix (writers choose a format by it), and by which
    :func:`remove_leftovers` knows whose it was."""
    return target.with_name(f".{target.stem}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp{target.suffix}")


def _why_full(error: BaseException, temporary: Path) -> str | None:
    """Why a write could not be completed, or None where ``error`` is about something else.

    Writers in C++ (numpy's tofile, torch) report a short write without an errno, so the disk itself is asked as well.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return _FULL[error.errno]
    if not isinstance(error, OSError | RuntimeError) or (isinstance(error, OSError) and error.errno is not None):
        return None
    with suppress(OSError):
        if shutil.disk_usage(temporary.parent).free < _FULL_BELOW:
            return _FULL[errno.ENOSPC]
        limit = file_size_limit()
        if limit is not None and temporary.stat().st_size >= limit:
            return _FULL[errno.EFBIG]
    return None


def _sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable; file systems that cannot sync a folder are left as they are."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; on success it is synced and renamed to ``path``.

    The temporary name keeps the suffix (writers choose a format by it) and starts with a dot. On any exception, and on
    interruption, it is removed and what was at ``path`` before stays as it was. Missing parent folders are made.

    Raises:
        SplatsegError: the disk is full, or the folder cannot be written to.
    """
    target = Path(path)
    temporary = temporary_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except BaseException as error:
        reason = _why_full(error, temporary)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if reason is not None:
            raise SplatsegError(f"{target}: expected room to write the file, found {reason}") from error
        if isinstance(error, OSError) and _concerns(error, temporary, target):
            raise SplatsegError(f"{target}: expected a place to write to, found: {error.strerror}") from error
        raise


def _concerns(error: OSError, temporary: Path, target: Path) -> bool:
    """Whether ``error`` is about the place written to, not about something the caller's block read."""
    named = {os.fspath(name) for name in (error.filename, error.filename2) if isinstance(name, str | Path)}
    places = {str(temporary), str(target), *(str(folder) for folder in target.parents)}
    return bool(named & places)


def _below(error: OSError, stage: Path) -> bool:
    """Whether ``error`` is about a move into or out of ``stage``."""
    named = (error.filename, error.filename2)
    return any(isinstance(name, str | Path) and stage in Path(name).parents for name in named)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` by :func:`atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def write_together(folder: str | Path) -> Iterator[Path]:
    """Yield a hidden folder in ``folder``; on success all that was written to it is moved to ``folder``.

    For files that belong together: on any exception, also of a move, none of them is there, and what was there before
    stays as it was. A folder takes the place of the one of its name, with everything in that one. Where the process is
    killed between the moves, :func:`remove_leftovers` makes the rest of them.

    Raises:
        SplatsegError: the disk is full, or the folder cannot be written to.
    """
    target = Path(folder)
    stage = temporary_name(target / "together")
    try:
        stage.mkdir(parents=True)
        yield stage
        _move_all(stage, target)
        _sync_folder(target)
    except SplatsegError as error:
        if str(stage) not in str(error):
            raise
        raise SplatsegError(str(error).replace(str(stage), str(target))) from error
    except OSError as error:
        if not (_concerns(error, stage, target) or _below(error, stage)):
            raise
        raise SplatsegError(f"{target}: expected a place to write to, found: {error.strerror}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _move_all(stage: Path, target: Path) -> None:
    """Move what is in ``stage`` to ``target``: all of it, or on an exception nothing."""
    aside, moved = stage / _ASIDE, []
    entries = _staged(stage)
    aside.mkdir()
    (stage / _WHOLE).touch()
    _sync_folder(stage)
    try:
        for entry in entries:
            moved.append(entry.name)
            _put_aside(target / entry.name, aside / entry.name)
            os.replace(entry, target / entry.name)
    except BaseException:
        (stage / _WHOLE).unlink(missing_ok=True)  # a kill from here on is not to make the moves after all
        for name in reversed(moved):
            _put_back(target / name, stage / name, aside / name)
        raise


def _staged(stage: Path) -> list[Path]:
    return sorted(entry for entry in stage.iterdir() if entry.name not in (_ASIDE, _WHOLE))


def _put_aside(path: Path, aside: Path) -> None:
    """Keep what is at ``path`` at ``aside``; a file stays at ``path`` as well, so that readers always find one."""
    if path.is_file() and not path.is_symlink():
        with suppress(OSError):  # a file system without links
            os.link(path, aside)
            return
    if os.path.lexists(path):
        path.rename(aside)


def _put_back(path: Path, new: Path, aside: Path) -> None:
    """Undo the move of ``new`` to ``path``, of which ``aside`` is what was there before, as far as it came."""
    with suppress(OSError):
        if not os.path.lexists(new):
            path.rename(new)
        if os.path.lexists(aside):
            os.replace(aside, path)


def remove_leftovers(folder: str | Path) -> None:
    """Remove from ``folder`` what processes that are no longer alive were writing when they were killed.

    Files that belong together and were whole by then are moved to their places instead.
    """
    with suppress(OSError):
        for entry in Path(folder).iterdir():
            match = _TEMPORARY.fullmatch(entry.name)
            if match is None or is_alive(int(match[1])):
                continue
            if entry.is_dir():
                if (entry / _WHOLE).exists():
                    with suppress(OSError):
                        _finish(entry, Path(folder))
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _finish(stage: Path, target: Path) -> None:
    """Make the moves that a killed :func:`_move_all` had not come to."""
    for entry in _staged(stage):
        if (target / entry.name).is_dir():
            (target / entry.name).rename(temporary_name(stage / _ASIDE / entry.name))
        os.replace(entry, target / entry.name)
    _sync_folder(target)


def remove_leftovers_below(folder: str | Path, held: bool = True) -> None:
    """:func:`remove_leftovers` of ``folder`` and all folders in it; for who holds the whole folder (``held``) also of
    temporary files that do not say whose they are."""
    for where, folders, names in os.walk(folder):
        remove_leftovers(where)
        folders[:] = [name for name in folders if not _TEMPORARY.fullmatch(name)]  # a living process writes there
        for name in names if held else ():
            if fnmatch(name, ".*.tmp*") and not _TEMPORARY.fullmatch(name):
                with suppress(OSError):
                    (Path(where) / name).unlink(missing_ok=True)
