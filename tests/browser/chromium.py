"""Headless Chromium for the viewer: where it is, how it is started, and where its pictures go.

``$SPLATSEG_CHROMIUM`` names the browser where it is not on the path. Screenshots of the tests are kept in the folder
``screenshots`` of ``$SPLATSEG_ARTIFACTS``, which CI keeps, or of ``build`` where that is not set. Waits are for states,
never for times, and ``$SPLATSEG_PATIENCE`` seconds at most.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import waiting

ROOT = Path(__file__).parents[2]
SCREENSHOTS = Path(os.environ.get("SPLATSEG_ARTIFACTS") or ROOT / "build") / "screenshots"
PATIENCE = float(os.environ.get("SPLATSEG_PATIENCE", "180"))
FLAGS = [
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    # A page that nobody looks at is given less of the processor; on a busy machine that stops the drawing.
    *("--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows"),
]

# So long the page rests after each picture. Drawing as many as it can, it would keep both cores from server and test:
# ten a second take four fifths of them, three a second half, and the tests are as fast with those.
REST_MS = 250
CALM = f"""const next = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (draw) => setTimeout(() => next(draw), {REST_MS});
window.cancelAnimationFrame = (id) => clearTimeout(id);"""
FRAMES = """(n) => new Promise((done) => {
  const draw = () => { if (n--) requestAnimationFrame(draw); else done(); };
  draw();
})"""  # done when the page has been drawn so many times

STILL = """() => document.getAnimations().every(
  (one) => !(one instanceof CSSTransition) || one.playState !== "running")"""  # whether nothing glides


def executable() -> str | None:
    """The browser, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("SPLATSEG_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def start(driver: Any, path: str) -> Any:
    """A running browser of playwright's ``driver``."""
    return driver.chromium.launch(executable_path=path, args=FLAGS, timeout=PATIENCE * 1000)


def address(port: int, token: str | None = None) -> str:
    """What a person opens; ``token`` is the password of a viewer that has one, as every ``scripts/view.py`` has."""
    return f"http://127.0.0.1:{port}/" + ("" if token is None else f"?token={token}")


def open_page(
    browser: Any, port: int, size: tuple[int, int], script: str = CALM, token: str | None = None, phone: bool = False
) -> Any:
    """A page of ``size`` on the viewer at ``port``, when its widgets are there; ``script`` runs in it first. A
    ``phone`` has touch instead of a mouse."""
    page = browser.new_context(accept_downloads=True, has_touch=phone, is_mobile=phone).new_page()
    page.add_init_script(script)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(address(port, token))
    wait_for_widgets(page)
    return page


def button(page: Any, name: str) -> Any:
    """The button that is named so. Its words alone may stand elsewhere, too: a hint tells what to press."""
    return page.get_by_role("button", name=name, exact=True).filter(visible=True)


def wait_for_widgets(page: Any) -> None:
    button(page, "Keep as object").wait_for()


def wait_for(what: str, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """The first true value of ``condition``, asked seldom: the browser needs the processor."""
    return waiting.wait_for(what, condition, patience, 0.1)
