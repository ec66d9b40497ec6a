"""The server process as a whole: ``scripts/view.py`` on a run, windows on it that need no browser, its sudden end."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("viser", reason="the viewer's extra is not installed")

from known_run import KnownRun, make_run
from viser_client import PATIENCE, HeadlessWindow, wait_for

from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.io.ply import load_gaussians
from splatseg.session import Workspace, store

ROOT = Path(__file__).parent.parent
SLOW_RENAMES = """
import os, time

rename = os.replace


def slowly(source, target, **folders):
    time.sleep(2)
    rename(source, target, **folders)


os.replace = slowly
"""  # a sitecustomize: what such a process writes lies under its temporary name for so long


class Server:
    """``scripts/view.py`` on a run, as a process of its own."""

    def __init__(self, folder: Path, customized: Path | None) -> None:
        paths = [str(path) for path in (customized, ROOT) if path is not None]
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "view.py"), str(folder), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        assert self.process.stdout is not None
        self.said = ""
        while (found := re.search(r"http://[^:]+:(\d+)/\?token=(\S+)", self.said)) is None:
            line = self.process.stdout.readline()
            assert line, f"the viewer ended with {self.process.wait()}: {self.said}"
            self.said += line
        self.port, self.token = int(found[1]), found[2]

    def window(self, known: KnownRun) -> HeadlessWindow:
        near = Workspace(
            known.workspace.run, FeatureSplat(known.splat.gaussians, known.splat.field)
        ).near  # it finds no photos
        return HeadlessWindow(self.port, known.splat.camera, token=self.token, near=near)

    def kill(self) -> None:
        """End it as the kernel does: without a chance to write anything."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def known(tmp_path: Path) -> KnownRun:
    return make_run(tmp_path)


@pytest.fixture
def serve(known: KnownRun) -> Iterator[Callable[..., Server]]:
    """Starts servers on the known run, with a ``sitecustomize.py`` of a folder; none outlives the test."""
    started: list[Server] = []

    def start(customized: Path | None = None) -> Server:
        started.append(Server(known.workspace.run.folder, customized))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


def part(known: KnownRun, number: int) -> Selection:
    return Selection(known.splat.parts == number)


def keep_parts(window: HeadlessWindow, known: KnownRun, start: int, stop: int) -> None:
    """Click part k % 6 and keep it as ``thing k``, for k in [start, stop), each when the one before is listed."""
    for k in range(start, stop):
        window.click(*known.splat.pixel_of(k % 6))
        wait_for("the click", lambda k=k: window.selected == len(part(known, k % 6)))
        window.put("Name", f"thing {k}")
        window.press("Keep as object")
        wait_for("the object", lambda k=k: len(window.objects()) == k + 1)


def saved_things(known: KnownRun) -> int:
    """How many objects the autosave holds; each is exactly what was kept, and so is the selection."""
    saved = store.load(known.workspace.session_path("autosave"), known.workspace.field, known.workspace.weights)
    for k, entry in enumerate(saved.objects):
        assert (entry.name, entry.visible) == (f"thing {k}", True)
        assert entry.selection(len(known.workspace)) == part(known, k % 6)
    assert saved.step is not None and saved.step.selection in [part(known, number) for number in range(6)]
    return len(saved.objects)


def live_and_die(known: KnownRun, server: Server, before: int, moment: Callable[[HeadlessWindow], object]) -> None:
    """Keep three more things through ``server``, which has taken up ``before`` of them, and kill it at ``moment``."""
    assert (f"restored {before} object" in server.said) is (before > 0)
    window = server.window(known)
    wait_for("the objects of before", lambda: len(window.objects()) == before)
    wait_for("the selection of before", lambda: before == 0 or window.selected > 0)
    keep_parts(window, known, before, before + 3)
    moment(window)
    server.kill()
    window.close()


@pytest.mark.slow
def test_the_server_process_survives_kill_9_at_any_moment(
    known: KnownRun, serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Three servers on one run, each takes up what the one before left and is killed: the autosave is always whole."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_RENAMES)
    sessions = known.workspace.sessions_folder
    autosave, delay = sessions / "autosave.npz", random.uniform(0, 0.8)
    print(f"killed after {delay:.3f} s")

    def all_saved(window: HeadlessWindow) -> None:
        wait_for("all of it to be saved", lambda: autosave.is_file() and saved_things(known) == 3)

    def while_writing(window: HeadlessWindow) -> None:
        window.click(*known.splat.pixel_of(0))
        wait_for("a file being written", lambda: list(sessions.glob(".*.tmp*")))

    def at_random(window: HeadlessWindow) -> None:
        time.sleep(delay)

    saved = 0
    for moment in (all_saved, while_writing, at_random):
        server = serve(tmp_path if moment is while_writing else None)
        assert not list(sessions.glob(".*.tmp*")), "what the killed server was writing is left behind"
        live_and_die(known, server, saved, moment)
        before, saved = saved, saved_things(known)
        assert before <= saved <= before + 3
        assert not list(sessions.glob("*.unreadable"))
    assert saved >= 3


@pytest.fixture
def heeded() -> Iterator[None]:
    """SIGHUP as usual for processes started within: under nohup they inherit that it is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_saves_and_ends_in_one_line(
    known: KnownRun, serve: Callable[..., Server], number: signal.Signals
) -> None:
    """On f581d69 the process was gone without a word, and with it what was not saved yet."""
    for before in range(2):
        server = serve()
        window = server.window(known)
        keep_parts(window, known, before, before + 1)
        server.process.send_signal(number)
        _, error = server.process.communicate(timeout=PATIENCE)
        assert server.process.returncode == 128 + number
        said = [
            line for line in error.splitlines() if not line.startswith("the photos of the run")
        ]  # said at the start
        assert said == [f"error: ended by {number.name}"]
        assert saved_things(known) == before + 1
        window.close()


@pytest.mark.slow
def test_windows_of_one_server(known: KnownRun, serve: Callable[..., Server]) -> None:
    """Two windows: a mode of its own for each, objects for both; a file handed out is the file in the run."""
    server = serve()
    first, second = (server.window(known) for _ in range(2))
    first.put("Click does", "add (Shift)")
    for number in (0, 4):
        first.click(*known.splat.pixel_of(number))
        second.click(*known.splat.pixel_of(number))
        wait_for("the clicks", lambda: first.selected > 0 and second.selected > 0)
    both, last = len(part(known, 0) | part(known, 4)), len(part(known, 4))
    wait_for("both parts in the first window", lambda: first.selected == both)
    wait_for("the last part in the second", lambda: second.selected == last)
    first.press("Keep as object")
    wait_for("the object in the second window", lambda: second.objects() == [f"object 1 · {both}"])
    second.press("Hide selection")
    wait_for("the hidden part", lambda: second.selected == 0 and first.objects()[1:] == [f"hidden 1 · {last} · hidden"])
    first.click(*known.splat.pixel_of(4))
    wait_for("a message", lambda: "empty space" in first.status)
    first.press("Invert")
    wait_for("the rest", lambda: first.selected == len(known.workspace) - both)
    first.press("Selection (PLY)")
    wait_for("the file", lambda: "selection.ply" in first.downloads)
    assert first.downloads["selection.ply"] == (known.workspace.run.exports / "selection.ply").read_bytes()
    assert len(load_gaussians(known.workspace.run.exports / "selection.ply")) == len(known.workspace) - both
    assert not second.downloads
    first.close()
    second.close()
