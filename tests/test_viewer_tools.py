"""The tools of the canvas: lasso, rectangle, brush, box and ball, the property slider and the search box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("viser", reason="the viewer's extra is not installed")

from known_run import KnownRun, make_run, part
from scipy.spatial.transform import Rotation
from viser_client import HeadlessWindow, choose, selects, wait_for

from splatseg.core.field import FeatureField
from splatseg.core.gaussians import SH_C0
from splatseg.core.splat import FeatureSplat
from splatseg.session import Session, Workspace
from splatseg.viewer import ServerConfig, Viewer, ViewerConfig
from splatseg.viewer.canvas import BRUSH
from splatseg.viewer.copies import GIZMO
from splatseg.viewer.markings import segments
from splatseg.viewer.panels import objects
from splatseg.viewer.panels.properties import ACCENT, BINS
from splatseg.viewer.solid import NAME

CORNERS = ((18.0, 1.0), (30.0, 1.0), (30.0, 31.0), (18.0, 31.0))  # around the object in the middle, parts 2 and 3


def moved_to(served: Any, window: HeadlessWindow, place: tuple[float, float, float]) -> None:
    """The gizmo's new place has arrived."""
    gizmo = served.canvas.solid._gizmo
    wait_for("the move", lambda: np.allclose(gizmo.position * window.unit, place, atol=1e-5))


def draw(
    viewer: Viewer, window: HeadlessWindow, corners: tuple[tuple[float, float], ...], key: str | None = None
) -> None:
    (served,) = viewer.windows.values()
    for number, corner in enumerate(corners):
        window.click(*corner, key if number == 0 else None)
        wait_for("the corner", lambda n=number: served.canvas.corners == n + 1)


