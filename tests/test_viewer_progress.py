"""Progress and cancel as a window shows them: a viewer in this process, a window that needs no browser."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("viser", reason="the viewer's extra is not installed")

from known_run import KnownRun
from viser_client import PATIENCE, HeadlessWindow, wait_for

from splatseg.io import ply
from splatseg.segment import mask_images
from splatseg.session import Job, exports, session
from splatseg.viewer import Viewer, app
from splatseg.viewer import window as window_module

# What each button waits in while it works, and what it would write.
SLOW: dict[str, tuple[Any, str, str]] = {
    "Selection (PLY)": (ply, "_records", "selection.ply"),
    "Scene without it (PLY)": (ply, "_records", "selection_removed.ply"),
    "Masks in all photos (ZIP)": (mask_images, "project_selection", "selection_masks.zip"),
    "Objects as labels (ZIP)": (ply, "_records", "objects.zip"),
    "Image of this view (PNG)": (exports, "render", "view.png"),
}


class Brake:
    """Holds the second and later calls of a function until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, free: int) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        self._free = free
        original = getattr(owner, name)

        def held(*args: Any, **kwargs: Any) -> Any:
            self._free -= 1
            if self._free < 0:
                self.reached.set()
                assert self.released.wait(PATIENCE)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, held)


@pytest.fixture
def window(known: KnownRun, viewer: Viewer) -> Iterator[HeadlessWindow]:
    """A window in which a part is selected and kept."""
    opened = HeadlessWindow(viewer.port, known.splat.camera)
    opened.click(*known.splat.pixel_of(2))
    wait_for("the selection", lambda: opened.selected > 0)
    opened.press("Keep as object")
    wait_for("the object", lambda: len(opened.objects()) == 1)
    yield opened
    opened.close()


@pytest.mark.parametrize("button", SLOW)
def test_exports_show_a_bar_and_are_cancelled(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow, button: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, function, file = SLOW[button]
    monkeypatch.setattr(ply, "_WRITTEN", 20)
    brake = Brake(monkeypatch, owner, function, free=0 if function == "render" else 1)
    window.press(button)
    assert brake.reached.wait(PATIENCE)
    wait_for("the bar", lambda: window.bar and window.enabled("Cancel"))
    window.press("Selection (PLY)")
    wait_for("a word on two at once", lambda: "one thing at a time" in window.status)
    window.press("Cancel")
    (served,) = viewer.windows.values()
    wait_for("the cancel to arrive", lambda: served.job.cancelled)
    brake.released.set()
    wait_for("the bar to go", lambda: not window.bar and not window.enabled("Cancel"))
    wait_for("the word of it", lambda: "Cancelled" in window.status)
    exports = known.workspace.run.exports
    assert not exports.is_dir() or not list(exports.iterdir())
    assert not window.downloads
    window.press(button)  # and it can be done after all
    wait_for("the file", lambda: file in window.downloads)
    assert window.downloads[file] == (exports / file).read_bytes()
    wait_for("the bar to go", lambda: not window.bar)


def test_a_slow_click_shows_a_bar_and_is_cancelled(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = window.selected
    brake = Brake(monkeypatch, session, "make_query", free=0)
    window.click(*known.splat.pixel_of(4), "shift")
    assert brake.reached.wait(PATIENCE)
    wait_for("the bar", lambda: window.bar and window.enabled("Cancel") and "working" in window.status)
    window.press("Cancel")
    (served,) = viewer.windows.values()
    wait_for("the cancel to arrive", lambda: served.doing.cancelled)
    brake.released.set()
    wait_for("the bar to go", lambda: not window.bar and "Cancelled" in window.status)
    assert window.selected == before
    window.click(*known.splat.pixel_of(4), "shift")
    wait_for("both parts", lambda: window.selected > before)


def test_one_job_starts_however_often_it_is_asked_for(
    viewer: Viewer, window: HeadlessWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """viser calls from several threads: on f581d69 two that came at once both started."""
    (served,) = viewer.windows.values()
    together, started, go_on = threading.Barrier(2), [], threading.Event()

    class SlowJob(Job):
        def __init__(self) -> None:
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(0.5)  # both threads come to here, if they can
            super().__init__()

    def work(job: Job) -> None:
        started.append(job)
        go_on.wait(PATIENCE)

    monkeypatch.setattr(window_module, "Job", SlowJob)
    for number in (1, 2):
        together.reset()
        go_on.clear()
        threads = [threading.Thread(target=served.start_job, args=("thing", work)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        wait_for("a word on two at once", lambda: "one thing at a time" in window.status)
        assert len(started) == number
        go_on.set()
        wait_for("the end of the job", lambda: served.job is None)
        served.panels.message("")
        wait_for("the word to go", lambda: "one thing" not in window.status)


def test_sessions_of_closed_windows_are_bounded_by_bytes(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session closed first is forgotten, those closed last come back."""
    (served,) = viewer.windows.values()
    monkeypatch.setattr(app, "KEPT_BYTES", int(2.5 * served.session.nbytes))
    stores = []
    for number in (0, 4, 3):
        opened = HeadlessWindow(viewer.port, known.splat.camera, {})
        opened.click(*known.splat.pixel_of(number))
        wait_for("the click", lambda opened=opened: opened.selected > 0)
        opened.press("Hide selection")
        wait_for("the hidden object", lambda opened=opened: opened.selected == 0)
        opened.press("Undo")
        wait_for("the undo", lambda opened=opened: opened.selected > 0)
        stores.append(opened.storage)
        opened.close()
        wait_for("the end of the window", lambda: len(viewer.windows) == 1)
        assert sum(left.session.nbytes for left in viewer._closed.values()) <= app.KEPT_BYTES
    assert set(viewer._closed) == {storage[app.SESSION_KEY] for storage in stores[1:]}
    for storage, selected in ((stores[2], 72), (stores[0], 0)):
        opened = HeadlessWindow(viewer.port, known.splat.camera, storage)
        wait_for("its selection", lambda opened=opened, selected=selected: opened.selected == selected)
        opened.close()
