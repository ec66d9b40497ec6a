"""How many processors this process may use, and how its threads wait for each other. The standard library alone is
imported here: both must be settled before torch, whose OpenMP reads the environment as it is loaded.

OpenMP's threads spin at the end of each parallel region until the last has come, some milliseconds by default. Alone on
a machine that is the fastest; beside other processes it takes from them, and from the thread that is waited for, which
is not on a processor then. Two threads that spin are slower beside one busy process than one thread is.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

SPINS = "300"  # of a waiting thread before it sleeps; docs/evaluation/speed.md has the rates of other numbers
_CGROUPS = Path("/sys/fs/cgroup")


def usable_processors(cgroups: Path = _CGROUPS, groups: Path = Path("/proc/self/cgroup")) -> int:
    """Processors that the affinity mask and the CPU quota of every control group above this process leave it, at least
    one; a share of one counts as a whole one."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(there, _quota(cgroups, groups))))


def share_processors() -> None:
    """Settle both by the environment, where the user has not: called before torch is loaded."""
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_processors()))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _quota(cgroups: Path, groups: Path) -> float:
    """The least quota, in processors; infinite where there is none."""
    least = math.inf
    for folder in _folders(cgroups, groups):
        words = (_text(folder / "cpu.max") or _old_words(folder)).split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]) > 0:
            least = min(least, int(words[0]) / int(words[1]))
    return least


def _folders(cgroups: Path, groups: Path) -> list[Path]:
    """Where the quotas of this process's groups lie: version 2 (``0::/a/b``) and version 1 (``N:cpu,cpuacct:/a/b``)."""
    found = [cgroups, cgroups / "cpu"]
    for line in _text(groups).splitlines():
        _, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        if names and "cpu" not in names.split(","):
            continue
        root = cgroups / "cpu" if names else cgroups
        parts = [part for part in group.split("/") if part not in ("", "..")]
        found += [root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return found


def _old_words(folder: Path) -> str:
    """Version 1's quota as version 2 writes it; -1 is none there."""
    return f"{_text(folder / 'cpu.cfs_quota_us').strip()} {_text(folder / 'cpu.cfs_period_us').strip()}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
