"""Progress and cancel as a window shows them: a viewer in this process, a window that needs no browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("viser", reason="the viewer's extra is not installed")

from known_run import KnownRun, make_run
from viser_client import PATIENCE, HeadlessWindow, wait_for

from splatseg import export
from splatseg.io import ply
from splatseg.session import exports, session
from splatseg.viewer import ServerConfig, Viewer, ViewerConfig

# What each button waits in while it works, and what it would write.
SLOW: dict[str, tuple[Any, str, str]] = {
    "Selection (PLY)": (ply, "_records", "selection.ply"),
    "Scene without it (PLY)": (ply, "_records", "selection_removed.ply"),
    "Masks in all photos (ZIP)": (export, "project_selection", "selection_masks.zip"),
    "Objects as labels (PLY + sidecar)": (ply, "_records", "objects.ply"),
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
def known(tmp_path: Path) -> KnownRun:
    return make_run(tmp_path)


@pytest.fixture
def viewer(known: KnownRun) -> Iterator[Viewer]:
    running = Viewer(known.workspace, ViewerConfig(ServerConfig(port=0)))
    yield running
    running.close()


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
    wait_for("the bar", lambda: window.bar and window.visible("Cancel"))
    window.press("Selection (PLY)")
    wait_for("a word on two at once", lambda: "one thing at a time" in window.status)
    window.press("Cancel")
    (desk,) = viewer.desks.values()
    wait_for("the cancel to arrive", lambda: desk.job.cancelled)
    brake.released.set()
    wait_for("the bar to go", lambda: not window.bar and not window.visible("Cancel"))
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
    wait_for("the bar", lambda: window.bar and window.visible("Cancel") and "working" in window.status)
    window.press("Cancel")
    (desk,) = viewer.desks.values()
    wait_for("the cancel to arrive", lambda: desk.doing.cancelled)
    brake.released.set()
    wait_for("the bar to go", lambda: not window.bar and "Cancelled" in window.status)
    assert window.selected == before
    window.click(*known.splat.pixel_of(4), "shift")
    wait_for("both parts", lambda: window.selected > before)
