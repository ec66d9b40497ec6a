"""How many processors are ours, and how waiting threads wait: settled before torch, never over the user's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from splatseg._processors import SPINS, usable_processors

THERE = len(os.sched_getaffinity(0))
ASK = """
import os, splatseg.cli, sys
assert "torch" not in sys.modules
print(os.environ.get("OMP_NUM_THREADS"), os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
"""


def settled(**own: str) -> list[str]:
    """Threads, spins and policy as a command finds them, where the user has ``own``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))} | own
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, check=True, capture_output=True, text=True)
    return done.stdout.split()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("files", "groups", "quota"),
    [
        ({"cpu.max": "max 100000\n"}, "0::/\n", THERE),
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b\n", 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "1:cpu,cpuacct:/\n", THERE),
        ({"cpu/x/cpu.cfs_quota_us": "30000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, "3:cpuset:/y\n1:cpu:/x\n", 1),
        ({"cpu.max": "nonsense\n"}, "", THERE),
        ({}, "0::/../../elsewhere\n", THERE),
    ],
)
def test_a_quota_of_any_group_above_counts(tmp_path: Path, files: dict[str, str], groups: str, quota: int) -> None:
    """A container with a quota of half a processor ran as many threads as the machine has."""
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    write(tmp_path / "self", groups)
    for _ in range(2):
        assert usable_processors(tmp_path / "cgroup", tmp_path / "self") == min(quota, THERE)


def test_commands_settle_it_before_torch_and_leave_the_users_own() -> None:
    assert settled() == [str(usable_processors()), SPINS, "None"]
    assert settled(OMP_NUM_THREADS="7", GOMP_SPINCOUNT="5") == ["7", "5", "None"]
    assert settled(OMP_WAIT_POLICY="ACTIVE") == [str(usable_processors()), "None", "ACTIVE"]


def test_the_affinity_mask_counts() -> None:
    one = f"import os\nos.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])\n{ASK}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", one], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split()[0] == "1"
