"""Drags of the pointer over the canvas: strokes of the brush, lassos by hand, and the preview of a click."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("viser", reason="the viewer's extra is not installed")

from known_run import KnownRun, part
from viser_client import HeadlessWindow, choose, drag_message, selects, wait_for

from splatseg.session import Session
from splatseg.session.colors import HIGHLIGHT, PREVIEW, Look, Painter
from splatseg.viewer import Viewer
from splatseg.viewer.strokes import ALONE_SECONDS, APART, MOST_POINTS, NAME, TAPS, Stroke

AROUND = [(18.0, 1.0), (30.0, 1.0), (30.0, 31.0), (18.0, 31.0)]  # around the object in the middle, parts 2 and 3


def test_plain_drags_are_the_cameras_but_with_tools_that_draw(viewer: Viewer, window: HeadlessWindow) -> None:
    for _ in range(2):
        for tool, drawn in (("brush", True), ("box", False), ("lasso", True), ("preview", True), ("click", False)):
            choose(viewer, window, tool)
            wait_for("the backdrop", lambda drawn=drawn: (NAME in window.surfaces) is drawn)
    assert TAPS in window.surfaces
    assert not window.lit, "a browser without a GPU compiled the shader of invisible ones for 2.6 s at every opening"


def test_a_stroke_of_the_brush_is_one_step_along_its_way(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    (served,) = viewer.windows.values()
    other, (u, v) = Session(known.workspace), known.splat.pixel_of(2)
    path = [(u - 2.5, v), (u, v - 2.5), (u + 2.5, v)]
    choose(viewer, window, "brush")
    window.put("Radius", 3.0)
    wait_for("the radius", lambda: served.choices.brush_radius == 3.0)
    wait_for("the backdrop", lambda: NAME in window.surfaces)
    expected = other.brush("front", path, 3.0)
    assert len(expected) > max(len(other.brush("front", [place], 3.0, mode="replace")) for place in path)
    for _ in range(2):
        window.stroke(NAME, path, end=False)
        wait_for("the line", lambda: "/tool/brush" in window.outlines)
        assert served._queue.wait_idle(20) and len(served.session.selection) == 0, "nothing before the button is let go"
        window.stroke(NAME, path)
        selects(window, len(expected))
        assert served.session.selection == expected
        window.press("Undo")
        selects(window, 0)
    window.stroke(NAME, path)
    selects(window, len(expected))
    left = expected - other.brush("front", [path[0]], 3.0, mode="replace")
    window.stroke(NAME, [path[0], path[0]], "alt")
    selects(window, len(left))


def test_a_lasso_is_drawn_by_hand_and_closes_by_itself(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    (served,) = viewer.windows.values()
    other = Session(known.workspace)
    choose(viewer, window, "lasso")
    for through in (False, True):
        window.put("Through", through)
        wait_for("the choice", lambda through=through: served.choices.through is through)
        window.stroke(NAME, AROUND)
        selects(window, len(other.lasso("front", AROUND, through)))
        assert served.canvas.corners == 0
    window.stroke(NAME, AROUND[:2])
    wait_for("a word on it", lambda: "corners" in window.status)
    window.click(*AROUND[0])  # corner by corner still
    wait_for("the corner", lambda: served.canvas.corners == 1)


def test_what_a_click_would_take_is_shown_under_the_pointer(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    (served,) = viewer.windows.values()
    other, places = Session(known.workspace), [known.splat.pixel_of(leaf) for leaf in (0, 2)]
    choose(viewer, window, "preview")
    wait_for("the backdrop", lambda: NAME in window.surfaces)
    for place in places:
        expected = other.preview("front", *place)
        window.stroke(NAME, [place, place], end=False)
        wait_for("the preview", lambda expected=expected: served._previewed == expected)
        wait_for("a word", lambda shown=expected: f"{len(shown):,} Gaussians selected; let go" in window.status)
        assert served.session.selection == other.selection, "nothing is selected yet"
        window.stroke(NAME, [place, place])
        other.click("front", *place)
        wait_for("the click", lambda: served.session.step.label == "click" and served._previewed is None)
        wait_for("its selection", lambda: served.session.selection == other.selection)
    window.stroke(NAME, [places[0], places[0]], "shift")
    both = other.click("front", *places[0], "add")
    selects(window, len(both))
    window.stroke(NAME, [places[0], (0.5, 0.5)], end=False)
    wait_for("a word", lambda: "would take nothing" in window.status)
    choose(viewer, window, "click")
    wait_for("the selection", lambda: served._previewed is None)
    assert served.session.selection == both


@pytest.mark.parametrize("tool", ["preview", "brush", "lasso"])
def test_a_stroke_is_given_up_by_escape_and_by_another_tool(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow, tool: str
) -> None:
    (served,) = viewer.windows.values()
    way = [known.splat.pixel_of(2), *AROUND]
    for leave in ("Clear the selection, or the lasso", "Tool: box"):
        choose(viewer, window, tool)
        wait_for("the backdrop", lambda: NAME in window.surfaces)
        window.stroke(NAME, way, end=False)
        wait_for("the stroke", lambda: served.canvas._backdrop._stroke is not None)
        before, owner = served.session.step, window.surfaces[NAME]
        window.key(leave)
        wait_for("its end", lambda: served.canvas._backdrop._stroke.given_up)
        window._send(drag_message("end", NAME, owner, way[-1], way[-1], None))
        wait_for("the message", lambda: served.canvas._backdrop._stroke is None)
        assert served._queue.wait_idle(20) and served.session.step is before and served._previewed is None
    choose(viewer, window, tool)
    wait_for("the backdrop", lambda: NAME in window.surfaces)
    window.stroke(NAME, way[::-1])
    wait_for("a step", lambda: served.session.step is not before)


def test_a_preview_of_whole_labels(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    (served,) = viewer.windows.values()
    served.session.discretize()
    place = known.splat.pixel_of(2)
    served.choices.whole_labels = True
    choose(viewer, window, "preview")
    for _ in range(2):
        window.stroke(NAME, [place, place], end=False)
        wait_for("the preview", lambda: served._previewed is not None)
        shown, before = served._previewed, served.session.step
        assert shown == served.session.preview_label("front", *place) and served.session.step is before
        window.stroke(NAME, [place, place])
        wait_for("the label", lambda before=before: served.session.step is not before)
        assert served.session.selection == shown
        window.press("Clear")
        selects(window, 0)


@pytest.mark.parametrize("mode", ["replace", "add", "subtract", "intersect"])
def test_a_preview_is_what_the_click_selects_and_changes_nothing(known: KnownRun, mode: Any) -> None:
    session = Session(known.workspace)
    session.click("front", *known.splat.pixel_of(2))
    for leaf in (3, 0):
        place, step, notice = known.splat.pixel_of(leaf), session.step, session.notice
        previews = [session.preview("front", *place, mode) for _ in range(2)]
        assert session.step is step and session.notice == notice
        assert previews[0] == previews[1] == session.click("front", *place, mode)
        session.undo()
        assert session.selection == step.selection


def test_a_preview_is_drawn_in_its_own_color(known: KnownRun) -> None:
    session = Session(known.workspace)
    painter = Painter(session, torch.arange(len(known.workspace)))
    mine = session.click("front", *known.splat.pixel_of(0))
    shown = session.preview("front", *known.splat.pixel_of(2))
    for _ in range(2):
        now, then = painter.paint(Look()), painter.paint(Look(), previewed=shown)
        for colors, lit, tint in ((now, mine, HIGHLIGHT), (then, shown, PREVIEW)):
            rgb = np.stack([colors & 255, colors >> 8 & 255, colors >> 16 & 255], axis=1).astype(float)
            gap = np.abs(rgb - tint).sum(axis=1)
            assert gap[lit.mask.numpy()].mean() < gap[~lit.mask.numpy()].mean() - 50
    assert len(part(known, 2) - shown) <= 0.05 * len(shown)


def test_points_of_a_stroke_are_thinned_and_bounded(known: KnownRun) -> None:
    camera = known.workspace.views[0].camera
    stroke = Stroke(camera, None)
    for place in ((5.0, 5.0), (5.5, 5.0), (5.0 + APART, 5.0), (5.0 + APART, 5.0)):
        stroke.lead_to(*place)
    assert stroke.points == [(5.0, 5.0), (5.0 + APART, 5.0)]
    for step in range(2 * MOST_POINTS):
        stroke.lead_to(10.0 * step, 0.0)
    assert len(stroke.points) == MOST_POINTS


def test_a_tap_is_a_click_and_a_mouses_click_is_one(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    """viser's page tells of no click where a finger taps, but of one on a node; of a mouse's it tells both."""
    (served,) = viewer.windows.values()
    wait_for("what listens", lambda: TAPS in window.surfaces)
    for number in (2, 1):
        window.tap(*known.splat.pixel_of(number), TAPS)
        selects(window, len(part(known, number)))
        assert served.session.selection == part(known, number)
        window.press("Undo")
        selects(window, 0)
        assert not served.session.can_undo, "one step"
        window.tap(*known.splat.pixel_of(number), TAPS)
        window.click(*known.splat.pixel_of(number))
        selects(window, len(part(known, number)))
        time.sleep(2 * ALONE_SECONDS)  # nothing is to come any more
        assert served._queue.wait_idle(20)
        window.press("Undo")
        selects(window, 0)
        assert not served.session.can_undo, "one step"
    choose(viewer, window, "lasso")
    wait_for("the backdrop", lambda: NAME in window.surfaces)
    # The second within ALONE_SECONDS of the first one's tap, the third told by the page when it was taken for a tap.
    for place, pause in ((AROUND[0], 0.0), (AROUND[1], 0.5), (AROUND[2], 2.0)):
        window.tap(*place, NAME)
        time.sleep(pause * ALONE_SECONDS)
        window.click(*place)
        time.sleep(0.6 * ALONE_SECONDS)
    time.sleep(2 * ALONE_SECONDS)
    assert served._queue.wait_idle(20) and served.canvas.corners == 3, "each once"
    for _ in range(3):
        window.press("Back (Backspace)")
    wait_for("no corner", lambda: not served.canvas.corners)
    for u, v in AROUND[:2]:  # the node is told late, and where the button went up
        window.click(u, v)
        window.tap(u + 0.005 * window.camera.width, v, NAME)
    for u, v in AROUND[2:4]:  # of both clicks the page tells first
        window.click(u, v)
    for u, v in AROUND[2:4]:
        window.tap(u, v, NAME)
    window.tap(*AROUND[0], NAME)  # the page is late, and the button moved
    time.sleep(2 * ALONE_SECONDS)
    window.click(AROUND[0][0] + 0.005 * window.camera.width, AROUND[0][1])
    time.sleep(2 * ALONE_SECONDS)
    assert served._queue.wait_idle(20) and served.canvas.corners == 5, "each once"
    for _ in range(5):
        window.press("Back (Backspace)")
    wait_for("no corner", lambda: not served.canvas.corners)
    for corners, place in enumerate(AROUND[:2], 1):
        window.tap(*place, NAME)
        wait_for("the corner", lambda corners=corners: served.canvas.corners == corners)
