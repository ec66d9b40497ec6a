"""A browser, a viewer of a scene whose parts are known, and windows on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser_page import Window
from chromium import REST_MS, executable, start
from known_scene import KnownScene, make_known_scene

from splatseg.session import Workspace

BROWSER = os.environ.get("SPLATSEG_BROWSER", "auto")
SLOWEST = 0.4  # seconds that the first window takes to draw a picture
WINDOWS = pytest.StashKey[list[Window]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Where a test has failed: a picture of each of its windows, beside the others, and what its server knows of it."""
    report = yield
    if report.when == "call" and report.failed:
        for number, window in enumerate(item.stash.get(WINDOWS, [])):
            report.sections.append((f"window {number}", window.found(f"failed-{item.name}-{number}")))
    return report


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
def seconds() -> list[float]:
    """What the first window of all takes to draw a picture: one on its own tells what this machine can draw."""
    return []


@pytest.fixture(scope="session")
def browsers() -> list[Any]:
    """One for each window that has been open at a time: two pages that draw in one hold each other up. What a browser
    has compiled for one page it knows for the next."""
    return []


@pytest.fixture
def open_window(
    request: pytest.FixtureRequest,
    launch: Callable[[], Any],
    browsers: list[Any],
    viewer: Any,
    known: KnownScene,
    seconds: list[float],
) -> Iterator[Callable[..., Window]]:
    """Opens windows on the viewer, of a size; closes them at the end of the test."""
    windows = request.node.stash[WINDOWS] = []

    def opened(width: int = 800, height: int = 480, phone: bool = False) -> Window:
        if len(browsers) == len(windows):
            browsers.append(launch())
        windows.append(Window(browsers[len(windows)], viewer, known, (width, height), phone))
        if BROWSER == "auto":
            if not seconds:  # a page that has just opened is still loading: the best of some two seconds each
                rate = max(windows[-1].pictures_a_second() for _ in range(4))
                seconds[:] = [1 / rate - REST_MS / 1000]
            if seconds[0] > SLOWEST:
                told = f"the browser takes {seconds[0]:.1f} seconds a picture here"
                pytest.skip(f"{told}: SPLATSEG_BROWSER=1 runs it all the same")
        return windows[-1]

    yield opened
    for window in windows:
        window.close()
