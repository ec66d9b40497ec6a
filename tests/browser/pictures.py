"""Makes the pictures of docs/guides/viewer.md: ``PYTHONPATH=tests python tests/browser/pictures.py runs/demo
[NAME ...]``, after ``make demo``.

A headless browser is led through the viewer on the demo's fitted scene. Every step is taken by what a person would use
(canvas, keys, buttons), each picture when the page shows the step; some pictures are drawn by the server alone (NAME
``drawn``: only those). It needs an idle machine. Look at all before committing them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chromium import FRAMES, PATIENCE, ROOT, executable, open_page, start, wait_for
from PIL import Image
from playwright.sync_api import sync_playwright

from splatseg.session import Session, Workspace
from splatseg.session.colors import Look, overlay
from splatseg.session.exports import draw
from splatseg.viewer import ServerConfig, Viewer, ViewerConfig
from splatseg.viewer.panels.view import LOOKS

IMAGES = ROOT / "docs" / "images"
SIZE = (900, 540)
LIMIT = 20_000  # drawn Gaussians: a browser without a GPU takes seconds per picture for all of the demo's
QUALITY = 82
PLAIN = """const getContext = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, options) {
  return getContext.call(this, kind, kind.startsWith("webgl") ? { ...options, antialias: false } : options);
};"""
DRAWN = 3  # pictures the page draws between a change and its photograph: sorting and colors come one after another
# Places in the first photo of the demo's scene, columns and rows of 320 x 240.
BELLY, CHEST, MUSHROOM, WALL = (93, 185), (88, 132), (205, 150), (160, 20)
BESIDE = (0.62, 0.3)  # of the window's width and height: where the copy is put, as far away as the original


class Guide:
    """Leads one window through the viewer."""

    def __init__(self, page: Any, viewer: Viewer, only: list[str]) -> None:
        self.page, self.only, self.started = page, only, time.monotonic()
        (self.served,) = viewer.windows.values()
        self.settle()
        self.page.add_style_tag(content=".mantine-Notification-root {display: none}")  # viser's word on slow drawing

    def settle(self) -> None:
        time.sleep(0.5)  # the gesture's way to the server
        assert self.served._queue.wait_idle(PATIENCE)
        self.draw(2)  # what the server says is taken up when the page draws

    def draw(self, pictures: int) -> None:
        self.page.evaluate(FRAMES, pictures)

    def gesture(self, act: Callable[[], object]) -> None:
        """Do ``act`` and wait until it has reached the session."""
        before = self.served.session.step
        act()
        wait_for("the gesture to arrive", lambda: self.served.session.step is not before)
        self.settle()

    def spot(self, place: tuple[int, int]) -> tuple[float, float]:
        """Where on the page the first photo's ``place`` is seen."""
        box = self.page.locator("canvas").first.bounding_box()
        scale = box["height"] / 240
        return box["x"] + box["width"] / 2 + (place[0] - 160) * scale, box["y"] + place[1] * scale

    def click(self, place: tuple[int, int], key: str | None = None) -> None:
        """Click what the first photo shows at ``place``; the page shows that photo's height."""
        x, y = self.spot(place)
        if key:
            self.page.keyboard.down(key)
        self.gesture(lambda: self.page.mouse.click(x, y))
        if key:
            self.page.keyboard.up(key)

    def take_object(self) -> None:
        """Take the second level of what was clicked."""
        self.press("object")
        wait_for("the level", lambda: (active := self.served.session.active) is not None and active.level == 1)
        self.settle()

    def press(self, text: str) -> None:
        self.page.get_by_text(text, exact=True).first.click()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def boxes(self) -> list[Any]:
        """Text boxes and lists of the tab that is open."""
        return self.page.get_by_role("textbox").all() + self.page.get_by_role("combobox").all()

    def show(self, look: str) -> None:
        """Choose what the View tab shows."""
        self.tab("View")
        self.choose(LOOKS, look)
        wait_for("the look", lambda: self.served.look.mode == LOOKS[look])
        self.settle()

    def tool(self, key: str) -> None:
        """Choose a tool by its key."""
        before = self.served.choices.tool
        self.page.keyboard.press(key)
        wait_for("the tool", lambda: self.served.choices.tool != before)
        self.settle()

    def lead(self, places: tuple[tuple[int, int], ...]) -> None:
        """Press the button and slide along ``places``; it stays pressed."""
        self.page.mouse.move(*self.spot(places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.spot(place), steps=6)
            time.sleep(0.2)
        self.settle()

    def give_up(self) -> None:
        """Let nothing come of what is being drawn."""
        self.page.keyboard.press("Escape")
        self.settle()
        self.page.mouse.up()
        self.settle()

    def choose(self, now: Collection[str], wanted: str) -> None:
        """Choose ``wanted`` in the list that shows one of ``now``."""
        box = wait_for("the list", lambda: [box for box in self.boxes() if box.input_value() in now])
        box[0].click()
        time.sleep(1)  # it opens slowly
        self.page.get_by_role("option", name=wanted).click()
        self.settle()

    def name(self, old: str, new: str) -> None:
        """Type a new name for what is selected and keep it."""
        boxes = self.boxes()
        next(box for box in boxes if box.input_value() == old).fill(new)
        self.page.keyboard.press("Tab")
        time.sleep(1)  # viser sends what is typed after a pause
        self.gesture(lambda: self.press("Keep as object"))

    def shoot(self, name: str) -> None:
        """Keep a picture of the page as ``viewer-NAME.jpg``."""
        if self.only and name not in self.only:
            return
        self.settle()
        self.draw(DRAWN)
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            self.page.screenshot(path=file.name, timeout=PATIENCE * 1000)
            path = IMAGES / f"viewer-{name}.jpg"
            Image.open(file.name).convert("RGB").save(path, quality=QUALITY, optimize=True)
        print(f"{path} ({path.stat().st_size / 1000:.0f} kB, {time.monotonic() - self.started:.0f} s)", flush=True)


def select(guide: Guide) -> None:
    """Pictures of clicks, the slider, and the score."""
    guide.shoot("open")
    guide.tool("v")
    guide.lead((WALL, CHEST, BELLY))
    wait_for("the preview", lambda: guide.served._previewed is not None)
    guide.shoot("preview")
    guide.give_up()
    guide.tool("c")
    guide.click(BELLY)
    guide.shoot("part")
    guide.take_object()
    guide.shoot("object")
    guide.show("heat map of the last click")
    guide.shoot("heat")
    guide.show("features (PCA)")
    guide.shoot("pca")
    guide.show("photo colors")
    guide.tab("Select")
    guide.click(CHEST, "Alt")
    guide.shoot("subtract")
    guide.gesture(lambda: guide.page.keyboard.press("Control+z"))
    guide.click(MUSHROOM, "Shift")
    guide.shoot("add")
    guide.gesture(lambda: guide.page.keyboard.press("Control+z"))


def keep(guide: Guide) -> None:
    """Pictures of objects: the list, one alone, the scene without one."""
    guide.name("object 1", "snowman")
    guide.click(MUSHROOM)
    guide.take_object()
    guide.name("object 1", "mushroom")
    guide.gesture(lambda: guide.page.keyboard.press("Escape"))
    guide.show("labels and objects")
    guide.tab("Objects")
    guide.shoot("list")
    guide.show("photo colors")
    guide.tab("Objects")
    guide.gesture(lambda: guide.press("Hide"))
    guide.shoot("without")
    guide.gesture(lambda: guide.press("Show all"))


def tools(guide: Guide) -> None:
    """Pictures of the lasso, the ball, the property slider, a copy, and a key."""
    guide.tab("Select")
    guide.tool("l")
    guide.lead(((60, 158), (80, 150), (108, 152), (122, 170), (118, 190), (112, 205), (88, 210), (66, 200)))
    guide.shoot("lasso")
    guide.give_up()
    guide.tool("c")
    guide.click(MUSHROOM)
    guide.take_object()
    guide.tool("o")
    guide.shoot("ball")
    guide.tool("c")
    guide.draw(2)
    guide.press("By property")
    guide.draw(2)
    guide.choose(["choose one"], "opacity")
    guide.shoot("property")
    guide.tab("Objects")
    guide.press("Color, name, copy")
    time.sleep(1)  # it glides
    guide.gesture(lambda: guide.press("Duplicate"))
    copy = guide.served.session.objects[-1]
    assert copy.placement is not None
    camera = guide.served.camera()
    _, depth = camera.project(torch.tensor([copy.placement.center]))
    aside = torch.tensor([[BESIDE[0] * camera.width, BESIDE[1] * camera.height]])
    x, y, z = camera.unproject(aside, depth)[0].tolist()
    guide.served.act(lambda: guide.served.session.place(copy.id, (x, y, z), scale=0.7))
    guide.shoot("copy")
    for _ in range(2):
        guide.gesture(lambda: guide.page.keyboard.press("Control+z"))
    guide.gesture(lambda: guide.page.keyboard.press("Escape"))
    guide.show("depth")
    guide.shoot("key")
    guide.show("photo colors")


def divide(guide: Guide) -> None:
    """Pictures of the labels of the whole scene, and of the bar while they are made."""
    guide.tab("Labels")
    guide.press("Divide the scene")
    wait_for("the bar", lambda: guide.page.get_by_text("Cancel", exact=True).first.is_visible())
    if not guide.only or "progress" in guide.only:
        guide.shoot("progress")
    wait_for("the labels", lambda: guide.served.job is None)
    guide.settle()
    guide.page.get_by_role("slider").last.focus()
    guide.gesture(lambda: guide.page.keyboard.press("End"))
    guide.shoot("labels")


def rest(guide: Guide) -> None:
    """Pictures of the photo beside the render, and of a download."""
    guide.press("Click picks whole labels")
    guide.show("photo colors")
    guide.click(BELLY)
    guide.tab("Select")
    guide.take_object()
    guide.tab("Files")
    with guide.page.expect_download():
        guide.press("Selection (PLY)")
    guide.shoot("files")
    guide.tab("View")
    guide.press("Next")
    guide.page.get_by_text("train_000.jpg").first.wait_for()
    guide.shoot("beside")


def drawn(run: Path) -> None:
    """Pictures that need no browser: what "Image of this view" draws in each mode, and the photo panel's picture."""
    session = Session(run)
    view = session.workspace.views[0]
    camera = view.camera.resized(480, 360)
    session.click(view, *BELLY)
    session.set_level(1)
    photo = np.hstack(
        [np.array(Image.fromarray(overlay(session, view)).resize((480, 360))), draw(session, camera, Look())]
    )
    kept = session.keep("snowman")
    session.click(view, *MUSHROOM)
    session.set_level(1)
    session.keep("mushroom")
    session.clear()
    objects = draw(session, camera, Look("labels"))
    session.show(kept.id, False)
    pictures = {"photo": photo, "objects": np.hstack([objects, draw(session, camera, Look())])}
    session.show(kept.id)
    for entry in session.objects:
        session.delete(entry.id)
    assert session.tree is not None
    session.set_label_level(session.tree.levels - 1)
    row = [draw(session, camera, Look(mode)) for mode in ("features", "labels", "depth")]
    pictures["modes"] = np.hstack(row)
    for name, pixels in pictures.items():
        path = IMAGES / f"viewer-{name}.jpg"
        Image.fromarray(pixels).save(path, quality=QUALITY, optimize=True)
        print(f"{path} ({path.stat().st_size / 1000:.0f} kB)", flush=True)


def main(run: Path, only: list[str]) -> None:
    drawn(run)
    if only == ["drawn"]:
        return
    path = executable()
    if path is None:
        raise SystemExit("error: chromium is not installed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / run.name  # objects and exports of the pictures do not belong in the run
        copy.mkdir()
        for file in run.resolve().iterdir():
            if file.name not in ("sessions", "exports"):
                (copy / file.name).symlink_to(file)
        viewer = Viewer(Workspace.open(copy), ViewerConfig(ServerConfig(port=0), LIMIT))
        try:
            with sync_playwright() as driver:
                browser = start(driver, path)
                guide = Guide(open_page(browser, viewer.port, SIZE, PLAIN), viewer, only)
                for part in (select, keep, tools, divide, rest):
                    part(guide)
                browser.close()
        finally:
            viewer.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
