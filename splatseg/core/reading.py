"""The one door through which files come in: what is no regular file is refused before it is opened.

A pipe or a device in the place of a file would be waited for, or read without end, inside whatever library opens it.
Readers of the package open what :func:`regular` returns, or call one of the functions below (`tests/test_layers.py`
asserts it); all raise OSError, which a reader turns into its one line.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PARSING = threading.Lock()
"""Held while numpy parses an array's header, by Python's own parser: CPython 3.11 counts how deep that is for all
threads together, and raises SystemError where one parses while garbage is collected in the midst of another's."""


def regular(path: str | Path) -> Path:
    """``path``, to be opened by a library.

    Raises:
        FileNotFoundError: there is nothing, or a link to nothing.
        OSError: a folder, pipe, socket or device is there, or the name cannot be looked up.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "no regular file", os.fspath(path))
    return Path(path)


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file; errors as :func:`regular`, and OSError where it cannot be read."""
    return regular(path).read_bytes()


def read_text(path: str | Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of a regular file, line ends as newlines; errors as :func:`read_bytes`, and UnicodeDecodeError."""
    return regular(path).read_text(encoding=encoding, errors=errors)


def read_json(path: str | Path, encoding: str = "utf-8") -> Any:
    """The JSON in a regular file; errors as :func:`read_text`, and json's ValueError and RecursionError."""
    return json.loads(read_text(path, encoding))


def read_npz(path: str | Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` by their names, in several threads at a time if need be; errors as :func:`regular`, and
    what zipfile and numpy raise (``DAMAGED``)."""
    arrays = {}
    with zipfile.ZipFile(regular(path)) as file:
        for member in file.namelist():
            content = io.BytesIO(file.read(member))
            with _PARSING:
                arrays[member.removesuffix(".npy")] = np.lib.format.read_array(content, allow_pickle=False)
    return arrays
