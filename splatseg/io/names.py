"""Names from files as paths inside a folder of ours: everything that is written by view name goes through here.

A model, a ``transforms.json`` or a photo folder names its views as it likes: with absolute paths, ``..``, backslashes,
or hundreds of characters. A *plain* name is its own path (``cam0/IMG_1.JPG``), so that people find their files. Every
other name becomes its last part, in plain characters, and a digest of the whole (``IMG_1~0f3c….JPG``). Two names never
share a path, since no plain name has that form.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from splatseg.core.errors import SplatsegError

_MAPPED = re.compile(r"~[0-9a-f]{16}")
_SPECIAL = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')  # control characters, and what other systems keep for themselves
_LONGEST_PART, _LONGEST = 150, 600  # bytes; file systems take 255 a part, of which temporary names need some
_WRITTEN = (".npz", ".png", ".json")  # added to names: a folder so called could meet a file


def safe_name(name: str) -> str:
    """``name`` as a relative posix path that stays inside any folder; different names give different paths.

    Raises:
        SplatsegError: an empty name, one with a NUL character or with characters that no file name can hold.
    """
    if not name.strip():
        raise SplatsegError(f"view name: expected some characters, found {name!r}")
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise SplatsegError(f"view name: expected text that UTF-8 can hold, found {name!a}") from None
    if b"\0" in encoded:
        raise SplatsegError(f"view name: expected no NUL character, found {name!r}")
    if _is_plain(name, encoded):
        return name
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    last = re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".")
    stem, suffix = PurePosixPath(last or "_").stem[:60], PurePosixPath(last or "_").suffix[:12]
    return f"{stem.rstrip('.')}~{hashlib.sha256(encoded).hexdigest()[:16]}{suffix.rstrip('.')}"


def run_path(folder: str | Path, name: str, suffix: str = "") -> Path:
    """Where in ``folder`` to write what belongs to the view ``name``: its path (see :func:`safe_name`) + ``suffix``.

    Raises:
        SplatsegError: see :func:`safe_name`.
    """
    return Path(folder) / f"{safe_name(name)}{suffix}"


def is_file(path: Path) -> bool:
    """Whether there is a file: no file has a name that is too long, where ``Path.is_file`` raises."""
    return os.path.isfile(path)


def by_stem(folder: str | Path, names: Iterable[str], suffix: str) -> dict[str, Path]:
    """Name -> path in ``folder`` with ``suffix`` instead of the name's own; beside it where two names would meet.

    Names that differ by case alone meet, too: not every file system tells them apart.
    """
    names = list(names)
    safe = {name: safe_name(name) for name in names}
    stems = {name: str(PurePosixPath(path).with_suffix("")) for name, path in safe.items()}
    shared = _repeated(stems.values())
    chosen = {name: safe[name] if stems[name].casefold() in shared else stems[name] for name in names}
    if _repeated(chosen.values()):  # "a.png.jpg" beside "a.png" and "a.jpg"
        chosen = safe
    return {name: Path(folder) / f"{path}{suffix}" for name, path in chosen.items()}


def check_distinct(names: Iterable[str], folder: Path) -> None:
    """Refuse names whose files in ``folder`` would be one file there: a file system that does not tell cases apart.

    Raises:
        SplatsegError: names the two.
    """
    if not _folds_case(folder):
        return
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(safe_name(name).casefold(), name)
        if other != name:
            raise SplatsegError(
                f"{folder}: expected view names that differ by more than case on this file system, found '{other}' and "
                f"'{name}'"
            )


def _is_plain(name: str, encoded: bytes) -> bool:
    parts = name.split("/")
    return (
        len(encoded) <= _LONGEST
        and not _SPECIAL.search(name)
        and not _MAPPED.search(name)
        and unicodedata.is_normalized("NFC", name)
        and all(part and part[0] != "." and part[-1] not in ". " and part[0] != " " for part in parts)
        and all(len(part.encode()) <= _LONGEST_PART for part in parts)
        and not any(part.lower().endswith(_WRITTEN) for part in parts[:-1])
    )


def _repeated(paths: Iterable[str]) -> set[str]:
    """Case-folded paths that occur more than once."""
    seen: set[str] = set()
    return {key for key in map(str.casefold, paths) if key in seen or seen.add(key)}  # type: ignore[func-returns-value]


def _folds_case(folder: Path) -> bool:
    """Whether the nearest folder that exists has letters in its name and is found under the other case, too."""
    here = folder.resolve()
    while not here.exists():
        here = here.parent
    other = here.with_name(here.name.swapcase()) if here.name else here
    try:
        return other != here and other.samefile(here)
    except OSError:
        return False
