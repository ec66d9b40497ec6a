"""A browser, a viewer of a scene whose parts are known, and windows on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser_page import Window
from chromium import executable, start
from known_scene import KnownScene, make_known_scene

from splatseg.session import Workspace

BROWSER = os.environ.get("SPLATSEG_BROWSER", "auto")
SLOWEST = 2.0  # pictures a second, at the first window


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[[], Any]]:
    """Starts a browser."""
    if BROWSER == "0":
        pytest.skip("turned off by SPLATSEG_BROWSER=0")
    path = executable()
    if path is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium; or set SPLATSEG_CHROMIUM)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        yield lambda: start(driver, path)


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> KnownScene:
    return make_known_scene(tmp_path_factory.mktemp("browser"))


@pytest.fixture
def viewer(known: KnownScene) -> Iterator[Any]:
    room = pytest.importorskip("splatseg.viewer", reason="the viewer's extra is not installed")
    shutil.rmtree(known.run.folder / "sessions", ignore_errors=True)
    running = room.Viewer(Workspace.open(known.run), room.ViewerConfig(room.ServerConfig(port=0)))
    yield running
    running.close()


@pytest.fixture(scope="session")
def rates() -> list[float]:
    """Pictures a second of the first window of all: one on its own tells what this machine can draw."""
    return []


@pytest.fixture(scope="session")
def browsers() -> list[Any]:
    """One for each window that has been open at a time: two pages that draw in one hold each other up. What a browser
    has compiled for one page it knows for the next."""
    return []


@pytest.fixture
def open_window(
    launch: Callable[[], Any], browsers: list[Any], viewer: Any, known: KnownScene, rates: list[float]
) -> Iterator[Callable[..., Window]]:
    """Opens windows on the viewer, of a size; closes them at the end of the test."""
    windows: list[Window] = []

    def opened(width: int = 800, height: int = 480, phone: bool = False) -> Window:
        if len(browsers) == len(windows):
            browsers.append(launch())
        windows.append(Window(browsers[len(windows)], viewer, known, (width, height), phone))
        if BROWSER == "auto":
            if not rates:  # a page that has just opened is still loading: the best of some two seconds each
                rates[:] = [max(windows[-1].pictures_a_second() for _ in range(4))]
            if rates[0] < SLOWEST:
                told = f"the browser draws {rates[0]:.1f} pictures a second here"
                pytest.skip(f"{told}: SPLATSEG_BROWSER=1 runs it all the same")
        return windows[-1]

    yield opened
    for window in windows:
        window.close()
