"""What the operating system tells of processes, asked so that every room imports on every system.

splatseg is built and tested on Linux. The viewer and the commands import elsewhere, too: what a system does not tell
is None there, and never guessed.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from splatseg.core.reading import read_text

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


def is_running(process: int) -> bool:
    """:func:`is_alive`, and not one that has ended and whose parent has not asked for its exit code yet."""
    with suppress(OSError, IndexError):
        status = Path(f"/proc/{process}/stat").read_text()
        return status.rpartition(")")[2].split()[0] not in ("Z", "X")  # the name before may hold anything
    return is_alive(process)


def available_memory() -> int | None:
    """Bytes of memory that can be had without swapping: Linux's ``MemAvailable``, or less where the control group of
    this process (a container, a service) has less; elsewhere half of what is built in; None where the system does not
    tell."""
    free, left = _free_memory(), _group_memory(_CGROUPS, Path("/proc/self/cgroup"))
    return free if left is None else left if free is None else min(free, left)


def _free_memory() -> int | None:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


def _group_memory(groups: Path, own: Path) -> int | None:
    """The least that the groups above this process leave of their limits: version 2 (``0::/a/b``) and version 1
    (``N:memory:/a/b``); what is read from files and can be dropped counts as free."""
    paths = [("", "")]
    with suppress(OSError):
        lines = [line.split(":", 2) for line in read_text(own).splitlines() if line.count(":") >= 2]
        paths += [(names, path) for _, names, path in lines if not names or "memory" in names.split(",")]
    folders = []
    for names, path in paths:
        parts = [part for part in path.split("/") if part not in ("", "..")]
        roots = (groups / "memory",) if names else (groups, groups / "memory")
        folders += [root.joinpath(*parts[:depth]) for root in roots for depth in range(len(parts) + 1)]
    found = (_left_in(folder, *names) for folder in folders for names in _MEMORY_FILES)
    return min((left for left in found if left is not None), default=None)


_CGROUPS = Path("/sys/fs/cgroup")
_MEMORY_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def _left_in(folder: Path, limit: str, usage: str) -> int | None:
    with suppress(OSError, ValueError):  # of no limit, "max" is no number; version 1 says a huge one
        most, used = int(read_text(folder / limit)), int(read_text(folder / usage))
        with suppress(OSError, ValueError, StopIteration):
            lines = read_text(folder / "memory.stat").splitlines()
            used -= int(
                next(line for line in lines if line.split()[0] in ("inactive_file", "total_inactive_file")).split()[1]
            )
        return max(most - used, 0)
    return None
