"""What a hand does in the browser is taken in its order and not lost, whatever the server's threads do meanwhile."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("viser", reason="the viewer's extra is not installed")

from known_run import KnownRun
from viser_client import HeadlessWindow, wait_for

import splatseg.viewer
from splatseg.viewer import Viewer
from splatseg.viewer.copies import GIZMO

PATIENCE = 20.0
LISTENERS = {"on_update", "on_click", "on_trigger", "on_rect_select"}


@contextmanager
def busy_pool(viewer: Viewer) -> Iterator[None]:
    """All threads that viser runs plain listeners in are taken; they are free again afterwards."""
    pool, free = viewer.server.gui._thread_executor, threading.Event()
    try:
        for _ in range(pool._max_workers):
            pool.submit(free.wait)
        yield
    finally:
        free.set()


def test_a_drag_is_not_lost_where_the_window_is_drawn_anew(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    """The window puts the gizmo to where the session has the copy; with a listener that ran later, that was told."""
    window.click(*known.splat.pixel_of(2))
    wait_for("a selection", lambda: window.selected)
    window.press("Keep as object")
    wait_for("the object", lambda: len(window.objects()) == 1)
    window.press("Duplicate")
    wait_for("the gizmo", lambda: GIZMO in window.gizmos)
    (served,) = viewer.windows.values()
    for place in ((0.0, 3.0, 0.0), (1.0, 2.0, 0.5)):
        with busy_pool(viewer):
            handled = served.copy_gizmo._handle
            window.turn(GIZMO, place)
            wanted = np.array(place) / window.unit
            wait_for("the message", lambda: np.allclose(handled.position, wanted, atol=1e-5))  # noqa: B023
            served.post(served.refresh)
            assert served._queue.wait_idle(PATIENCE)
        wait_for(
            "the move",
            lambda: np.allclose(known.workspace.shared.content.objects[2].placement.center, place, atol=1e-5),  # noqa: B023
            PATIENCE,
        )


def test_a_level_is_not_lost_where_the_window_is_drawn_anew(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    window.click(*known.splat.pixel_of(2))
    wait_for("a selection", lambda: window.selected)
    (served,) = viewer.windows.values()
    sizes = [window.selected]
    for level in (2, 1):
        with busy_pool(viewer):
            window.put("Level", level)
            slider = served.panels._tabs[0]._level
            wait_for("the message", lambda: slider.value == level)  # noqa: B023
            served.post(served.refresh)
            assert served._queue.wait_idle(PATIENCE)
        wait_for("another selection", lambda: window.selected != sizes[-1], PATIENCE)
        sizes.append(window.selected)
    assert sizes[0] == sizes[2] < sizes[1]


def test_a_name_that_is_being_typed_stays(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    """Another window may change the object meanwhile."""
    window.click(*known.splat.pixel_of(2))
    wait_for("a selection", lambda: window.selected)
    window.press("Keep as object")
    wait_for("the object", lambda: len(window.objects()) == 1)
    (served,) = viewer.windows.values()
    (entry,) = served.session.objects
    row = served.panels._tabs[1]._rows[entry.id][1]
    for color, typed in (((1, 2, 3), "cup"), ((4, 5, 6), "red cup")):
        row._name.value = typed
        served.act(lambda: served.session.recolor(entry.id, color))  # noqa: B023
        wait_for("its color", lambda: tuple(row._color.value) == color)  # noqa: B023
        assert row._name.value == typed
    window.press("Rename")
    wait_for("its name", lambda: "red cup" in window.objects()[0])


def _listeners(source: str) -> Iterator[ast.Call]:
    """Calls that give viser a listener: ``x.on_click(f)`` and ``x.on_click(modifier=m)(f)``."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        made_by = node.func.func if isinstance(node.func, ast.Call) else node.func
        if isinstance(made_by, ast.Attribute) and made_by.attr in LISTENERS:
            yield node


def test_every_listener_is_taken_in_order() -> None:
    counted = 0
    for path in Path(splatseg.viewer.__file__).parent.rglob("*.py"):
        for call in _listeners(path.read_text()):
            given = call.args[0]
            name = given.func.id if isinstance(given, ast.Call) and isinstance(given.func, ast.Name) else None
            assert name in ("in_order", "pressed"), f"{path.name}:{call.lineno}: expected in_order(...), found another"
            counted += 1
    assert counted > 40
