"""What a hand does in the browser is taken in its order and not lost, whatever the server's threads do meanwhile."""

from __future__ import annotations

import ast
import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("viser", reason="the viewer's extra is not installed")

from known_run import KnownRun
from viser_client import HeadlessWindow, wait_for

import splatseg.viewer
from splatseg.session import Session
from splatseg.viewer import Viewer
from splatseg.viewer.copies import GIZMO
from splatseg.viewer.events import LoopEvent, run_in_loop
from splatseg.viewer.panels.select import nearest_level
from splatseg.viewer.queue import ActionQueue
from splatseg.viewer.window import Window

PATIENCE = 20.0
REFRESHED = 0.5  # seconds that a refresh is given to be through
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


@contextmanager
def drawn_between(served: Window, listeners: list[Any]) -> Iterator[None]:
    """The window is drawn anew after viser has taken a message and before our listener is told of it."""

    async def refresh(event: Any) -> None:
        if event.client is not None:
            served.post(served.refresh)
            served._queue.wait_idle(REFRESHED)

    listeners.insert(0, refresh)
    try:
        yield
    finally:
        listeners.remove(refresh)


@contextmanager
def held_up(served: Window) -> Iterator[None]:
    """The window's thread is busy until the end."""
    free, begun = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        free.wait(PATIENCE)

    served.post(wait)
    assert begun.wait(PATIENCE)
    try:
        yield
    finally:
        free.set()


def keep_one(known: KnownRun, window: HeadlessWindow) -> None:
    window.click(*known.splat.pixel_of(2))
    wait_for("a selection", lambda: window.selected > 0)
    window.press("Keep as object")
    wait_for("the object", lambda: len(window.objects()) == 1)


def copy_comes_to(known: KnownRun, place: tuple[float, float, float]) -> None:
    """Wait until the copy of :func:`keep_one`'s object stands there."""
    shared = known.workspace.shared
    wait_for("the move", lambda: np.allclose(shared.content.objects[2].placement.center, place, atol=1e-5), PATIENCE)


