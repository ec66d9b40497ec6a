"""A browser window without a browser: speaks viser's protocol to a running viewer, for tests of the server process.

It keeps the widgets that the server has sent, presses and moves them as the page does, clicks on the canvas as seen by
a camera of its own, and collects the files that are handed out.
"""

from __future__ import annotations

import html
import http.client
import io
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec.msgpack
import numpy as np
import viser
import waiting
import websockets.exceptions
import websockets.sync.client
import zstandard
from PIL import Image
from scipy.spatial.transform import Rotation
from viser import _messages

from splatseg.core.camera import Camera
from splatseg.viewer.convert import browser_unit

PATIENCE = 120.0
LIMIT_MESSAGES = {  # what a browser's camera draws and how far it turns; without one, its page's own defaults stay
    "SetCameraNearMessage": "near",
    "SetCameraFarMessage": "far",
    "SetCameraMinOrbitDistanceMessage": "min_orbit_distance",
    "SetCameraMaxOrbitDistanceMessage": "max_orbit_distance",
}


def wait_for(what: str, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """The first true value of ``condition``; an AssertionError that names ``what`` if there is none in time."""
    return waiting.wait_for(what, condition, patience)


def cookie_for(port: int, token: str) -> str:
    """The cookie that the viewer gives to a browser which opens its address with ``token``."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", f"/?token={token}")
        answer = connection.getresponse()
        assert answer.status == 303, answer.read()
        return answer.headers["Set-Cookie"].split(";")[0]
    finally:
        connection.close()


def get(port: int, path: str, token: str | None = None) -> http.client.HTTPResponse:
    """What the viewer answers to a request for ``path``, relative to its page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", f"/{path}", headers={} if token is None else {"Cookie": cookie_for(port, token)})
    return connection.getresponse()


def choose(viewer: Any, window: HeadlessWindow, tool: str) -> None:
    """Choose a tool by its key, in the one window of ``viewer``."""
    (served,) = viewer.windows.values()
    window.key(f"Tool: {tool}")
    wait_for("the tool", lambda: served.choices.tool == tool and window.value("Tool") == tool)


def selects(window: HeadlessWindow, count: int) -> None:
    """Wait until so many are selected."""
    wait_for(f"{count} selected", lambda: window.selected == count)


def drag_message(
    phase: Any, name: str, owner: str, start: tuple[float, float], end: tuple[float, float], modifier: Any
) -> _messages.Message:
    """That the node ``name`` is dragged, from and to a place of the picture in shares of it."""
    nowhere = (0.0, 0.0, 0.0)
    return _messages.SceneNodeDragMessage(phase, name, None, nowhere, start, nowhere, end, "left", modifier, owner)


class HeadlessWindow:
    """A window on the viewer at ``port`` that looks through ``camera``; with the ``token`` of its address, if any."""

    def __init__(
        self,
        port: int,
        camera: Camera,
        storage: dict[str, str] | None = None,
        token: str | None = None,
        near: float | None = None,
        picture_seconds: float | None = None,
    ) -> None:
        self.camera = camera
        self.unit = browser_unit(camera.near if near is None else near)  # of all lengths that it sends
        self.storage = {} if storage is None else storage
        self.port, self.token = port, token
        self.fetched: set[str] = set()  # pictures
        self.widgets: dict[str, dict[str, Any]] = {}
        self.gizmos: dict[str, str] = {}  # names and owners of those that are shown
        self.surfaces: dict[str, str] = {}  # names and owners of the meshes
        self.nodes: dict[str, tuple[float, ...]] = {}  # splats and where they stand, in the browser's units
        self.lit: list[str] = []  # meshes whose shader is costly
        self.outlined: dict[str, bytes] = {}  # files of the nodes that are outlined under the pointer
        self.outlining = False  # whether they are shown
        self.picture_seconds = picture_seconds  # that a picture asked for takes; None: none is sent
        self.dark = False
        self.lines = 0  # bundles of them that were drawn
        self.outlines: set[str] = set()  # those that are shown
        self.commands: dict[str, str] = {}  # what the palette and its keys offer
        self.shown: list[str] = []  # every text the status line has had
        self.downloads: dict[str, bytes] = {}
        self.limits = {"near": 0.01, "far": 1000.0, "min_orbit_distance": 0.01, "max_orbit_distance": 1e4}
        self.pieces = 0  # of the splat that were sent
        self.moved: dict[str, tuple[float, ...]] = {}  # where the server has put the camera
        self._parts: dict[str, tuple[str, int, bytearray]] = {}
        self._lock = threading.Lock()
        self._socket = websockets.sync.client.connect(
            f"ws://127.0.0.1:{port}",
            subprotocols=[f"viser-v{viser.__version__}"],  # type: ignore[list-item]
            additional_headers={} if token is None else {"Cookie": cookie_for(port, token)},
            max_size=None,
            compression=None,
            proxy=None,
        )
        threading.Thread(target=self._listen, name="headless-window", daemon=True).start()
        self._send_camera()
        wait_for("the viewer's widgets", lambda: self.find("Keep as object") and self.status)

    def close(self) -> None:
        self._socket.close()

    # To the server ---------------------------------------------------------------------------------------------------

    def _send(self, message: _messages.Message) -> None:
        self._socket.send(msgspec.msgpack.encode(message.as_serializable_dict()))

    def _send_if_open(self, message: _messages.Message) -> None:
        with suppress(websockets.exceptions.ConnectionClosed):
            self._send(message)

    def _send_camera(self) -> None:
        rotation = self.camera.cam_from_world[:3, :3].double().numpy().T
        wxyz = Rotation.from_matrix(rotation).as_quat(scalar_first=True)
        position = self.camera.position.double().numpy() / self.unit
        ahead, up = position + rotation[:, 2], -rotation[:, 1]
        fov = 2 * float(np.arctan(self.camera.height / 2 / self.camera.fy))
        size = (self.camera.height, self.camera.width)
        planes = (self.limits["near"], self.limits["far"])
        self._send(
            _messages.ViewerCameraMessage(tuple(wxyz), tuple(position), fov, *planes, *size, tuple(ahead), tuple(up))
        )

    def click(self, u: float, v: float, modifier: Any = None) -> None:
        """Click at column ``u``, row ``v`` of the camera's picture."""
        place = ((u / self.camera.width, v / self.camera.height),)
        origin = tuple((self.camera.position.double() / self.unit).tolist())
        self._send(_messages.ScenePointerMessage("click", origin, (0.0, 0.0, 1.0), place, modifier))

    def tap(self, u: float, v: float, node: str) -> None:
        """Tap where ``node`` is foremost: as with a mouse's click, but that the canvas tells nothing."""
        place = (u / self.camera.width, v / self.camera.height)
        origin = tuple((self.camera.position.double() / self.unit).tolist())
        ray, owner = (0.0, 0.0, 1.0), self.surfaces[node]
        self._send(_messages.SceneNodeClickMessage(node, None, origin, ray, place, None, owner))  # type: ignore[arg-type]

    def drag(self, corners: tuple[tuple[float, float], tuple[float, float]], modifier: Any = "cmd/ctrl") -> None:
        """Draw a rectangle between two image positions."""
        places = tuple((u / self.camera.width, v / self.camera.height) for u, v in corners)
        self._send(_messages.ScenePointerMessage("rect-select", None, None, places, modifier))

    def stroke(self, name: str, points: list[tuple[float, float]], modifier: Any = None, end: bool = True) -> None:
        """Lead the pointer over the camera's picture, from where the mesh of that name is pressed."""
        scale, owner = (self.camera.width, self.camera.height), self.surfaces[name]
        places = [(u / scale[0], v / scale[1]) for u, v in points]
        phases = ["start", *["update"] * (len(places) - 1)]
        if end:
            phases.append("end")
            places.append(places[-1])
        for phase, place in zip(phases, places, strict=True):
            self._send(drag_message(phase, name, owner, places[0], place, modifier))

    def key(self, command: str) -> None:
        """Press the key of the command of that name."""
        with self._lock:
            uuid = next(uuid for uuid, label in self.commands.items() if label == command)
        self._send(_messages.CommandTriggerMessage(uuid))

    def turn(self, name: str, position: tuple[float, ...], wxyz: Any = (1.0, 0.0, 0.0, 0.0)) -> None:
        """Drag the gizmo of that name to ``position``, world units, and turn it."""
        owner, place = self.gizmos[name], tuple(float(p) / self.unit for p in position)
        self._send(_messages.TransformControlsDragStartMessage(name, owner))
        self._send(_messages.TransformControlsUpdateMessage(name, wxyz, place, owner))  # type: ignore[arg-type]
        self._send(_messages.TransformControlsDragEndMessage(name, owner))

    def press(self, label: str) -> None:
        """Press the button ``label``, or that button of a group; it may be on its way."""

        def grouped() -> str | None:
            return next((u for u, w in self._all() if label in (w["props"].get("options") or ())), None)

        uuid = wait_for(f"the button {label!r}", lambda: self.find(label) or grouped())
        self._send(_messages.GuiUpdateMessage(uuid, {"value": True if uuid == self.find(label) else label}))

    def put(self, label: str, value: Any) -> None:
        """Type into, choose in or move the widget ``label``, which may be on its way."""
        uuid = wait_for(f"the widget {label!r}", lambda: self.find(label))
        with self._lock:
            self.widgets[uuid]["value"] = value
        self._send(_messages.GuiUpdateMessage(uuid, {"value": value}))

    # What is seen ----------------------------------------------------------------------------------------------------

    def _all(self) -> list[tuple[str, dict[str, Any]]]:
        with self._lock:
            return list(self.widgets.items())

    def find(self, label: str) -> str | None:
        """The first widget of that label, one that can be used before one that cannot."""
        found = [(uuid, w) for uuid, w in self._all() if w["props"].get("label") == label]
        return next((uuid for uuid, _ in sorted(found, key=lambda pair: bool(pair[1]["props"].get("disabled")))), None)

    def value(self, label: str) -> Any:
        uuid = self.find(label)
        return None if uuid is None else self.widgets[uuid].get("value")

    def visible(self, label: str) -> bool:
        uuid = self.find(label)
        return uuid is not None and bool(self.widgets[uuid]["props"].get("visible"))

    def enabled(self, label: str) -> bool:
        uuid = self.find(label)
        return uuid is not None and not self.widgets[uuid]["props"].get("disabled")

    @property
    def bar(self) -> bool:
        """Whether the progress bar moves; it is in its place always, as Cancel is."""
        bars = [w["props"] for _, w in self._all() if w["type"] == "GuiProgressBarMessage"]
        assert len(bars) == 1 and bars[0]["visible"] and self.visible("Cancel")
        return bool(bars[0]["animated"])

    @property
    def status(self) -> str:
        """The status line without its markup."""
        for _, widget in self._all():
            content = widget["props"].get("content")
            if widget["type"] == "GuiHtmlMessage" and content and "selected ·" in content:
                return html.unescape(re.sub("<[^>]*>", " ", content))
        return ""

    @property
    def selected(self) -> int:
        """How many Gaussians the status line says are selected."""
        if "Nothing selected" in self.status:
            return 0
        found = re.search(r"([\d,]+)\s+selected", self.status)
        return int(found[1].replace(",", "")) if found else -1

    def objects(self) -> list[str]:
        """Labels of the folders of the kept objects."""
        labels = [w["props"].get("label") for _, w in self._all() if w["type"] == "GuiFolderMessage"]
        return [label for label in labels if label and " · " in label]

    def markup(self, text: str) -> str:
        """The markup of the first widget, but the status line, that holds ``text``."""
        contents = [w["props"].get("content") or "" for _, w in self._all() if w["type"] == "GuiHtmlMessage"]
        return next((content for content in contents if text in content and "selected ·" not in content), "")

    @property
    def tabs(self) -> list[str]:
        """Labels of the tabs, as they stand; a page opens the first that it is given."""
        return list(next(w["props"]["_tab_labels"] for _, w in self._all() if w["type"] == "GuiTabGroupMessage"))

    def picture_of(self, tab: str) -> str | None:
        """Address of the picture in ``tab`` that is fetched when it is shown, if it has one that was not yet."""
        group = next(w["props"] for _, w in self._all() if w["type"] == "GuiTabGroupMessage")
        inside = dict(zip(group["_tab_labels"], group["_tab_container_ids"], strict=True))[tab]
        mine = [
            w["props"]["content"]
            for _, w in self._all()
            if w.get("container_uuid") == inside and "content" in w["props"]
        ]
        found = re.search("<img src='([^']*)'", " ".join(mine))
        return None if found is None or found[1] in self.fetched else found[1]

    def open_tab(self, tab: str) -> None:
        """Show ``tab``, whose picture is fetched when there is a new one."""
        address = wait_for(f"a picture in {tab}", lambda: self.picture_of(tab))
        self.fetched.add(address)
        assert get(self.port, address, self.token).status == 204

    # From the server -------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        decompress = zstandard.ZstdDecompressor()
        try:
            for frame in self._socket:
                assert isinstance(frame, bytes)
                length = int.from_bytes(frame[8:16], "little")
                content = decompress.decompress(frame[16 : 16 + length], int.from_bytes(frame[:8], "little"))
                for message in msgspec.msgpack.decode(content)["messages"]:
                    self._take(message)
        except websockets.exceptions.ConnectionClosed:
            pass  # the server was stopped or killed

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        with self._lock:
            if kind == "RegisterCommandMessage":
                self.commands[message["uuid"]] = message["props"]["label"]
            elif kind.startswith("Gui") and "props" in message:
                self.widgets[message["uuid"]] = message
            elif kind == "GuiUpdateMessage" and message["uuid"] in self.widgets:
                widget = self.widgets[message["uuid"]]
                for name, value in message["updates"].items():
                    (widget if name == "value" else widget["props"])[name] = value
                if widget["type"] == "GuiProgressBarMessage" and "value" in message["updates"]:
                    widget["props"]["value"] = message["updates"]["value"]
            elif kind == "GuiRemoveMessage":
                self.widgets.pop(message["uuid"], None)
        if kind in LIMIT_MESSAGES:
            name = LIMIT_MESSAGES[kind]
            self.limits[name] = message[name]
        if kind in ("SetCameraPositionMessage", "SetCameraLookAtMessage") and not message["initial"]:
            self.moved[kind] = tuple(message.get("position") or message["look_at"])
        if kind == "ThemeConfigurationMessage":
            self.dark = message["dark_mode"]
        if kind == "GetRenderRequestMessage" and self.picture_seconds is not None:
            answer = self._picture(message["render_uuid"])
            threading.Timer(self.picture_seconds, self._send_if_open, (answer,)).start()
        if kind == "TransformControlsMessage":
            self.gizmos[message["name"]] = message["owner"]
        elif kind == "RemoveSceneNodeMessage":
            self.gizmos.pop(message["name"], None)
            self.surfaces.pop(message["name"], None)
            self.nodes.pop(message["name"], None)
            self.outlines.discard(message["name"])
            self.outlined.pop(message["name"], None)
            self.outlining &= message["name"] != "/tool/hover"
        elif kind == "MeshMessage":
            self.lit.append(message["name"])
        elif kind == "GlbMessage":
            self.surfaces[message["name"]] = message["owner"]
            if message["name"].startswith("/tool/hover/"):
                self.outlined[message["name"]] = message["props"]["glb_data"]
        elif kind == "GaussianSplatsMessage":
            self.nodes.setdefault(message["name"], (0.0, 0.0, 0.0))
        elif kind == "SetPositionMessage" and message["name"] in self.nodes:
            self.nodes[message["name"]] = tuple(message["position"])
        elif kind == "LineSegmentsMessage":
            self.lines += 1
            self.outlines.add(message["name"])
        if message.get("name") == "/tool/hover" and kind in ("FrameMessage", "SetSceneNodeVisibilityMessage"):
            self.outlining = bool(message.get("visible", True))
        if "/splat/" in str(message.get("name")):
            self.pieces += 1
        if kind == "LocalStorageSetItemMessage":
            self.storage[message["key"]] = message["value"]
        elif kind == "LocalStorageGetItemRequestMessage":
            value = self.storage.get(message["key"])
            self._send(_messages.LocalStorageGetItemResponseMessage(value, None, message["request_uuid"]))
        elif kind.startswith("FileTransfer"):
            self._take_file(message)
        elif kind.startswith("Gui") and (not self.shown or self.shown[-1] != self.status):
            self.shown.append(self.status)

    @staticmethod
    def _picture(uuid: str) -> _messages.Message:
        file = io.BytesIO()
        Image.new("RGB", (32, 18)).save(file, "JPEG")
        return _messages.GetRenderResponseMessage(file.getvalue(), uuid)

    def _take_file(self, message: dict[str, Any]) -> None:
        transfer = message["transfer_uuid"]
        if message["type"] == "FileTransferStartDownload":
            self._parts[transfer] = (message["filename"], message["size_bytes"], bytearray())
        elif message["type"] == "FileTransferPart":
            name, size, content = self._parts[transfer]
            content += message["content"]
            ack = _messages.FileTransferPartAck(message["source_component_uuid"], transfer, len(content), size)
            self._send(ack)
            if len(content) >= size:
                self.downloads[name] = bytes(content)
