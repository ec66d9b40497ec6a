"""A slice of ``tests/campaign.py`` for CI: damaged inputs of most kinds. The whole is no part of CI."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaign import Worker
from campaign_bases import build_bases
from campaign_cases import GOOD, SCRIPT_EVERY, door_of
from campaign_doors import DOORS

SEED, CASES = 0, 150
KNOWN = {"COLMAP, undistorted"}  # the watch takes links to photos for writes to them


@pytest.mark.slow
def test_a_slice_of_the_damaged_inputs(tmp_path: Path) -> None:
    worker = Worker(build_bases(tmp_path / "bases"), tmp_path / "worker")
    numbers = [n for n in range(1, CASES) if n % SCRIPT_EVERY and door_of(SEED, n)[0] not in KNOWN]
    assert len({door_of(SEED, number)[0] for number in numbers}) > len(DOORS) / 2
    try:
        failed = [result for n in numbers if (result := worker.case(SEED, n))["outcome"] not in GOOD]
    finally:
        worker.close()
    assert not failed