def test_what_is_put_while_the_window_is_drawn_anew_is_read(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    """A refresh used to write the old value into a widget whose new one no listener had read yet."""
    (served,) = viewer.windows.values()
    keep_one(known, window)
    select, objects = served.panels._tabs[:2]
    assert served._queue.wait_idle(PATIENCE)  # its folder is there before all of its widgets
    row = objects._rows[served.session.objects[0].id][1]
    served.act(lambda: served.set_tool("box"))
    wait_for("the box", lambda: served.canvas.solid.kind == "box")
    thing = served.session.objects[0].id
    cases = (
        ("Box size", select._gestures._size, lambda: served.canvas.solid.size, ((1.5, 2.0, 1.0), (3.0, 0.5, 1.0))),
        ("Tool", select._gestures._tool, lambda: served.choices.tool, ("ball", "click")),
        ("Level", select._level, lambda: nearest_level(served.session.active) + 1, (2, 1)),
        (
            "Color",
            row._color,
            lambda: served.session.workspace.shared.content.find(thing).color,
            ((9, 8, 7), (1, 2, 3)),
        ),
        ("Show", served.panels._view._mode, lambda: served.choices.look.mode, ("depth", "labels and objects")),
    )
    names = {"labels and objects": "labels"}
    for label, handle, now, values in cases:
        for value in values:
            with drawn_between(served, handle._impl.update_cb):
                window.put(label, value)
                wait_for(label, lambda n=now, v=value: n() == names.get(v, v), PATIENCE)
            assert served._queue.wait_idle(PATIENCE) and handle.value == value


def test_a_gizmo_dragged_while_the_window_is_drawn_anew_stays(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    (served,) = viewer.windows.values()
    keep_one(known, window)
    window.press("Duplicate")
    wait_for("the gizmo", lambda: GIZMO in window.gizmos)
    for place in ((0.0, 3.0, 0.0), (1.0, 2.0, 0.5)):
        with drawn_between(served, served.copy_gizmo._handle._impl_aux.update_cb):
            window.turn(GIZMO, place)
            copy_comes_to(known, place)


def test_a_gesture_is_done_as_the_window_was_set_when_it_was_made(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    """It waits for what is before it; the hand goes on meanwhile."""
    (served,) = viewer.windows.values()
    other, place = Session(known.workspace), known.splat.pixel_of(2)
    served.act(lambda: served.set_tool("brush"))
    for radius, later in ((3.0, 6.0), (5.0, 2.0)):
        window.press("Clear")
        window.put("Radius", radius)
        wait_for("the radius", lambda r=radius: served.choices.brush_radius == r)
        with held_up(served):
            window.click(*place)
            window.put("Radius", later)
            wait_for("the radius", lambda r=later: served.choices.brush_radius == r)
            window.put("Name", f"dab of {radius}")
            window.press("Keep as object")
            window.put("Name", "another")
            wait_for("the name", lambda: served.panels._tabs[0]._name.value == "another")
        expected = other.brush("front", [place], radius, mode="replace")
        wait_for("the object", lambda r=radius: any(o.name == f"dab of {r}" for o in served.session.objects))
        assert served.session.selection == expected and len(served.session.objects[-1]) == len(expected)


def test_of_a_drag_the_newest_counts_and_gestures_stay_in_their_order() -> None:
    queue, done, free = ActionQueue("test"), [], threading.Event()
    try:
        for _ in range(2):
            done.clear(), free.clear()
            queue.post(lambda: (free.wait(PATIENCE), None)[1])
            for name, key, gesture in (
                ("size 1", "size", True),
                ("drawn 1", "drawn", False),
                ("size 2", "size", True),
                ("take", None, True),
                ("drawn 2", "drawn", False),
                ("size 3", "size", True),
                ("size 4", "size", True),
            ):
                queue.post(partial(done.append, name), key, gesture)
            assert queue.waiting("size") and not queue.waiting("take")
            free.set()
            assert queue.wait_idle(PATIENCE) and done == ["size 2", "take", "drawn 2", "size 4"]
    finally:
        queue.close()


@pytest.mark.parametrize("_again", range(2))
def test_what_a_window_does_at_the_end_is_waited_for(_again: int) -> None:
    """A thread that is torn out of a computation at the end of the process aborts it: exit code -6."""
    queue, begun, go_on = ActionQueue("test"), threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        begun.set()
        go_on.wait()
        done.append("first")

    queue.post(first)
    queue.post(lambda: done.append("second"))
    assert begun.wait(30)
    queue.close()
    queue.join(0.05)
    assert not done
    go_on.set()
    queue.join(30)
    assert done == ["first"], "what had begun, and nothing after it"


def test_an_event_is_set_by_any_thread_and_wakes_in_its_loop() -> None:
    loop, event = asyncio.new_event_loop(), LoopEvent()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        for _ in range(2):
            waiting = asyncio.run_coroutine_threadsafe(event.wait(), loop)
            wait_for("the waiter", lambda: len(event._waiters))
            event.set()  # in this thread: asyncio's own went through the waiters here
            run_in_loop(loop, lambda: None)
            assert event.is_set() and not waiting.done()
            run_in_loop(loop, event.set)
            assert waiting.result(PATIENCE)
            event.clear()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


def test_threads_may_write_to_every_window_and_to_the_server(viewer: Viewer, window: HeadlessWindow) -> None:
    (served,) = viewer.windows.values()
    for connection in (viewer.server._websock_server, served.client._websock_connection):
        assert isinstance(connection.get_message_buffer().message_event, LoopEvent)
    failed: list[BaseException] = []

    def write(name: str) -> None:
        try:
            for number in range(300):
                served.say(f"{name} {number}")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(f"thread {n}",)) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    assert not failed
    served.say("the last word")
    wait_for("it", lambda: "the last word" in window.status)


def test_what_a_loop_is_given_is_done_in_its_thread_and_a_stopped_loop_is_left() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    told: list[int] = []
    for _ in range(2):
        run_in_loop(loop, lambda: run_in_loop(loop, lambda: told.append(threading.get_ident())))
        with pytest.raises(ZeroDivisionError):
            run_in_loop(loop, lambda: 1 / 0)
    assert told == [thread.ident] * 2
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENCE)
    loop.close()
    for _ in range(2):
        run_in_loop(loop, lambda: told.append(0))
    assert len(told) == 2


def test_a_drag_is_not_lost_where_the_window_is_drawn_anew(
    known: KnownRun, viewer: Viewer, window: HeadlessWindow
) -> None:
    """The window puts the gizmo to where the session has the copy; with a listener that ran later, that was told."""
    keep_one(known, window)
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
        copy_comes_to(known, place)


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
    keep_one(known, window)
    (served,) = viewer.windows.values()
    (entry,) = served.session.objects
    assert served._queue.wait_idle(PATIENCE)  # its folder is there before all of its widgets
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


def test_inputs_are_written_between_two_messages_only() -> None:
    """``put`` is the one way; the progress bar is no input."""
    for path in Path(splatseg.viewer.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                if isinstance(target, ast.Attribute) and target.attr == "value" and path.name != "events.py":
                    assert isinstance(target.value, ast.Attribute) and target.value.attr == "_progress", (
                        f"{path.name}:{node.lineno}: expected put(...), found an assignment"
                    )


def test_every_listener_is_taken_in_order() -> None:
    counted = 0
    for path in Path(splatseg.viewer.__file__).parent.rglob("*.py"):
        for call in _listeners(path.read_text()):
            given = call.args[0]
            name = given.func.id if isinstance(given, ast.Call) and isinstance(given.func, ast.Name) else None
            assert name in ("in_order", "pressed"), f"{path.name}:{call.lineno}: expected in_order(...), found another"
            counted += 1
    assert counted > 40
