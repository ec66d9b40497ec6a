"""A slice of ``tests/campaign.py`` for CI: damaged inputs of most kinds, a few kills. The whole is no part of CI."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaign import Worker
from campaign_bases import build_bases
from campaign_cases import GOOD, SCRIPT_EVERY, Case
from campaign_doors import DOORS
from campaign_formats import FORMAT_DOORS, build_formats
from campaign_kills import Kills

SEED, CASES, FORMAT_CASES = 0, 150, 40
KILLS = (2, 36, 80, 6)  # a write of segment.py, masks.py and fit.py, and a session at work: three of them failed once


@pytest.mark.slow
def test_a_slice_of_the_damaged_inputs(tmp_path: Path) -> None:
    worker = Worker(build_bases(tmp_path / "bases"), tmp_path / "worker")
    numbers = [n for n in range(1, CASES) if n % SCRIPT_EVERY]
    assert len({Case(SEED, number).door()[0] for number in numbers}) > len(DOORS) / 2
    try:
        failed = [result for n in numbers if (result := worker.case(Case(SEED, n)))["outcome"] not in GOOD]
    finally:
        worker.close()
    assert not failed


@pytest.mark.slow
def test_a_slice_of_the_damaged_formats(tmp_path: Path) -> None:
    """Of other tools' splats, each opened by a process of its own."""
    worker = Worker(build_formats(build_bases(tmp_path / "bases")), tmp_path / "worker")
    cases = [Case(SEED, n, "formats") for n in range(1, FORMAT_CASES) if n % SCRIPT_EVERY]
    assert {case.door()[0] for case in cases} == set(FORMAT_DOORS)
    try:
        failed = [result for case in cases if (result := worker.case(case))["outcome"] not in GOOD]
    finally:
        worker.close()
    assert not failed


@pytest.mark.slow
def test_a_slice_of_the_kills(tmp_path: Path) -> None:
    case, close = Kills(tmp_path / "kills", SEED).worker(0)
    try:
        done = [case(number) for number in KILLS]
    finally:
        close()
    assert len({result["job"] for result in done}) == len(KILLS)
    assert [result["outcome"] for result in done] == ["answer"] * len(KILLS), done
    assert sum(result["killed"] for result in done) >= len(KILLS) - 1
