"""Masks on several processes: the same as on one, in order; failures, kills and early ends leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from waiting import wait_for

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.scene import View
from splatseg.fit.masks_job import MaskJob, run_masks
from splatseg.masks import MaskSet, workers
from splatseg.masks.cache import MaskCache
from splatseg.masks.watershed import WatershedConfig, WatershedMasks
from splatseg.masks.workers import MaskWorkers, affordable, find_masks

WIDTH, HEIGHT = 60, 40
SMALL = WatershedConfig(min_area=20)


class Ends:
    """A source whose process ends at the view "2.png"."""

    name, one_core = "ends", True

    def settings(self) -> dict[str, Any]:
        return {}

    def masks(self, view: View) -> MaskSet:
        if view.name == "2.png":
            os._exit(7)
        print("what a source prints is no answer")
        return MaskSet.empty(HEIGHT, WIDTH)


class Here:
    """A source that holds on to the process it was made in."""

    name = "here"

    def __init__(self) -> None:
        self.pids: list[int] = []

    def settings(self) -> dict[str, Any]:
        return {}

    def masks(self, view: View) -> MaskSet:
        self.pids.append(os.getpid())
        return MaskSet.empty(HEIGHT, WIDTH)


@pytest.fixture
def views(tmp_path: Path) -> list[View]:
    """Six photos of colored blocks, each another."""
    found = []
    for number in range(6):
        blocks = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(blocks.repeat(10, axis=0).repeat(10, axis=1)).save(path)
        found.append(View(path.name, Camera(torch.eye(3), torch.eye(4), WIDTH, HEIGHT), path))
    return found


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more processes pay off for whatever is asked, whatever the machine has."""
    monkeypatch.setattr(workers, "PAYS_OFF", 0.0)
    monkeypatch.setattr(workers, "affordable", lambda views, shared_by: 2)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def children() -> set[int]:
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split() if is_running(int(pid))}


def test_masks_are_those_of_one_process(views: list[View]) -> None:
    before = children()
    expected = [WatershedMasks(SMALL).masks(view).to_coco() for view in views]
    assert len({str(one) for one in expected}) == 6
    found = [masks.to_coco() for masks in find_masks(WatershedMasks(SMALL), views, processes=2)]
    assert found == expected
    assert children() == before


def test_the_first_failure_comes_after_what_was_before_it(views: list[View]) -> None:
    """The third photo is missing, and the fifth: the error is the third's, as with one process."""
    views[2].image_path.unlink()
    views[4].image_path.unlink()
    before, found = children(), []
    for processes in (1, 2):
        found.clear()
        with pytest.raises(SplatsegError, match=r"2\.png: image of view '2\.png' not found"):
            found.extend(find_masks(WatershedMasks(SMALL), views, processes=processes))
        assert children() == before
    # extend gives up what it had; ask one by one
    with closing(find_masks(WatershedMasks(SMALL), views, processes=2)) as each:
        assert len(next(each)) > 3 and len(next(each)) > 3
        with pytest.raises(SplatsegError, match=r"2\.png"):
            next(each)


def test_a_process_that_ends_is_named(views: list[View]) -> None:
    before = children()
    with pytest.raises(SplatsegError, match=r"'2\.png': expected an answer of process \d+, found it ended \(code 7\)"):
        list(find_masks(Ends(), views, processes=2))
    assert children() == before


def test_who_stops_early_ends_the_processes(views: list[View]) -> None:
    before = children()
    with closing(find_masks(WatershedMasks(SMALL), views, processes=2)) as each:
        next(each)
        assert len(children() - before) == 2
    assert children() == before


@pytest.mark.usefixtures("two_processes")
def test_sources_that_use_more_than_a_core_stay_here(views: list[View]) -> None:
    source = Here()
    assert len(list(find_masks(source, views))) == len(list(find_masks(source, views, processes=2))) == 6
    assert source.pids == [os.getpid()] * 12


@pytest.mark.usefixtures("two_processes")
def test_a_stopped_run_goes_on_where_it_was(views: list[View], tmp_path: Path) -> None:
    """Stopped after three of six: those are stored, and are not found again; the end is that of one process."""
    cache = MaskCache(tmp_path / "masks", WatershedMasks(SMALL))
    with closing(cache.all_masks(views)) as each:
        first = [next(each).to_coco() for _ in range(3)]
    stored = {path.name: path.stat().st_mtime_ns for path in cache.folder.iterdir()}
    assert sorted(stored) == ["0.png.npz", "1.png.npz", "2.png.npz"]
    summary = run_masks(views, MaskJob(cache, coco=tmp_path / "coco"))
    assert (summary.made, summary.kept) == (3, 3) and len(list((tmp_path / "coco").iterdir())) == 6
    assert all((cache.folder / name).stat().st_mtime_ns == when for name, when in stored.items())
    again = [masks.to_coco() for masks in cache.all_masks(views)]
    assert again[:3] == first and again == [WatershedMasks(SMALL).masks(view).to_coco() for view in views]


def test_scripts_need_no_guard_and_a_kill_leaves_no_process(views: list[View], tmp_path: Path) -> None:
    """A script that runs at import uses two processes; killed outright, both end on their own."""
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import sys, time\n"
        "from test_mask_workers import HEIGHT, WIDTH, SMALL\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from splatseg.core.camera import Camera\n"
        "from splatseg.masks.watershed import WatershedMasks\n"
        "from splatseg.masks.workers import MaskWorkers\n"
        "from splatseg.core.scene import View\n"
        "camera = Camera(torch.eye(3), torch.eye(4), WIDTH, HEIGHT)\n"
        "views = [View(p.name, camera, p) for p in sorted(Path(sys.argv[1]).glob('*.png'))]\n"
        "workers = MaskWorkers(WatershedMasks(SMALL), 2)\n"
        "print(len(list(workers.masks(views))), *(p.pid for p in workers._processes), flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, script, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        count, *pids = map(int, process.stdout.readline().split())
        assert count == 6 and len(pids) == 2 and all(is_running(pid) for pid in pids)
        process.send_signal(signal.SIGKILL)
    wait_for("both processes to end", lambda: not any(is_running(pid) for pid in pids), 60)


def test_processes_are_bounded_by_cores_and_memory(views: list[View], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    one = workers.PROCESS_BYTES + workers.PIXEL_BYTES * WIDTH * HEIGHT
    for free, expected in ((100 * one, 8), (3 * one, 3), (one // 2, 1)):
        monkeypatch.setattr(workers, "available_memory", lambda free=free: free)
        assert affordable(views) == expected
        assert affordable(views, shared_by=2) == max(expected // 2, 1)


def test_free_memory_is_some_of_the_machines() -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < (workers.available_memory() or 0) <= whole


def test_workers_end_before_their_first_view(views: list[View]) -> None:
    before = children()
    with MaskWorkers(WatershedMasks(SMALL), 2):
        assert len(children() - before) == 2
    assert children() == before
