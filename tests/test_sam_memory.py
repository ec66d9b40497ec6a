"""Memory of everything-mode on one 1920x1080 image with vit_b: bounded, and a fraction of the library's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIMIT = 1.5e9  # bytes above the weights

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")


def one_side(side: str, points_per_side: int) -> dict[str, float]:
    """Figures of one side of benchmarks/masks.py, in a process of its own."""
    arguments = ["--side", side, "--points-per-side", str(points_per_side), "--threads", "1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks/masks.py"), *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, env=env, check=True, timeout=1200).stdout)


@pytest.fixture(scope="module")
def ours() -> dict[str, float]:
    """16 points reach the peak: two full decoder passes of eight, three masks at image size at a time; the rest is the
    encoder's attention, which no number of points changes. More points only add run lengths."""
    return one_side("ours", 4)


@pytest.mark.slow
def test_peak_memory_is_bounded(ours: dict[str, float]) -> None:
    assert ours["masks"] == 48  # nothing was filtered: 16 points of three masks each went all the way
    assert ours["above"] < LIMIT


@pytest.mark.slow
def test_the_library_needs_several_times_as_much(ours: dict[str, float]) -> None:
    """With a single point already, for its encoder: three attention matrices of 12 heads x 4096 x 4096 float32 at once,
    2.4 GB. (Its own peak is a batch of 64 points: benchmarks/masks.py.)"""
    library = one_side("library", 1)
    assert library["masks"] == 3
    assert library["above"] > 2.4e9
    assert library["above"] > 3 * ours["above"]
