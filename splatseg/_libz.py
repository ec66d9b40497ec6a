"""The one place that orders the imports of native libraries: libz before pycolmap.

pycolmap's extension exports a zlib of its own. Where the system's ``libz.so.1`` comes into the process as *its*
dependency, libz's inner calls bind to pycolmap's copy, and the next PNG, npz or zip aborts the interpreter
(``free(): invalid pointer``; pycolmap 4.2.1 with Pillow 13.0.0 and with the standard library's zlib alike). Where libz
is there first, its calls are bound and nothing happens. ``splatseg/__init__.py`` therefore calls :func:`load_libz`
before anything else of the package is imported; no other module has to think of it.

A program that imports pycolmap before anything that uses libz is past mending: its libz is bound. It is told so in one
line, at ``import splatseg`` and not by an abort hours later; ``import zlib`` above ``import pycolmap`` is the remedy.
Imports the standard library alone: ``import splatseg`` is to be quick.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

_ROUND_TRIP_SECONDS = 20


def load_libz() -> None:
    """Bring libz into the process before pycolmap can, or find out that it is too late.

    Raises:
        ImportError: pycolmap came first and its zlib has taken the place of the system's.
    """
    loaded = list(sys.modules)
    late = "pycolmap" in loaded and "zlib" not in loaded[: loaded.index("pycolmap")]
    import zlib  # noqa: F401

    with suppress(ImportError):  # scripts/doctor.py starts without Pillow, to say that it is missing
        from PIL import _imaging  # noqa: F401  (Pillow's codecs are linked to the same libz)
    if late and hasattr(os, "fork") and not _works():
        raise ImportError(
            "pycolmap: expected 'import splatseg' (or 'import zlib') before 'import pycolmap', found it first: its "
            "zlib has taken the place of the system's and the next PNG would abort Python",
            name="pycolmap",
        )


def _works() -> bool:
    """Whether zlib survives use, tried in a forked copy of this process: a failure is an abort."""
    child = os.fork()
    if child == 0:
        for number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS):
            signal.signal(number, signal.SIG_DFL)  # pycolmap's own handlers would print, and can hang
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)  # glibc's last words
        signal.alarm(_ROUND_TRIP_SECONDS)
        import zlib

        text = bytes(range(256)) * 1000
        os._exit(0 if zlib.decompress(zlib.compress(text)) == text else 1)
    return os.waitpid(child, 0)[1] == 0