def test_a_lasso_is_drawn_by_clicks_and_closed_by_enter(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    (served,) = viewer.windows.values()
    other = Session(known.workspace)
    seen, through = len(other.lasso("front", CORNERS)), len(other.lasso("front", CORNERS, through=True))
    assert seen < through
    choose(viewer, window, "lasso")
    window.key("Close the lasso")
    wait_for("a word on corners", lambda: "three corners or more" in window.status)
    for expected in (seen, through):
        drawn = window.lines
        draw(viewer, window, (CORNERS[0], (5.0, 5.0)))
        assert window.selected <= 0 or window.selected == seen, "a corner selects nothing"
        wait_for("the outline", lambda drawn=drawn: window.lines >= drawn + 2)
        window.key("Take the last corner back")
        wait_for("one corner less", lambda: served.canvas.corners == 1)
        for number, corner in enumerate(CORNERS[1:], 2):
            window.click(*corner)
            wait_for("the corner", lambda n=number: served.canvas.corners == n)
        window.key("Close the lasso")
        selects(window, expected)
        assert served.canvas.corners == 0
        window.put("Through", True)
        wait_for("the choice", lambda: served.choices.through)
    window.press("Undo")
    selects(window, seen)
    draw(viewer, window, CORNERS, "alt")  # the first corner's key says what it does
    window.press("Close (Enter)")
    selects(window, 0)


def test_a_lasso_is_forgotten_by_escape_and_by_another_camera(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    (served,) = viewer.windows.values()
    window.click(*known.splat.pixel_of(0))
    selects(window, len(part(known, 0)))
    choose(viewer, window, "lasso")
    draw(viewer, window, CORNERS[:2])
    window.key("Clear the selection, or the lasso")
    wait_for("it to go", lambda: served.canvas.corners == 0)
    assert window.selected == len(part(known, 0))
    draw(viewer, window, CORNERS[:2])
    window.camera = known.workspace.views[1].camera
    window._send_camera()
    window.click(*CORNERS[2])
    wait_for("a word on it", lambda: "begins anew" in window.status and served.canvas.corners == 1)
    window.key("Clear the selection, or the lasso")
    wait_for("it to go", lambda: served.canvas.corners == 0)
    window.key("Clear the selection, or the lasso")
    selects(window, 0)


def test_outlines_close_and_every_corner_is_marked() -> None:
    lines = segments([(1.0, 2.0), (5.0, 2.0), (5.0, 9.0)])
    ends = {tuple(map(tuple, line)) for line in lines.tolist()}
    assert {((1.0, 2.0), (5.0, 2.0)), ((5.0, 2.0), (5.0, 9.0)), ((5.0, 9.0), (1.0, 2.0))} <= ends
    assert len(lines) == 3 + 2 * 3 and len(segments([(1.0, 2.0)])) == 2


def test_rectangles_and_brushes_take_what_is_seen_or_all(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    (served,) = viewer.windows.values()
    other, place = Session(known.workspace), known.splat.pixel_of(2)
    choose(viewer, window, "rectangle")
    for through in (False, True):
        window.put("Through", through)
        wait_for("the choice", lambda through=through: served.choices.through is through)
        window.drag((CORNERS[0], CORNERS[2]), None)
        selects(window, len(other.rectangle("front", (CORNERS[0], CORNERS[2]), through=through)))
    window.press("Clear")
    selects(window, 0)
    choose(viewer, window, "brush")
    window.put("Through", False)
    counts = []
    for radius in (3.0, 6.0):
        window.put("Radius", radius)
        wait_for(
            "the radius", lambda radius=radius: served.choices.brush_radius == radius and not served.choices.through
        )
        window.click(*place)
        counts.append(len(other.brush("front", [place], radius, mode="replace")))
        selects(window, counts[-1])
    assert 0 < counts[0] < counts[1]
    window.click(*known.splat.pixel_of(0))  # it adds
    wait_for("more", lambda: window.selected > counts[1])
    window.click(*place, "cmd/ctrl")
    wait_for("less", lambda: 0 < window.selected < counts[1])
    choose(viewer, window, "click")
    window.click(*place)
    selects(window, len(part(known, 2)))


def test_a_box_is_moved_turned_and_taken(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    (served,) = viewer.windows.values()
    other = Session(known.workspace)
    window.click(*known.splat.pixel_of(2))
    selects(window, len(part(known, 2)))
    choose(viewer, window, "box")
    wait_for("the gizmo", lambda: NAME in window.gizmos)
    window.press("only it")  # it was put around the selection
    wait_for("what is in it", lambda: served.session.step.label == "box")
    assert len(part(known, 2) - served.session.selection) <= 0.05 * len(part(known, 2))
    turned = tuple(Rotation.from_euler("z", 30, degrees=True).as_quat(scalar_first=True).tolist())
    for center, size, wxyz in (
        ((-2.0, 0.0, 0.0), (1.2, 2.0, 1.0), (1.0, 0.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (3.0, 0.5, 1.0), turned),
    ):
        window.put("Box size", size)
        wait_for("the size", lambda size=size: served.canvas.solid.size == size)
        window.turn(NAME, center, wxyz)
        moved_to(served, window, center)
        before = served.session.selection
        expected = other.select_box(center, size, wxyz)
        assert 0 < len(expected) < 432
        for button, mode in (("only it", expected), ("take out", None), ("add", expected), ("keep common", expected)):
            window.press(button)
            selects(window, 0 if mode is None else len(mode))
        assert served.session.selection == expected
        for _ in range(4):
            window.press("Undo")
        wait_for("all taken back", lambda before=before: served.session.selection == before)
    choose(viewer, window, "click")
    wait_for("the gizmo to go", lambda: NAME not in window.gizmos)


def test_a_ball_is_moved_and_taken(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    (served,) = viewer.windows.values()
    choose(viewer, window, "ball")
    wait_for("the gizmo", lambda: NAME in window.gizmos)
    for diameter in (1.6, 1.2):
        window.put("Diameter", diameter)
        wait_for("the size", lambda d=diameter: served.canvas.solid.size[0] == d)
        window.turn(NAME, (2.0, 0.5, 0.0))
        moved_to(served, window, (2.0, 0.5, 0.0))
        center = torch.tensor([2.0, 0.5, 0.0])
        window.press("only it")
        selects(window, int(((known.splat.gaussians.means - center).norm(dim=1) <= diameter / 2).sum()))
    window.put("Diameter", 0.0)
    wait_for("a word on it", lambda: "lengths above 0" in window.status)


def test_a_property_slider_selects_while_it_is_moved(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    (served,) = viewer.windows.values()
    now = [0.0]
    served.drags.clock = lambda: now[0]
    other = Session(known.workspace)
    for name in ("size", "distance"):
        window.put("Property", name)
        wait_for("the histogram", lambda: window.enabled("Between"))
        histogram = other.histogram(name, BINS)
        wait_for("its ends", lambda h=histogram: f"{h.edges[-1]:.3g}" in window.markup("flex-end"))
        steps = served.session.step
        for low, high in ((0, BINS // 2), (0, BINS // 4 + 1), (0, BINS - 5)):
            expected = other.select_by(name, float(histogram.edges[low]), float(histogram.edges[high]))
            window.put("Between", (low, high))
            selects(window, len(expected))
            wait_for("the lit bars", lambda n=high - low: window.markup("flex-end").count(ACCENT) == n)
        window.press("Undo")  # one drag, one step
        wait_for("the state before", lambda steps=steps: served.session.step is steps)
        now[0] += 10
    window.put("Property", "color")
    wait_for("the color", lambda: window.visible("Near color"))
    window.put("Near color", (128, 128, 128))
    window.put("Property", "choose one")
    wait_for("the slider to rest", lambda: not window.enabled("Between") and not window.visible("Near color"))


def test_what_is_searched_is_selected_and_looked_at(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    (served,) = viewer.windows.values()
    owner = Session(known.workspace)  # another window keeps them
    for number, name in ((0, "Mug"), (4, "Lamp of the hall")):
        owner.click("front", *known.splat.pixel_of(number))
        owner.keep(name)
    options = lambda: window.widgets[window.find("Found")]["props"]["options"]  # noqa: E731
    wait_for("both in the list", lambda: len(options()) == 3 and options()[0] == "2 found")
    for words, number in (("lamp", 4), ("mug", 0)):
        window.put("Search", words)
        wait_for("one in the list", lambda w=words: len(options()) == 2 and w in options()[1].lower())
        window.put("Found", options()[1])
        selects(window, len(part(known, number)))
        center = known.splat.gaussians.means[part(known, number).mask].mean(0).numpy() / served.template.unit
        wait_for(
            "the camera to go there",
            lambda c=center: np.abs(np.array(window.moved.get("SetCameraLookAtMessage", np.inf)) - c).max() < 0.5,
        )
        window._send_camera()
        window.press("Clear")
        selects(window, 0)
        window.press("Select and go there")
        selects(window, len(part(known, number)))
    window.put("Search", "nothing of that name")
    wait_for("a word on it", lambda: list(options()) == ["nothing found"])


def test_select_pressed_twice_looks_at_the_object(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A double-click; two presses that are further apart only select."""
    (served,) = viewer.windows.values()
    focus, looked = served.focus, []
    monkeypatch.setattr(served, "focus", lambda: (looked.append(len(served.session.selection)), focus()))
    owner = Session(known.workspace)
    owner.click("front", *known.splat.pixel_of(4))
    owner.keep("lamp")
    wait_for("its row", lambda: len(window.objects()) == 1)
    center = known.splat.gaussians.means[part(known, 4).mask].mean(0).numpy() / served.template.unit
    for between, moves in ((0.0, False), (60.0, True)) * 2:
        monkeypatch.setattr(objects, "TWICE_SECONDS", between)
        window.moved.clear()
        looked.clear()
        for _ in range(2):
            window.press("Clear")
            selects(window, 0)
            window.press("Select")
            selects(window, len(part(known, 4)))
        assert served._queue.wait_idle(10)
        assert bool(looked) == moves and all(count == len(part(known, 4)) for count in looked)
        if moves:
            place = wait_for("the camera to go there", lambda: window.moved.get("SetCameraLookAtMessage"))
            assert np.abs(np.array(place) - center).max() < 0.5
            window._send_camera()


def test_an_object_is_duplicated_and_moved_with_the_gizmo(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    second = HeadlessWindow(viewer.port, known.splat.camera)
    try:
        window.click(*known.splat.pixel_of(2))
        selects(window, len(part(known, 2)))
        window.press("Keep as object")
        wait_for("the object", lambda: len(window.objects()) == 1)
        window.press("Duplicate")
        wait_for("the copy", lambda: len(window.objects()) == 2 and window.objects()[1].endswith("copy"))
        wait_for("its splats in both windows", lambda: {"/copies/2"} <= window.nodes.keys() & second.nodes.keys())
        wait_for("the gizmo", lambda: GIZMO in window.gizmos and GIZMO not in second.gizmos)
        shared = known.workspace.shared
        start = shared.content.objects[2].placement
        assert start is not None
        for place in ((0.0, 3.0, 0.0), (1.0, 2.0, 0.5)):
            window.turn(GIZMO, place)
            wait_for("the move", lambda p=place: np.allclose(shared.content.objects[2].placement.center, p, atol=1e-5))
        window.put("Scale", 2.0)
        wait_for("the size", lambda: shared.content.objects[2].placement.scale == 2.0)
        center, origin = np.array((1.0, 2.0, 0.5)), np.array(start.origin)
        expected = (center - 2.0 * origin) / window.unit
        wait_for("the node", lambda: np.allclose(second.nodes["/copies/2"], expected, atol=1e-4))
        for expected_center in ((1.0, 2.0, 0.5), (0.0, 3.0, 0.0), start.center):  # a drag is one step
            window.press("Undo")
            wait_for(
                "the step back",
                lambda c=expected_center: np.allclose(shared.content.objects[2].placement.center, c, atol=1e-5),
            )
        window.put("File name", "two")
        window.press("Edited scene (PLY)")
        wait_for("the file", lambda: "two_scene.ply" in window.downloads and not window.bar)
        window.press("Put away")
        wait_for("the gizmo to go", lambda: GIZMO not in window.gizmos)
        window.press("Undo")
        wait_for("the copy to go", lambda: "/copies/2" not in second.nodes and len(window.objects()) == 1)
    finally:
        second.close()


def test_a_color_is_picked_from_the_picture(tmp_path: Path) -> None:
    """The next click tells the color and selects nothing; the one after it selects; Escape leaves it."""
    gray = make_run(tmp_path)
    base = gray.splat.gaussians
    wanted = torch.tensor([[0.8, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.3, 0.9]])[gray.splat.objects]
    colored = replace(base, sh=((wanted - 0.5) / SH_C0)[:, None])
    splat = FeatureSplat(colored, FeatureField(gray.splat.field.features, colored.fingerprint()))
    viewer = Viewer(Workspace(gray.workspace.run, splat, gray.workspace.scene), ViewerConfig(ServerConfig(port=0)))
    window = HeadlessWindow(viewer.port, gray.splat.camera)
    try:
        assert not window.visible("Pick from the picture")
        window.put("Property", "color")
        wait_for("the button", lambda: window.visible("Pick from the picture"))
        for number, rgb in ((0, (204, 51, 26)), (4, (51, 76, 230)), (2, (26, 178, 51))):
            window.press("Pick from the picture")
            wait_for("a word on it", lambda: "click the color" in window.status)
            window.click(*gray.splat.pixel_of(number))
            wait_for("the color", lambda c=rgb: np.abs(np.subtract(window.value("Near color"), c)).max() <= 1)
            selects(window, 0)
        window.put("Between", (0, 1))
        selects(window, int((gray.splat.objects == 1).sum()))
        window.press("Pick from the picture")
        window.click(0.5, 0.5)
        wait_for("a word on it", lambda: "empty space" in window.status)
        window.press("Pick from the picture")
        wait_for("a word on it", lambda: "click the color" in window.status)
        window.key("Clear the selection, or the lasso")
        window.click(*gray.splat.pixel_of(0))
        selects(window, int((gray.splat.parts == 0).sum()))
    finally:
        window.close()
        viewer.close()


def test_the_brush_is_seen_as_a_ring_and_in_words(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    (served,) = viewer.windows.values()
    assert BRUSH not in window.outlines and not window.visible("Radius")
    for radius, words in ((4.0, "8 pixels across, 25% of"), (8.0, "16 pixels across, 50% of")):
        choose(viewer, window, "brush")
        window.put("Radius", radius)
        wait_for("the words", lambda w=words: w in window.markup("pixels across"))

        def ring(middle: tuple[float, float], radius: float = radius) -> bool:
            handle = served.canvas._brush._handle
            if handle is None or BRUSH not in window.outlines:
                return False
            ends = served.camera().project(torch.from_numpy(handle.points.reshape(-1, 3) * window.unit))[0].numpy()
            return bool(np.abs(np.linalg.norm(ends - middle, axis=1) - radius).max() < 0.05)

        wait_for("the ring in the middle", lambda r=ring: r((24.0, 16.0)))
        window.click(*known.splat.pixel_of(0))
        wait_for("the ring on the dab", lambda r=ring: r(known.splat.pixel_of(0)))
        choose(viewer, window, "click")
        wait_for("no ring", lambda: BRUSH not in window.outlines)
