"""Gestures on the canvas: what a click and a drag do with each tool."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.progress import SILENT, Reporter
from splatseg.session import Mode
from splatseg.viewer.actions import Actions
from splatseg.viewer.events import in_order
from splatseg.viewer.markings import Outline, circle, opened, segments
from splatseg.viewer.solid import SolidGizmo
from splatseg.viewer.strokes import Backdrop, Stroke, Taps

MODIFIED: dict[str | None, Mode] = {"shift": "add", "alt": "subtract", "alt+shift": "intersect"}
CTRL = "cmd/ctrl"  # with a drag it draws a rectangle, with a click it subtracts
RECTANGLES = (CTRL, "cmd/ctrl+shift", "cmd/ctrl+alt")
BRUSH = "/tool/brush"
STROKES = ("preview", "lasso", "brush")  # tools with which a plain drag draws, instead of turning the camera
MOVED = 1e-4  # of the camera's distance: less is rounding


class Click(NamedTuple):
    """What the window was set to when a click was made: it is done later, in its turn."""

    mode: Mode
    whole_labels: bool
    through: bool
    brush_radius: float


class Canvas:
    """Listens to the canvas of ``window``.

    A lasso is drawn corner by corner or by hand, a brush paints where it is clicked and where it is led
    (:mod:`splatseg.viewer.strokes`). viser tells nothing of a pointer whose button is up.
    """

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._outline = Outline(window)
        self._brush = Outline(window, BRUSH)
        self._dab: tuple[Camera, float, float] | None = None  # where the brush was last
        self._taking: Callable[[Camera, float, float], object] | None = None  # the next click
        self._corners: list[tuple[float, float]] = []
        self._camera: Camera | None = None  # through which the lasso is drawn
        self._lasso_mode: Mode = "replace"
        self.solid = SolidGizmo(window)
        scene = window.client.scene
        for modifier in (None, *MODIFIED, CTRL):
            scene.on_click(modifier=modifier)(in_order(self._pressed))
        self.taps = Taps(window, self._clicked)
        self._backdrop = Backdrop(window, self.taps, self._stroked, (None, *MODIFIED))
        self._listen_to_drags()

    @property
    def corners(self) -> int:
        """How many corners the lasso has."""
        return len(self._corners)

    def tool_changed(self) -> None:
        self.forget_lasso()
        self._dab = None
        self.show_brush()
        self._listen_to_drags()
        tool = self._window.choices.tool
        self.solid.show(tool if tool in ("box", "ball") else None)

    def _listen_to_drags(self) -> None:
        """Ctrl-drags always draw a rectangle; with that tool plain drags do, instead of turning the camera, and with
        others they draw a stroke."""
        scene = self._window.client.scene
        scene.remove_rect_select_callback()
        plain = (None, *MODIFIED) if self._window.choices.tool == "rectangle" else ()
        for modifier in (*RECTANGLES, *plain):
            scene.on_rect_select(modifier=modifier)(in_order(self._dragged))
        self._backdrop.show(self._window.choices.tool in STROKES)

    def mode_for(self, modifier: str | None, click: bool = False) -> Mode:
        """What a gesture does: as its keys say, else as the panel says."""
        if click and modifier == CTRL:
            return "subtract"
        keys = (modifier or "").replace(CTRL, "").strip("+") or None
        return MODIFIED.get(keys, self._window.choices.mode) if keys else self._window.choices.mode

    # Gestures --------------------------------------------------------------------------------------------------------

    def _pressed(self, event: Any) -> None:
        if self.taps.clicked(event):
            self._clicked(event)

    def _clicked(self, event: Any) -> None:
        window, click, (x, y) = self._window, self._click(event.modifier), event.screen_pos
        tools: dict[str, Callable[[Camera, float, float, Click], None]] = {"lasso": self._corner, "brush": self._paint}

        def action() -> None:
            camera = window.camera_of_ray(event.ray_origin)
            if self._taking is not None:
                take, self._taking = self._taking, None
                take(camera, x * camera.width, y * camera.height)
                return
            tools.get(window.choices.tool, self._pick)(camera, x * camera.width, y * camera.height, click)

        window.act(action)

    def _click(self, modifier: str | None) -> Click:
        now = self._window.choices
        return Click(self.mode_for(modifier, click=True), now.whole_labels, now.through, now.brush_radius)

    def _pick(self, camera: Camera, u: float, v: float, click: Click) -> None:
        window = self._window
        if click.whole_labels:
            window.session.pick_label(camera, u, v, click.mode)
            return
        window.session.click(camera, u, v, click.mode, self._job())
        if window.session.notice:
            window.say(window.session.notice)

    def _paint(self, camera: Camera, u: float, v: float, click: Click) -> None:
        """A dab of the brush."""
        self._led(camera, [(u, v)], click)

    def _dragged(self, event: Any) -> None:
        window, mode, through = self._window, self.mode_for(event.modifier), self._window.choices.through

        def action() -> None:
            camera = window.camera()
            (x0, y0), (x1, y1) = event.screen_min, event.screen_max
            corners = ((x0 * camera.width, y0 * camera.height), (x1 * camera.width, y1 * camera.height))
            window.session.rectangle(camera, corners, mode, self._job(), through)

        window.act(action)

    # Strokes ---------------------------------------------------------------------------------------------------------

    def _stroked(self, stroke: Stroke) -> None:
        """The pointer was led further over the picture, or let go."""
        window, rest = self._window, (stroke.camera, list(stroke.points), self._click(stroke.modifier))
        ways = {
            "preview": (self._preview, self._take_previewed),
            "brush": (self._show_stroke, self._led),
            "lasso": (self._show_drawn, self._drawn),
        }
        if window.choices.tool not in ways:  # another was chosen just now
            return
        led, ended = ways[window.choices.tool]
        if stroke.ended:
            window.act(partial(ended, *rest))
        else:
            window.post(partial(led, *rest), "stroke")

    def _preview(self, camera: Camera, points: list[tuple[float, float]], click: Click) -> None:
        window = self._window
        look = window.session.preview_label if click.whole_labels else window.session.preview
        try:
            found = look(camera, *points[-1], click.mode)
        except SplatsegError:  # empty space is slid over as well
            window.preview(None)
            window.say("a click here would take nothing")
            return
        window.preview(found)
        window.say(f"a click here would leave {len(found):,} Gaussians selected; let go to take them")

    def _take_previewed(self, camera: Camera, points: list[tuple[float, float]], click: Click) -> None:
        self._window.preview(None)
        self._pick(camera, *points[-1], click)

    def _show_stroke(self, camera: Camera, points: list[tuple[float, float]], click: Click) -> None:
        self._dab = (camera, *points[-1])
        lines = [circle(points[-1], click.brush_radius), opened(points)]
        self._brush.show(camera, np.concatenate(lines))

    def _led(self, camera: Camera, points: list[tuple[float, float]], click: Click) -> None:
        """The brush was led along ``points``; it adds unless something else is asked for."""
        self._dab = (camera, *points[-1])
        self.show_brush()
        mode: Mode = "add" if click.mode == "replace" else click.mode
        self._window.session.brush(camera, points, click.brush_radius, click.through, mode, self._job())

    def _show_drawn(self, camera: Camera, points: list[tuple[float, float]], click: Click) -> None:
        self._corners, self._camera = [], None
        self._outline.show(camera, opened(points))

    def _drawn(self, camera: Camera, points: list[tuple[float, float]], click: Click) -> None:
        """A lasso was drawn by hand: it closes where the button is let go."""
        self.forget_lasso()
        self._window.session.lasso(camera, points, click.through, click.mode, self._job())

    def _job(self) -> Reporter:
        return self._window.doing or SILENT

    def pick_next(self, take: Callable[[Camera, float, float], object]) -> None:
        """Give the next click to ``take`` instead of the tool: camera and image position."""
        self._taking = take

    def show_brush(self, here: bool = True) -> None:
        """A ring of the brush's size where it was last, or in the middle; none with another tool, and not ``here``."""
        if self._window.choices.tool != "brush" or not here:
            self._dab = None
            self._brush.show(None, segments(()))
            return
        now = self._window.camera()
        camera, u, v = self._dab or (now, now.width / 2, now.height / 2)
        self._brush.show(camera, circle((u, v), self._window.choices.brush_radius))

    # The lasso -------------------------------------------------------------------------------------------------------

    def _corner(self, camera: Camera, u: float, v: float, click: Click) -> None:
        """Another corner; the first one says through which camera, and what the lasso will do."""
        if self._camera is not None and _moved(self._camera, camera):
            self.forget_lasso()
            self._window.say("the camera was moved: the lasso begins anew")
        if not self._corners:
            self._camera, self._lasso_mode = camera, click.mode
        self._corners.append((u, v))
        self._show_lasso()

    def close_lasso(self, through: bool) -> None:
        """Select what is inside; the lasso is gone then. ``through`` takes what is behind a surface, too.

        Raises:
            SplatsegError: it has fewer than three corners.
        """
        if len(self._corners) < 3 or self._camera is None:
            found = len(self._corners)
            raise SplatsegError(f"lasso: expected three corners or more, found {found}; click them on the picture")
        camera, corners, mode = self._camera, list(self._corners), self._lasso_mode
        self.forget_lasso()
        self._window.session.lasso(camera, corners, through, mode, self._job())

    def take_corner_back(self) -> None:
        """Forget the corner that was clicked last."""
        if self._corners:
            self._corners.pop()
        if not self._corners:
            self._camera = None
        self._show_lasso()

    def forget_lasso(self) -> bool:
        """Forget all corners, what is being drawn or previewed, and that the next click is for something else; whether
        there was any of it."""
        had = self._backdrop.give_up() or bool(self._corners) or self._taking is not None
        self._window.preview(None)
        self._corners, self._camera, self._taking = [], None, None
        self._show_lasso()
        return had

    def _show_lasso(self) -> None:
        self._outline.show(self._camera, segments(self._corners))


def _moved(before: Camera, now: Camera) -> bool:
    """Whether the picture of ``now`` is another one than that of ``before``."""
    if (before.width, before.height) != (now.width, now.height):
        return True
    gap = np.abs((before.cam_from_world - now.cam_from_world).numpy()).max()
    return bool(gap > MOVED * max(float(before.cam_from_world.abs().max()), 1.0))
