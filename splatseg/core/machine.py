"""What the operating system tells of processes, asked so that every room imports on every system.

splatseg is built and tested on Linux. The viewer and the commands import elsewhere, too: what a system does not tell
is None there, and never guessed.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def peak_memory() -> int | None:
    """The most bytes that this process has held at once; None where the system does not tell."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def file_size_limit() -> int | None:
    """Bytes that a file of this process may have (``ulimit -f``); None where there is no limit."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


def is_alive(process: int) -> bool:
    """Whether a process of this id is there; where that cannot be asked, it is taken to be."""
    if os.name != "posix":  # Windows would end it: signal 0 is CTRL_C_EVENT there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def available_memory() -> int | None:
    """Bytes of memory that can be had without swapping: Linux's ``MemAvailable``, elsewhere half of what is built in;
    None where the system does not tell."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None
