"""Outlines of what a click would take while the pointer hovers: the nodes that viser's page outlines, and when."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("viser", reason="the viewer's extra is not installed")

import torch
from known_run import KnownRun
from viser_client import HeadlessWindow, choose, selects, wait_for

from splatseg.core.camera import Camera
from splatseg.viewer import Viewer
from splatseg.viewer.glb import invisible_mesh
from splatseg.viewer.hover import LINE, NAME, SHIFT, border, outlined, tidied

EDGE = 8


def disk(rows: int, columns: int, radius: float, hole: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns]
    far = np.hypot(y - rows / 2, x - columns / 2)
    return (far < radius) & (far >= hole)


def turned_camera() -> Camera:
    """400 x 320 pixels, turned and moved."""
    pose = torch.eye(4)
    pose[:3, :3] = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1))).Q
    pose[:3, :3] *= torch.linalg.det(pose[:3, :3]).sign()
    pose[:3, 3] = torch.tensor([0.3, -2.0, 5.0])
    return Camera(torch.tensor([[300.0, 0, 200], [0, 300.0, 160], [0, 0, 1]]), pose, 400, 320, 0.01)


def page_picture(
    positions: np.ndarray, faces: np.ndarray, camera: Camera, unit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As viser's page places a node (GlbLoaderUtils.ts, OutlinesMaterial.ts, three.js): which faces are drawn at all,
    the corners of its outline on the picture, and each face's double area there (its own, if not drawn),
    above 0 where it is turned to the camera."""
    a, b, c = (positions[faces[:, k]].astype(np.float64) for k in range(3))
    normals = np.zeros_like(positions, np.float64)
    for k in range(3):
        np.add.at(normals, faces[:, k], np.cross(c - b, a - b))
    turned = normals @ camera.cam_from_world[:3, :3].double().numpy().T
    places, depths = camera.project(torch.from_numpy(positions.astype(np.float64) * unit).float())
    drawn = (depths > camera.near).numpy()[faces].all(axis=1)
    assert not (depths > camera.near).numpy()[faces[~drawn]].any(), "a face is drawn or it is not"
    direction = turned[:, :2] / np.linalg.norm(turned[:, :2], axis=1, keepdims=True).clip(1e-30)
    moved = places.numpy() + SHIFT * direction
    p, q, r = (np.where(drawn[:, None], moved[faces[:, k]], places.numpy()[faces[:, k]]) for k in range(3))
    ahead = (q - p)[:, 0] * (r - p)[:, 1] - (q - p)[:, 1] * (r - p)[:, 0]
    longest = np.max([np.linalg.norm(x - y, axis=1) for x, y in ((p, q), (q, r), (r, p))], axis=0)
    ahead[np.abs(ahead) < 0.1 * longest] = 0  # a tenth of a pixel high: a wall that is seen along
    return drawn, moved, -ahead  # rows run down: what turns left on the picture is seen from the front


@pytest.mark.parametrize("cells", [disk(40, 50, 12), disk(40, 50, 15, 6), np.ones((40, 50), bool)])
def test_the_page_draws_a_line_around_the_area_and_finds_the_pointer_inside(cells: np.ndarray) -> None:
    camera = turned_camera()
    for unit in (1.0, 0.02):
        positions, faces = outlined(cells, EDGE, camera, unit)
        drawn, moved, areas = page_picture(positions, faces, camera, unit)
        assert areas[~drawn].sum() / 2 == pytest.approx(cells.sum() * EDGE**2, rel=0.02), "found by the pointer"
        assert not (areas[drawn] > 0).any()
        line = drawn & (areas < 0)  # as the outline
        pairs, around, _ = border(cells)
        length = np.linalg.norm(np.diff(around[pairs], axis=1), axis=2).sum() * EDGE
        assert -areas[line].sum() / 2 == pytest.approx(length * LINE, rel=0.1)
        corners = moved[np.unique(faces[line])]
        gaps = np.linalg.norm(corners[:, None] - around[None] * EDGE, axis=2).min(axis=1)
        assert gaps.max() == pytest.approx(LINE / 2, abs=0.1), "where the border is"


def test_small_holes_and_islands_are_not_outlined() -> None:
    cells = disk(40, 50, 12)
    rough = cells.copy()
    rough[20, 25] = rough[18:20, 28] = False
    rough[2, 2] = rough[35, 40] = True
    smooth = tidied(rough)
    assert smooth[20, 25] and smooth[18:20, 28].all() and not smooth[2, 2] and (smooth ^ cells).sum() < 12
    small = np.zeros((9, 9), bool)
    small[4, 4] = True
    assert np.array_equal(tidied(small), small), "something is left always"


def test_the_file_is_a_glb_of_which_nothing_is_drawn() -> None:
    positions = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.5]], np.float32)
    file = invisible_mesh(positions, np.array([[0, 1, 2]], np.uint32))
    magic, version, length, text_length = np.frombuffer(file[:16], "<u4").tolist()
    assert (file[:4], version, length) == (b"glTF", 2, len(file)) and magic and text_length % 4 == 0
    tree, body = json.loads(file[20 : 20 + text_length]), file[28 + text_length :]
    (material,) = tree["materials"]
    assert material["alphaMode"] == "MASK" and material["pbrMetallicRoughness"]["baseColorFactor"][3] == 0
    view = tree["bufferViews"][1]
    stored = np.frombuffer(body[view["byteOffset"] :][: view["byteLength"]], "<f4").reshape(-1, 3)
    np.testing.assert_array_equal(stored, positions)
    assert tree["buffers"][0]["byteLength"] == len(body) and material["doubleSided"]


def test_outlines_are_there_where_the_camera_rests_and_with_the_tool_click_alone(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    (served,) = viewer.windows.values()
    window.camera = known.splat.camera.resized(480, 320)

    def shown() -> bool:
        return window.outlining and len(window.outlined) == 6

    for x in (0.02, 0.0):
        before = set(window.outlined.values())
        window.camera.cam_from_world[0, 3] = x
        window._send_camera()
        wait_for("them to be away", lambda: not window.outlining)
        wait_for("an outline of each part", lambda b=before: shown() and b.isdisjoint(window.outlined.values()))
        for tool, there in (("brush", False), ("click", True), ("ball", False), ("click", True)):
            choose(viewer, window, tool)
            wait_for("the outlines", lambda there=there: shown() if there else not window.outlined)
        window.put("Outline under the pointer", False)
        wait_for("none", lambda: not window.outlined)
        window.put("Outline under the pointer", True)
        wait_for("all", shown)
        # A gizmo on a copy could not be grasped through one.
        window.click(*(10 * np.array(known.splat.pixel_of(2))))
        selects(window, 12 * 12 // 2)
        window.key("Keep as object")
        wait_for("the object", lambda: window.objects())
        window.press("Duplicate")
        wait_for("none under the gizmo", lambda: not window.outlined and served.copy_gizmo.key is not None)
        window.key("Undo")
        wait_for("all", shown)
        window.key("Undo")
        wait_for("no object", lambda: not window.objects())
        assert all(name.startswith(NAME) for name in window.outlined)


def test_a_slow_browser_gets_none_until_they_are_asked_for(viewer: Viewer, window: HeadlessWindow) -> None:
    (served,) = viewer.windows.values()
    for _ in range(2):
        served.choices.hover, served.hover.slow = None, True
        served.post(served.refresh)
        wait_for("none", lambda: not window.outlined and window.value("Outline under the pointer") is False)
        window.put("Outline under the pointer", True)
        wait_for("the choice", lambda: served.choices.hover is True and served.hover.on)
