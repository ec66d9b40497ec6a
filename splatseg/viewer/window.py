"""One browser window: its session, its widgets, and the way from a gesture to a call of the session and back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.scene import View
from splatseg.core.selection import Selection
from splatseg.session import Cancelled, Job, Session
from splatseg.session.colors import Look, Painter, showable
from splatseg.viewer.actions import LIMITS, Choices, Tool
from splatseg.viewer.canvas import Canvas
from splatseg.viewer.convert import (
    FARTHEST_TURN,
    NEAREST_TURN,
    Pose,
    browser_camera,
    focus_pose,
    turn_distance,
    view_pose,
)
from splatseg.viewer.copies import CopyGizmo, CopyNodes
from splatseg.viewer.drags import Drags
from splatseg.viewer.events import pressed, run_in_loop
from splatseg.viewer.hover import HoverOutlines
from splatseg.viewer.panels.tabs import Panels
from splatseg.viewer.queue import ActionQueue
from splatseg.viewer.rest import Later
from splatseg.viewer.seen import Fetches
from splatseg.viewer.splats import SplatNodes, Templates
from splatseg.viewer.status import Kind, plain

SLOW_SECONDS = 1.0  # what takes longer gets a progress bar and a cancel button
STALE_CAMERA_SECONDS = 0.5  # a click may overtake the message with the camera it was made with
FLUENT_SECONDS = 1.0  # a picture that takes longer is too slow
REST_SECONDS = 0.5  # a camera that stands so long has come to rest
SMALL_PICTURE, PICTURE_PATIENCE = (180, 320), 60.0  # height and width of the picture that is timed; seconds at most
DEPTH_SECONDS = 0.4  # depth colors follow the camera at most so often

log = logging.getLogger(__name__)


class Window:
    """A window. Every gesture becomes an action in its queue, so that they are done in the order they were made.

    Args:
        client: viser's handle of the browser.
        session: this window's session.
        templates: what can be drawn.
        draw_at_most: Gaussians, where the window does not ask for another number.
        choices: what the window is set to; as new if not given.
        fetches: the server's, which tell what is seen.
    """

    def __init__(
        self,
        client: Any,
        session: Session,
        templates: Templates,
        draw_at_most: int,
        choices: Choices | None = None,
        fetches: Fetches | None = None,
    ) -> None:
        self.client = client
        self.session = session
        self.choices = choices or Choices()
        self._templates, self._limit = templates, self.choices.draw_at_most or draw_at_most
        self.template = templates.of(self._limit)
        self.drags = Drags()
        self._starting = threading.Lock()
        self.job: Job | None = None  # what runs beside the queue
        self.doing: Job | None = None  # what the queue does
        self.last_click_ms = 0.0
        self._painter = Painter(session, self.template.ids)
        self._nodes = SplatNodes(self.template, client.scene)
        self._sampled_camera: tuple[float, ...] = ()
        self._rested_at: tuple[float, ...] = ()
        self._previewed: Selection | None = None
        self._copies = CopyNodes(self)
        self.copy_gizmo = CopyGizmo(self)
        self._painted_camera: tuple[float, ...] = ()
        self._resting: Camera | None = None  # where photo colors are seen from, where they depend on it
        self._queue = ActionQueue(f"splatseg-window-{client.client_id}")
        self._at_rest = Later(REST_SECONDS, lambda: self.post(self._camera_rested, "rested"), rest=True)
        self._on_the_way = Later(DEPTH_SECONDS, lambda: self.post(self._paint_depth, "depth"), rest=False)
        self.hover = HoverOutlines(self)
        self.canvas = Canvas(self)
        self.panels = Panels(self, fetches or Fetches())
        self._unlisten = session.workspace.shared.listen(lambda: self.post(self.refresh, "shared"))
        self._limit_orbit()
        self.client.camera.on_update(pressed(self._camera_moved))
        self.post(self.refresh)
        if self.choices.draw_at_most is None and len(self.template.ids) > LIMITS[0]:
            threading.Thread(target=self._watch_speed, name="splatseg-speed", daemon=True).start()

    def close(self) -> None:
        """The browser is gone; the session stays."""
        self._unlisten()
        self._at_rest.close()
        self._on_the_way.close()
        self.panels.close()
        self.canvas.taps.close()
        self.cancel()
        self._queue.close()

    def join(self, timeout: float) -> None:
        """Wait until what a closed window was doing is done, so many seconds at most."""
        self._queue.join(timeout)

    # Doing things ----------------------------------------------------------------------------------------------------

    def post(self, action: Callable[[], object], key: str | None = None, gesture: bool = False) -> None:
        """Queue ``action``; what it complains about is shown to the person. One posted under the same key that has
        not begun is replaced, but no ``gesture`` after which another was made."""

        def watched() -> None:
            job = self.doing = Job()
            timer = threading.Timer(SLOW_SECONDS, self._watch, ("working", job))
            timer.daemon = True
            timer.start()
            try:
                self._attempt(action)
            finally:
                self.doing = None
                timer.cancel()

        self._queue.post(watched, key, gesture)

    def act(self, action: Callable[[], object], key: str | None = None) -> None:
        """Queue ``action`` and a refresh of all that shows the session."""

        def both() -> None:
            started = time.perf_counter()
            self.panels.forget_message()
            try:
                action()
            finally:
                self.refresh()
                self.last_click_ms = (time.perf_counter() - started) * 1e3

        self.post(both, key, gesture=True)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Cancelled:
            self.say("Cancelled")
        except SplatsegError as error:
            self.complain(str(error))
        except Exception as error:
            if self.client.client_id not in self.client._viser_server.get_clients():
                return  # the window was closed while it was being served
            log.exception("an action of the viewer failed")
            self.complain(f"the viewer failed at this: {type(error).__name__}: {error}")

    def start_job(self, title: str, work: Callable[[Job], object]) -> None:
        """Run ``work`` beside the queue, with a progress bar and a cancel button; one job at a time."""
        with self._starting:  # viser calls from several threads
            job = None if self.job is not None else Job()
            self.job = self.job or job
        if job is None:
            self.complain("one thing at a time: wait for what is running, or cancel it")
            return

        self.panels.forget_message()

        def body() -> None:
            try:
                self._attempt(lambda: work(job))
            finally:
                self.job = None
                self.post(self.refresh)

        threading.Thread(target=body, name="splatseg-job", daemon=True).start()
        threading.Thread(target=self._watch, args=(title, job), name="splatseg-progress", daemon=True).start()

    def _watch(self, title: str, job: Job) -> None:
        """Show how far ``job`` is until it is done."""
        while self.job is job or self.doing is job:
            self.panels.show_progress(title, job)
            time.sleep(0.1)
        self.panels.hide_progress()

    def cancel(self) -> None:
        """Stop what is running; what is being done in less than a blink may be done already."""
        for job in (self.job, self.doing):
            if job is not None:
                job.cancel()

    def waiting(self, key: str) -> bool:
        """Whether a newer action of that key is still to be done."""
        return self._queue.waiting(key)

    def between_messages(self, act: Callable[[], object]) -> None:
        """Do ``act`` in viser's event loop, between two messages of the browser, and wait for it."""
        run_in_loop(self.client._viser_server.get_event_loop(), act)

    def say(self, message: str, kind: Kind = "note") -> None:
        self.panels.message(message, kind)

    def complain(self, message: str) -> None:
        """Show what went wrong, in the status line and as a note that goes away."""
        said = plain(message)
        self.panels.message(said, "failed")
        self.client.add_notification("Not done", said, auto_close_seconds=6, color="orange")

    # Showing ---------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Bring colors, photo and widgets up to the state of the session; only differences are sent."""
        self.paint()
        self.panels.sync()
        self.show_photo()
        if not self._at_rest.waiting:
            self.post(self.hover.renew, "hover")

    @property
    def look(self) -> Look:
        """What the window shows now: the chosen look as far as there is something to show."""
        return showable(self.session, self.choices.look)

    def paint(self) -> None:
        look = self.look
        cameras = {"depth": self.camera, "photo": lambda: self._resting}
        camera = cameras.get(look.mode, lambda: None)()
        self._nodes.show(self._painter.paint(look, camera, self._previewed))
        self._copies.show()
        self.copy_gizmo.sync()
        self.client.flush()

    def preview(self, shown: Selection | None) -> None:
        """Show ``shown`` as what would be selected; None shows what is selected again."""
        if shown is not self._previewed:
            self._previewed = shown
            self.paint()

    # How much is drawn -----------------------------------------------------------------------------------------------

    def draw_at_most(self, limit: int) -> None:
        self.choices.draw_at_most = self._limit = limit
        self.draw_sample()

    def set_view_dependent(self, on: bool) -> None:
        self.choices.view_dependent = on
        self._resting = self.camera() if on else None

    @property
    def hovering(self) -> bool:
        return self.hover.on

    def outline_hovered(self, on: bool) -> None:
        self.choices.hover = on

    def draw_sample(self) -> None:
        camera = self.camera() if self.choices.follow and self._limit < len(self.session.workspace) else None
        self._sampled_camera = self._camera_state()
        template = self._templates.of(self._limit, camera)
        if template is not self.template:
            self.template = template
            self._painter = Painter(self.session, template.ids)
            self._nodes.change(template)

    def _camera_state(self) -> tuple[float, ...]:
        return (*self.client.camera.position.tolist(), *self.client.camera.wxyz.tolist())

    def _watch_speed(self) -> None:
        """Ask the browser for a small picture and draw less where that takes long: a server is not told whether a
        browser has a GPU. What the person has chosen stays."""
        try:
            for _ in range(2):  # the first one waits for the splat to arrive
                started = time.monotonic()
                self.client.get_render(*SMALL_PICTURE, timeout=PICTURE_PATIENCE)
                seconds = time.monotonic() - started
        except (RuntimeError, TimeoutError):
            return  # the window was closed, or hides
        drawn = len(self.template.ids)
        self.hover.slow = seconds > FLUENT_SECONDS
        limit = limit_for(seconds, drawn)
        if limit < drawn and self.choices.draw_at_most is None:
            self.post(partial(self._draw_less, limit, seconds))

    def _draw_less(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self.draw_sample()
        self.refresh()
        self.say(
            f"this browser takes {seconds:.1f} s a picture: now {limit:,} Gaussians are drawn (View → Draw at most)"
        )

    def show_photo(self) -> None:
        """The photo of the view that was gone to, with the selection on it if wanted."""
        self.panels.photo.show(self.choices.photo)

    def set_look(self, name: str, value: object) -> None:
        self.act(partial(self._put_look, name, value), f"look {name}")

    def _put_look(self, name: str, value: object) -> None:
        if value == "scores" and self.session.active is None:
            raise SplatsegError("heat map: expected a clicked thing, found none; click one first")
        self.choices.look = replace(self.choices.look, **{name: value})  # type: ignore[arg-type]

    # Cameras ---------------------------------------------------------------------------------------------------------

    def camera(self, size: tuple[int, int] | None = None) -> Camera:
        """The browser's camera now, at its own picture size or at another (width, height) of the same angle in
        height."""
        state = self.client.camera
        width, height = size or (max(state.image_width, 1), max(state.image_height, 1))
        near = self.session.workspace.near
        return browser_camera(state.position, state.wxyz, state.fov, width, height, near)

    def camera_of_ray(self, origin: tuple[float, float, float]) -> Camera:
        """The camera at ``origin``, in the browser's units; waits for it where a click was quicker than the camera's
        message."""
        deadline = time.monotonic() + STALE_CAMERA_SECONDS
        size = max(float(np.abs(origin).max()), 1.0)
        while (
            np.abs(self.client.camera.position - np.array(origin)).max() > 1e-4 * size and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        return self.camera()

    def _limit_orbit(self) -> None:
        """How near to and far from what it turns around the browser's camera may come."""
        self.client.camera.min_orbit_distance = NEAREST_TURN
        self.client.camera.max_orbit_distance = FARTHEST_TURN

    def go_to(self, pose: Pose) -> None:
        """Move the browser's camera."""
        self.put_camera(pose.in_units(self.template.unit))

    def put_camera(self, pose: Pose) -> None:
        """:meth:`go_to` in the browser's units."""
        with self.client.atomic():
            self.client.camera.position = pose.position
            self.client.camera.look_at = pose.look_at
            self.client.camera.up_direction = pose.up
            self.client.camera.fov = pose.fov
        self.client.flush()

    def focus(self) -> None:
        """Turn around the middle of what is selected, from as far as shows all of it; the direction stays."""
        if not len(self.session.selection):
            raise SplatsegError("focus: expected something selected to look at, found nothing")
        now = pose_of(self.client).in_units(1 / self.template.unit)
        self.go_to(focus_pose(self.session.workspace.gaussians, self.session.selection.ids, now))

    def go_to_view(self, view: View | None) -> None:
        """Look as the photo does and show it beside; None only hides the photo."""
        scene = self.session.workspace.scene
        self.choices.photo = view
        if view is not None and scene is not None:
            self.go_to(view_pose(view.camera, turn_distance(scene, view.camera)))
        self.show_photo()

    def set_tool(self, tool: Tool) -> None:
        self.choices.tool = tool
        self.canvas.tool_changed()

    # The camera moves ------------------------------------------------------------------------------------------------

    def _camera_moved(self) -> None:
        self._at_rest.tell()
        self.hover.hide()
        if self.choices.tool == "brush":
            self.post(lambda: self.canvas.show_brush(False), "brush ring")
        if self.choices.look.mode == "depth":
            self._on_the_way.tell()

    def _camera_rested(self) -> None:
        """A sample and colors for where the camera stands now; nothing where it stood before."""
        state = self._camera_state()
        self.canvas.show_brush()
        self.post(self.hover.renew, "hover")
        if state == self._rested_at:
            return
        self._rested_at = state
        resampled = self.choices.follow and self.template.sampled and state != self._sampled_camera
        if resampled:
            self.draw_sample()
        asked = self.choices.view_dependent and self.session.workspace.gaussians.sh_degree > 0
        self._resting = self.camera() if asked else None
        if resampled or (asked and self.look.mode == "photo"):
            self.paint()

    def _paint_depth(self) -> None:
        """Colors for where the camera is now."""
        state = self._camera_state()
        if self.choices.look.mode == "depth" and state != self._painted_camera:
            self._painted_camera = state
            self.paint()
            self.panels.show_legend()


def pose_of(client: Any) -> Pose:
    """Where a browser's camera is, in the browser's units."""
    camera = client.camera
    return Pose(camera.position.copy(), camera.look_at.copy(), camera.up_direction.copy(), float(camera.fov))


def limit_for(seconds: float, drawn: int) -> int:
    """How many Gaussians a browser should draw that takes so many seconds for a picture of ``drawn``: these within
    ``FLUENT_SECONDS``, else the largest of ``LIMITS`` that takes no longer, at least the first."""
    if seconds <= FLUENT_SECONDS:
        return drawn
    return max([limit for limit in LIMITS if limit <= drawn * FLUENT_SECONDS / seconds] or [LIMITS[0]])
