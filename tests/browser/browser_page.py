"""A browser page on the viewer, driven by mouse and keyboard."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from chromium import FRAMES, PATIENCE, SCREENSHOTS, open_page, wait_for
from known_scene import KnownScene
from PIL import Image

AXES = np.array([(255, 32, 96), (32, 223, 128), (32, 128, 255)])  # red, green, blue of viser's gizmos

OUTLINE = np.array((233, 231, 134))  # viser's yellow, of an opacity of 0.8, on white and gray


class Window:
    """A page on ``viewer``, and the window that serves it."""

    def __init__(
        self, browser: Any, viewer: Any, known: KnownScene, size: tuple[int, int], phone: bool = False
    ) -> None:
        before = set(viewer.windows)
        self.viewer, self.known = viewer, known
        self.page = open_page(browser, viewer.port, size, phone=phone)
        self._client = wait_for("the window", lambda: set(viewer.windows) - before).pop()
        self.settle()

    @property
    def served(self) -> Any:
        return self.viewer.windows[self._client]

    def pictures_a_second(self) -> float:
        """How often the page is drawn, over two seconds or one picture, whatever takes longer."""
        return float(
            self.page.evaluate(
                """() => new Promise((done) => {
                    const start = performance.now();
                    let count = 0;
                    const draw = () => {
                        const passed = performance.now() - start;
                        count += 1;
                        passed > 2000 ? done((1000 * count) / passed) : requestAnimationFrame(draw);
                    };
                    requestAnimationFrame(draw);
                })"""
            )
        )

    def close(self) -> None:
        """Close the page: left open, it would go on drawing and slow the next test down."""
        self.page.context.close()

    def settle(self) -> None:
        """Wait until the server has done what was asked of it."""
        time.sleep(0.3)  # the gesture's way through browser and socket
        assert self.served._queue.wait_idle(PATIENCE)

    def selected(self) -> np.ndarray:
        return self.served.session.selection.mask.numpy()

    def place_of(self, leaf: int) -> tuple[float, float]:
        """Where on the page a leaf of the known tree is seen."""
        x, y = self.known.pixel_of(self.served.camera(), leaf)
        box = self.page.locator("canvas").first.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def gesture(self, act: Callable[[], object], done: Callable[[], bool] | None = None) -> None:
        """Do ``act`` and wait until it has reached the session, or ``done``, however slowly the browser draws."""
        before = self.served.session.step
        act()
        wait_for("what the gesture does", done or (lambda: self.served.session.step is not before))
        self.settle()

    def click(self, leaf: int, key: str | None = None, selects: np.ndarray | None = None) -> None:
        """Click on the canvas, with ``key`` held, until ``selects`` is what is selected."""
        place = self.place_of(leaf)
        done = None if selects is None else lambda: np.array_equal(self.selected(), selects)
        if key:
            self.page.keyboard.down(key)
        self.gesture(lambda: self.page.mouse.click(*place), done)
        if key:
            self.page.keyboard.up(key)

    def press_key(self, key: str, done: Callable[[], bool]) -> None:
        """Press a key of the canvas and wait for what it does."""
        self.page.keyboard.press(key)
        wait_for(f"what {key} does", done)
        for _ in range(2):  # outlines go, and a tool's backdrop comes: sent one after the other
            self.settle()
            self.page.evaluate(FRAMES, 3)  # what the server answers is taken up when the page draws
            time.sleep(0.5)

    def drag_gizmo(self, gizmo: Any) -> None:
        """Pull a gizmo by the arrow that is longest on the picture, of those that are all on it."""
        camera, unit = self.served.camera(), self.served.template.unit
        box = self.page.locator("canvas").first.bounding_box()
        arrows = np.eye(3)[:, None] * gizmo.scale * np.array([0.6, 0.9])[None, :, None]
        places = torch.from_numpy((gizmo.position + arrows.reshape(-1, 3)) * unit).float()
        ends, depths = camera.project(places)
        size = torch.tensor([camera.width, camera.height])
        shown = ((ends > 8) & (ends < size - 8)).all(dim=1) & (depths > 0)
        ends, lengths = ends.reshape(3, 2, 2), (ends[0::2] - ends[1::2]).norm(dim=1)
        (sx, sy), (ex, ey) = ends[int((lengths * shown.reshape(3, 2).all(dim=1)).argmax())].tolist()
        kx, ky = box["width"] / camera.width, box["height"] / camera.height
        self.page.mouse.move(box["x"] + sx * kx, box["y"] + sy * ky)
        time.sleep(1)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + ex * kx, box["y"] + ey * ky, steps=5)
        self.page.mouse.up()

    def canvas_pixels(self) -> np.ndarray:
        """(rows, columns, 3) int of what the page shows of the canvas, whose corner is the page's."""
        box = self.page.locator("canvas").first.bounding_box()
        with Image.open(io.BytesIO(self.page.screenshot(timeout=PATIENCE * 1000))) as shot:
            return np.asarray(shot.convert("RGB"), dtype=int)[:, : int(box["width"])]

    def gizmo_pixels(self) -> list[int]:
        """How many pixels of the canvas have the color of each of a gizmo's axes."""
        pixels = self.canvas_pixels()
        return [int((np.abs(pixels - axis).max(axis=2) < 40).sum()) for axis in AXES]

    def outline(self) -> np.ndarray:
        """(k, 2) [column, row] of the canvas's pixels in the yellow of viser's outlines."""
        return np.argwhere((np.abs(self.canvas_pixels() - OUTLINE) < 16).all(axis=2))[:, ::-1]

    def press(self, text: str) -> None:
        self.page.get_by_text(text, exact=True).filter(visible=True).first.click()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def shoot(self, name: str, lit: tuple[int, ...] = (), dark: tuple[int, ...] = ()) -> None:
        """Keep a screenshot, taken when the leaves ``lit`` are in the highlight's color and ``dark`` are not."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        expected = {leaf: leaf in lit for leaf in (*lit, *dark)}

        def as_expected() -> bool:
            content = self.page.screenshot(path=SCREENSHOTS / f"{name}.png", timeout=PATIENCE * 1000)
            with Image.open(io.BytesIO(content)) as shot:
                pixels = np.asarray(shot.convert("RGB"), dtype=int)
            return all(self._is_lit(pixels, leaf) is value for leaf, value in expected.items())

        wait_for(f"{name}.png to show leaves {lit} lit and {dark} not", as_expected)

    def found(self, name: str) -> str:
        """What the window is like, for a test that has failed; keeps a screenshot ``name``."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        try:
            self.page.screenshot(path=SCREENSHOTS / f"{name}.png", timeout=PATIENCE * 1000)
            words = self.page.locator("body").inner_text()
        except Exception as error:  # the page may have gone: that is told, too
            words = f"no picture: {error}"
        served = self.viewer.windows.get(self._client)
        if served is None:
            return f"the server has no such window\n{words}"
        told = {"tool": served.choices.tool, "corners": served.canvas.corners, "step": served.session.step.label}
        return f"{told | {'selected': int(served.session.selection.mask.sum())}}\n{words}"

    def _is_lit(self, pixels: np.ndarray, leaf: int) -> bool:
        """Whether the page is orange where ``leaf`` is, whatever its own color: far more red than blue."""
        x, y = map(int, self.place_of(leaf))
        red, _, blue = pixels[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(0)
        return bool(red - blue > 70)
