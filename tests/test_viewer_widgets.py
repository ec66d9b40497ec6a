"""Every button, slider and gesture of a window, through a viewer in this process and a window without a browser."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("viser", reason="the viewer's extra is not installed")

from known_run import KnownRun, make_run
from PIL import Image
from viser_client import HeadlessWindow, wait_for

from splatseg.core.label_tree import tree_from_leaves
from splatseg.io.labels import load_labels
from splatseg.io.ply import load_gaussians
from splatseg.session import Change
from splatseg.viewer import ServerConfig, Viewer, ViewerConfig
from splatseg.viewer.panels.gestures import MODE_NAMES

DRAWN = 200  # of 432: what is drawn is a sample, what is selected is not


@pytest.fixture
def viewer(known: KnownRun) -> Iterator[Viewer]:
    running = Viewer(known.workspace, ViewerConfig(ServerConfig(port=0), DRAWN))
    yield running
    running.close()


def size(known: KnownRun, *parts: int) -> int:
    return int(np.isin(known.splat.parts.numpy(), parts).sum())


def selects(window: HeadlessWindow, count: int) -> None:
    wait_for(f"{count} selected", lambda: window.selected == count)


def test_level_of_detail_is_stated_and_selection_is_of_all(known: KnownRun, window: HeadlessWindow) -> None:
    assert f"drawing {DRAWN} of 432 Gaussians; selection works on all" in window.status
    window.click(*known.splat.pixel_of(2))
    selects(window, size(known, 2))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4, 1e8])
def test_scenes_of_any_size_are_drawn_and_turned_around(tmp_path: Path, scale: float) -> None:
    known = make_run(tmp_path, scale)
    viewer = Viewer(known.workspace, ViewerConfig(ServerConfig(port=0)))
    depths = known.splat.camera.project(known.splat.gaussians.means)[1] / scale  # of a scene of size 1: what is sent
    position = known.splat.camera.position.numpy() / scale
    try:
        np.testing.assert_allclose(viewer.server.initial_camera.position, position, rtol=1e-5, atol=1e-5)
        for _ in range(2):  # each window is told
            window = HeadlessWindow(viewer.port, known.splat.camera)
            window.click(*known.splat.pixel_of(2))
            selects(window, size(known, 2))
            limits = window.limits
            assert 0 < limits["near"] < 0.1 * float(depths.min()) and float(depths.max()) * 10 < limits["far"]
            assert limits["min_orbit_distance"] < 0.1 * float(depths.min())
            assert float(depths.max()) * 10 < limits["max_orbit_distance"] < limits["far"]
            window.close()
    finally:
        viewer.close()


def test_level_and_threshold_sliders(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    """The status told of a click's levels before the slider had them, and the slider was then taken away and put anew:
    what a hand did to it in between was lost."""
    (served,) = viewer.windows.values()
    slider = window.find("Level")
    for _ in range(2):
        window.click(*known.splat.pixel_of(2))
        selects(window, size(known, 2))
        wait_for("the levels of this click", lambda: "level 1 of" in window.status)
        assert window.enabled("Level") and window.value("Level") == 1
        window.put("Level", 2)
        selects(window, size(known, 2, 3))
        assert "level 2 of" in window.status
        window.put("Threshold", 0.9)
        selects(window, size(known, 2))
        wait_for("the level slider to follow", lambda: window.value("Level") == 1)
        window.press("Clear")
        selects(window, 0)
        wait_for("the slider to rest", lambda: not window.enabled("Level"))
        assert slider in {uuid for uuid, _ in window._all()}, "the slider was put anew"
    assert served.session.can_undo


def test_two_drags_of_a_slider_are_two_steps(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    """Ten seconds apart they were one."""
    (served,) = viewer.windows.values()
    now = [0.0]
    served.drags.clock = lambda: now[0]
    window.click(*known.splat.pixel_of(2))
    selects(window, size(known, 2))
    wait_for("the slider", lambda: window.enabled("Level"))
    for seconds, level, parts in ((0.0, 2, (2, 3)), (0.5, 1, (2,)), (10.0, 2, (2, 3)), (20.0, 1, (2,))):
        now[0] = seconds
        window.put("Level", level)
        selects(window, size(known, *parts))
        wait_for("the step", lambda level=level: served.session.active.level == level - 1)
    for parts in ((2, 3), (2,)):
        window.press("Undo")
        selects(window, size(known, *parts))
    window.press("Undo")
    wait_for("the click", lambda: served.session.step.label == "click")


def test_nothing_above_the_tabs_changes_its_height(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    """The status grew by a line with each message, bar and Cancel came and went: buttons moved under the pointer."""

    def place() -> tuple[str, ...]:
        html = next(w for _, w in window._all() if "selected ·" in (w["props"].get("content") or ""))
        shown = [w["props"]["visible"] for _, w in window._all() if w["type"] == "GuiProgressBarMessage"]
        return (*re.findall(r"(?<!-)height:[^;]*|overflow-y:[^;]*", html["props"]["content"]), str(shown))

    before = place()
    assert len(before) == 3
    window.click(0, 0)
    wait_for("a word on empty space", lambda: "empty space" in window.status and "✗" in window.status)
    assert place() == before and window.visible("Cancel") and not window.enabled("Cancel")
    window.click(*known.splat.pixel_of(2))
    selects(window, size(known, 2))
    window.press("Keep as object")
    wait_for("a word on it", lambda: "✓ kept" in window.status)
    assert place() == before


def test_keys_and_buttons_choose_what_a_click_does(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    (served,) = viewer.windows.values()

    def choose(mode: str) -> None:
        """viser hands events to a pool of threads: a click of the same millisecond may overtake the choice."""
        window.put("Click does", mode)
        wait_for("the mode", lambda: MODE_NAMES[mode] == served.choices.mode)

    window.click(*known.splat.pixel_of(0))
    window.click(*known.splat.pixel_of(4), "shift")
    selects(window, size(known, 0, 4))
    window.click(*known.splat.pixel_of(4), "alt")
    selects(window, size(known, 0))
    choose("add (Shift)")
    window.click(*known.splat.pixel_of(3))
    selects(window, size(known, 0, 3))
    choose("subtract (Alt)")
    window.click(*known.splat.pixel_of(0))
    selects(window, size(known, 3))
    choose("intersect")
    window.click(*known.splat.pixel_of(5))
    selects(window, 0)
    window.press("Undo")
    selects(window, size(known, 3))
    window.press("Redo")
    selects(window, 0)


def test_rectangles_with_ctrl_or_with_the_checkbox(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    (served,) = viewer.windows.values()
    window.drag(((0, 0), (48, 32)))
    wait_for("the rectangle", lambda: window.selected > 0)
    everything = window.selected
    u, v = known.splat.pixel_of(2)
    corners = ((u - 2.0, v - 2.0), (u + 3.0, v + 3.0))
    window.drag(corners, "cmd/ctrl+alt")
    wait_for("the subtraction", lambda: 0 < window.selected < everything)
    rest = window.selected
    window.put("Tool", "rectangle")
    wait_for("the choice", lambda: served.choices.tool == "rectangle")
    window.drag(corners, None)
    selects(window, everything - rest)
    window.drag(((0, 0), (1, 1)), None)
    wait_for("a word on empty space", lambda: "empty space" in window.status)
    selects(window, everything - rest)


def test_tools_are_pressed_and_say_where_they_do_nothing(known: KnownRun, window: HeadlessWindow) -> None:
    window.click(*known.splat.pixel_of(2))
    selects(window, size(known, 2))
    window.press("Grow")
    wait_for("more", lambda: size(known, 2) < window.selected < size(known, 2, 3))
    window.press("Shrink")
    wait_for("less", lambda: window.selected <= size(known, 2))
    window.press("Fill holes")
    wait_for("a word on it", lambda: "needs a hole" in window.status)
    window.press("Keep clicked piece")
    wait_for("a word on it", lambda: "more than one piece" in window.status)
    window.press("Remove floaters")
    wait_for("a word on it", lambda: "find them first" in window.status)
    window.press("Find floaters")
    wait_for("a word on it", lambda: "hangs in the air" in window.status)


def test_sets_with_a_kept_object(known: KnownRun, window: HeadlessWindow) -> None:
    window.click(*known.splat.pixel_of(0))
    selects(window, size(known, 0))
    window.press("Keep as object")
    wait_for("the object in the list", lambda: window.value("Object") == "object 1 (1)")
    window.click(*known.splat.pixel_of(2))
    selects(window, size(known, 2))
    for way, expected in (("Union", size(known, 0, 2)), ("Subtract", size(known, 2)), ("Intersect", 0)):
        window.press(way)
        selects(window, expected)
    window.press("Invert")
    selects(window, 432)
    window.press("Clear")
    selects(window, 0)


def test_objects_are_renamed_recolored_hidden_isolated_and_deleted(known: KnownRun, window: HeadlessWindow) -> None:
    for number in (0, 2):
        window.click(*known.splat.pixel_of(number))
        selects(window, size(known, number))
        window.press("Keep as object")
        wait_for("the object", lambda n=number: len(window.objects()) == n // 2 + 1)
    content = known.workspace.shared
    window.put("Color", (1, 2, 3))
    wait_for("the color", lambda: content.content.objects[1].color == (1, 2, 3))
    wait_for("the list", lambda: "rgb(1, 2, 3)" in window.markup("object 1"))
    window.press("Hide")
    wait_for("it to be hidden", lambda: window.objects()[0].endswith("hidden"))
    window.click(*known.splat.pixel_of(0))
    wait_for("a word on empty space", lambda: "empty space" in window.status)
    window.press("Show all")
    wait_for("it to be shown", lambda: not window.objects()[0].endswith("hidden"))
    window.press("Isolate")
    wait_for("a word on it", lambda: "shown alone" in window.status)
    window.click(*known.splat.pixel_of(2))
    wait_for("a word on empty space", lambda: "empty space" in window.status)
    window.press("Show all")
    wait_for("all of it", lambda: "shown alone" not in window.status)
    window.press("Delete")
    wait_for("it to go", lambda: window.objects() == [f"object 2 · {size(known, 2)}"])
    window.press("Undo")
    wait_for("it to be back", lambda: len(window.objects()) == 2)
    window.press("Select")
    wait_for("a selection", lambda: window.selected in (size(known, 0), size(known, 2)))


def test_labels_are_divided_picked_merged_and_split(known: KnownRun, window: HeadlessWindow) -> None:
    window.press("Divide the scene")
    wait_for("the labels", lambda: "labels at" in window.status and "click picks whole labels" in window.status)
    wait_for("their colors", lambda: window.value("Show") == "labels and objects")
    tree = tree_from_leaves(known.splat.parts.numpy(), [np.arange(6) // 2, np.arange(6)], 0)
    shared = known.workspace.shared
    shared.apply(Change(trees=((shared.content.tree, shared.content.level), (tree, 0))))
    window.click(*known.splat.pixel_of(0))
    selects(window, size(known, 0, 1))
    window.click(*known.splat.pixel_of(2), "shift")
    selects(window, size(known, 0, 1, 2, 3))
    window.press("Merge")
    wait_for("two labels", lambda: len(shared.content.tree.at_level(0)) == 2)
    window.press("Undo")
    wait_for("three labels", lambda: len(shared.content.tree.at_level(0)) == 3)
    window.click(*known.splat.pixel_of(4))
    selects(window, size(known, 4, 5))
    window.press("Split")
    wait_for("four labels", lambda: len(shared.content.tree.at_level(0)) == 4)
    wait_for("one of the parts", lambda: window.selected in (size(known, 4), size(known, 5)))


def test_every_export_is_downloaded_and_in_the_run(known: KnownRun, window: HeadlessWindow) -> None:
    window.click(*known.splat.pixel_of(2))
    selects(window, size(known, 2))
    window.press("Keep as object")
    wait_for("the object", lambda: len(window.objects()) == 1)
    window.put("File name", "mug")
    expected = {
        "Selection (PLY)": ["mug.ply"],
        "Scene without it (PLY)": ["mug_removed.ply"],
        "Masks in all photos (ZIP)": ["mug_masks.zip"],
        "Objects as labels (ZIP)": ["objects.zip"],
        "Image of this view (PNG)": ["view.png"],
    }
    folder = known.workspace.run.exports
    for button, names in expected.items():
        window.press(button)
        wait_for(button, lambda names=names: set(names) <= set(window.downloads) and not window.bar)
        for name in names:
            assert window.downloads[name] == (folder / name).read_bytes()
    assert len(load_gaussians(folder / "mug.ply")) == size(known, 2)
    assert len(load_gaussians(folder / "mug_removed.ply")) == 432 - size(known, 2)
    assert load_labels(folder / "objects.ply").nodes[0].name == "object 1"
    with zipfile.ZipFile(io.BytesIO(window.downloads["objects.zip"])) as archive:  # five downloads, once
        inside = {name: archive.read(name) for name in archive.namelist()}
    assert set(inside) == {
        "objects.ply",
        "objects.json",
        "objects_plain.ply",
        "objects_plain.npz",
        "objects_plain.json",
    }
    assert all(content == (folder / name).read_bytes() for name, content in inside.items())
    with zipfile.ZipFile(io.BytesIO(window.downloads["mug_masks.zip"])) as archive:
        assert len(archive.namelist()) == len(known.workspace.views) == 2
    assert Image.open(io.BytesIO(window.downloads["view.png"])).size == (48, 32)


def test_sessions_are_saved_and_reopened(known: KnownRun, window: HeadlessWindow) -> None:
    window.click(*known.splat.pixel_of(2))
    selects(window, size(known, 2))
    window.press("Save")
    wait_for("the session in the list", lambda: window.value("Saved") == "session_1")
    window.press("Clear")
    selects(window, 0)
    window.press("Reopen")
    selects(window, size(known, 2))


def test_modes_are_chosen_and_a_photo_is_shown(known: KnownRun, window: HeadlessWindow) -> None:
    window.put("Show", "heat map of the last click")
    wait_for("a word on the click that is missing", lambda: "click one first" in window.status)
    window.click(*known.splat.pixel_of(2))
    selects(window, size(known, 2))
    for mode in ("features (PCA)", "labels and objects", "depth", "heat map of the last click", "photo colors"):
        sent = window.pieces
        window.put("Show", mode)
        wait_for(f"colors of {mode}", lambda sent=sent: window.pieces > sent)
    window.press("Next")
    wait_for("the photo", lambda: window.find("front.png"))
    window.press("Next")
    wait_for("the next photo", lambda: window.find("side.png"))


def test_buttons_are_lit_when_they_can_act(known: KnownRun, window: HeadlessWindow) -> None:
    selecting = {"Selection (PLY)", "Scene without it (PLY)", "Masks in all photos (ZIP)", "Clear", "Keep as object"}
    levels, combining, labels = {"part", "object", "group"}, {"Union", "Intersect", "Subtract"}, {"Merge", "Split"}
    rest = {"Undo", "Redo", "All labels (ZIP)", "Objects as labels (ZIP)", "Reopen", "Show all", "Select and go there"}
    watched = selecting | levels | combining | labels | rest

    def lit(*sets: set[str]) -> None:
        expected = set().union(*sets)
        found = lambda: {label for label in watched if window.enabled(label)}  # noqa: E731
        wait_for(f"{sorted(expected)} lit, not {sorted(found() ^ expected)}", lambda: found() == expected)

    assert window.enabled("Invert") and window.enabled("Edited scene (PLY)")
    lit()
    for undone in (set(), {"Redo"}):
        lit(undone)
        window.click(*known.splat.pixel_of(2))
        lit(selecting, levels, {"Undo"})
        window.press("Keep as object")
        lit(selecting, levels, combining, {"Undo", "Objects as labels (ZIP)"})
        window.press("Hide")
        wait_for("nothing selected", lambda: not window.enabled("Clear"))
        lit(levels, combining, {"Undo", "Objects as labels (ZIP)", "Show all", "Scene without it (PLY)"})
        for _ in range(3):
            window.press("Undo")
        lit({"Redo"})
    window.press("Divide the scene")
    wait_for("the labels", lambda: window.enabled("All labels (ZIP)"))
    for number in (0, 4):
        window.click(*known.splat.pixel_of(number))
        wait_for("one label", lambda: window.enabled("Split") and not window.enabled("Merge"))
        window.click(*known.splat.pixel_of(2), "shift")
        wait_for("two labels", lambda: window.enabled("Merge") and not window.enabled("Split"))
    window.press("Save")
    wait_for("a saved one", lambda: window.enabled("Reopen"))
    window.put("Search", ">1")
    wait_for("found", lambda: window.value("Found") is not None and not window.enabled("Select and go there"))
