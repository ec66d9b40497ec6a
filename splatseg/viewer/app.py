"""The viewer: one server on one run, a window for every browser window."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from splatseg.session import Session, Workspace
from splatseg.viewer.actions import Choices
from splatseg.viewer.convert import FAR, NEAR, Pose, overview_pose, scene_up, turn_distance, view_pose
from splatseg.viewer.events import written_by_threads
from splatseg.viewer.panels.lit import load_icons
from splatseg.viewer.seen import Fetches
from splatseg.viewer.server import ServerConfig, open_server
from splatseg.viewer.splats import Templates
from splatseg.viewer.window import Window, pose_of

SESSION_KEY = "splatseg-session"  # in the browser's local storage: finds the session again after a lost connection
KEPT_SECONDS = 3600.0
KEPT_BYTES = 1_000_000_000  # of the sessions of closed windows together; those closed first are forgotten beyond it
STORAGE_SECONDS = 10.0  # a busy browser answers late
BACK = "Welcome back: selection, undo, camera, tab and settings are as you left them"
WAKE_SECONDS = 0.25
ENDING_SECONDS = 10.0  # for what a window is doing when the process ends
OVERTAKEN_SECONDS = 1.0  # a new connection may be noticed before the end of the one it replaces

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewerConfig:
    """Settings of the viewer.

    Attributes:
        server: where to listen and for whom.
        draw_at_most: larger scenes are drawn as a sample of so many Gaussians; selection works on all of them.
    """

    server: ServerConfig = field(default_factory=ServerConfig)
    draw_at_most: int = 300_000


@dataclass
class ClosedWindow:
    """A session whose browser is gone, and how its window stood: camera (in the browser's units) and choices."""

    session: Session
    since: float
    choices: Choices = field(default_factory=Choices)
    pose: Pose | None = None


class Viewer:
    """A running viewer.

    Raises:
        SplatsegError: the address cannot be had, or another viewer has the run open.
    """

    def __init__(self, workspace: Workspace, config: ViewerConfig | None = None) -> None:
        config = config or ViewerConfig()
        self.workspace = workspace
        workspace.prepare()
        self.templates = Templates(workspace)
        self.draw_at_most = config.draw_at_most
        self.template = self.templates.of(config.draw_at_most)
        self._fetches = Fetches()
        threading.Thread(target=load_icons, name="splatseg-icons", daemon=True).start()
        workspace.start_autosave()
        try:
            self.server = open_server(config.server, self._fetches.take)
        except BaseException:
            workspace.close()
            raise
        self.windows: dict[int, Window] = {}
        self._closed: dict[str, ClosedWindow] = {}
        self._keys: dict[int, str] = {}
        self._lock = threading.Lock()
        self._set_scene()
        self.server.on_client_connect(self._connected)
        self.server.on_client_disconnect(self._disconnected)

    @property
    def port(self) -> int:
        return int(self.server.get_port())

    def _set_scene(self) -> None:
        server, scene = self.server, self.workspace.scene
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        server.gui.set_panel_label("splatseg")
        if scene is None:
            pose = overview_pose(self.workspace.gaussians)
            server.scene.set_up_direction((0.0, -1.0, 0.0))
        else:
            camera = scene.views[0].camera
            pose = view_pose(camera, turn_distance(scene, camera))
            up = scene_up(scene)
            server.scene.set_up_direction((float(up[0]), float(up[1]), float(up[2])))
        start, pose = server.initial_camera, pose.in_units(self.template.unit)
        start.position, start.look_at, start.up, start.fov = pose.position, pose.look_at, pose.up, pose.fov
        start.near, start.far = NEAR, FAR

    def _connected(self, client: Any) -> None:
        written_by_threads(client._websock_connection)
        left, key, greeting = self._session_for(client)
        window = Window(client, left.session, self.templates, self.draw_at_most, left.choices, self._fetches)
        if left.pose is not None:  # a page that is loaded anew stands where viser puts it, not where it was left
            window.put_camera(left.pose)
        with self._lock:
            self._keys[client.client_id] = key
            self.windows[client.client_id] = window
        if greeting:
            window.post(lambda: window.say(greeting))

    def _session_for(self, client: Any) -> tuple[ClosedWindow, str, str]:
        """The session of this browser, taken up where its last connection left it, or a new one; and what to say."""
        try:
            known = client.local_storage.get_item(SESSION_KEY, timeout=STORAGE_SECONDS)
        except (RuntimeError, TimeoutError):
            known = None  # storage is blocked, or the browser is already gone
        deadline = time.monotonic() + OVERTAKEN_SECONDS
        while known in self._keys.values() and time.monotonic() < deadline:
            time.sleep(0.02)  # if it is a second window of the same browser, its key stays
        with self._lock:
            self._forget()
            left = self._closed.pop(known, None) if known else None
        if left is not None and known:
            return left, known, BACK
        session = Session(self.workspace)
        step = self.workspace.take_restored_step()
        if step is not None:
            session.resume(step)
        key = secrets.token_urlsafe(16)
        client.local_storage.set_item(SESSION_KEY, key)
        new = ClosedWindow(session, time.monotonic())
        return new, key, self.workspace.restored or "" if step is not None else ""

    def _disconnected(self, client: Any) -> None:
        with self._lock:
            window = self.windows.pop(client.client_id, None)
            key = self._keys.pop(client.client_id, None)
            if window is None or key is None:
                return
            self._closed[key] = ClosedWindow(window.session, time.monotonic(), window.choices, pose_of(window.client))
            self._forget()
        window.close()

    def _forget(self) -> None:
        """Let go of sessions whose windows were closed too long ago, and of the oldest beyond ``KEPT_BYTES``."""
        now, total, kept = time.monotonic(), 0, {}
        for key, left in sorted(self._closed.items(), key=lambda item: -item[1].since):
            total += left.session.nbytes
            if now - left.since < KEPT_SECONDS and total <= KEPT_BYTES:
                kept[key] = left
        self._closed = kept

    def wait(self) -> None:
        """Serve until interrupted. A signal may wake another thread than this one, which alone heeds it: it looks for
        one every so often."""
        while True:
            time.sleep(WAKE_SECONDS)

    def close(self) -> None:
        """Stop serving and write what is not yet written."""
        windows = list(self.windows.values())
        for window in windows:
            window.close()
        for window in windows:
            window.join(ENDING_SECONDS)
        self.server.stop()
        self.workspace.close()
