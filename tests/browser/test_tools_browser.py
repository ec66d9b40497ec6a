"""The tools of the panels in a real browser: rectangle, box, the refining buttons, properties, Clean, objects, search
and copies, each by the gestures that a person has. Lasso, brush and ball: ``test_viewer_browser.py``."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest
from browser_page import Window
from chromium import FRAMES, STILL, wait_for
from known_scene import KnownScene

ARROW = 300  # pixels, at least, of a gizmo's colors where one is seen

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def open_folder(window: Window, label: str) -> None:
    """Unfold a folder of the panel. It begins to glide some pictures later, and what glides is not pressed."""
    window.press(label)
    window.page.evaluate(FRAMES, 4)
    wait_for("the folder to be open", lambda: window.page.evaluate(STILL))


def choose(window: Window, label: str, option: str) -> None:
    """Choose ``option`` in the dropdown ``label``."""
    window.page.get_by_label(label, exact=True).first.click()
    window.page.get_by_role("option", name=option).first.click()
    window.settle()


def test_rectangle_and_box(open_window: Any, known: KnownScene) -> None:
    window = open_window()
    belly = known.leaf("snowman/belly")
    x, y = window.place_of(belly)
    mouse, keyboard = window.page.mouse, window.page.keyboard

    def drag() -> None:
        keyboard.down("Control")
        mouse.move(x - 12, y - 12)
        mouse.down()
        mouse.move(x + 12, y + 12, steps=4)
        mouse.up()
        keyboard.up("Control")

    for _ in range(2):
        window.gesture(drag)
        inside = window.selected()
        assert inside.any() and known.inside(belly, 2)[inside].mean() > 0.9
        window.gesture(lambda: window.press("Undo"))
        assert not window.selected().any()
    window.click(belly)
    object_ = window.selected()
    window.press_key("x", lambda: window.served.canvas.solid.kind == "box")
    window.shoot("16-box")
    window.gesture(lambda: window.press("only it"))
    boxed = window.selected()
    assert object_[boxed].mean() > 0.5 and boxed[object_].mean() > 0.9
    window.gesture(lambda: window.press("take out"))
    assert not window.selected().any()


def test_refining_buttons_properties_and_clean(open_window: Any, known: KnownScene) -> None:
    window = open_window(800, 600)
    window.click(known.leaf("snowman/belly"))
    open_folder(window, "Grow, shrink, tidy")
    added, less, none = "Gaussians added", "Gaussians taken out", "but there is none"
    words = {"Grow": [added], "Shrink": [less], "Fill holes": [added, none], "Keep largest piece": [less, none]}
    for button in ("Grow", "Shrink", "Grow", "Fill holes", "Keep largest piece"):
        before = int(window.selected().sum())
        window.press(button)
        said = window.page.get_by_text(re.compile("|".join(words[button])))
        said.first.wait_for()
        window.settle()
        change = int(window.selected().sum()) - before
        assert {added: change > 0, less: change < 0, none: change == 0}[words[button][0]] or none in words[button]
    piece = window.selected()
    assert piece.any()
    window.gesture(lambda: window.page.keyboard.press("Control+i"))
    assert np.array_equal(window.selected(), ~piece)
    window.gesture(lambda: window.page.keyboard.press("Escape"))
    open_folder(window, "By property")
    choose(window, "Property", "size")
    line = window.page.locator(".multi-slider-track").filter(visible=True).last
    line.scroll_into_view_if_needed()
    track = line.bounding_box()
    for share in (0.5, 0.3):
        before = int(window.selected().sum())
        thumb = window.page.locator(".multi-slider-thumb").filter(visible=True).last.bounding_box()
        y = thumb["y"] + thumb["height"] / 2
        window.page.mouse.move(thumb["x"] + thumb["width"] / 2, y)
        window.page.mouse.down()
        window.gesture(lambda y=y, share=share: window.page.mouse.move(track["x"] + share * track["width"], y, steps=3))
        window.page.mouse.up()
        window.settle()
        assert 0 < window.selected().sum() != before
    window.shoot("17-property")
    window.gesture(lambda: window.page.keyboard.press("Escape"))
    open_folder(window, "Clean")
    window.press("Find floaters")
    window.page.get_by_text("Clean needs something that hangs in the air").first.wait_for()  # nothing does, here


def test_objects_are_copied_hidden_and_searched(open_window: Any, known: KnownScene) -> None:
    window = open_window(1000, 900)  # all of an arrow is on the picture
    window.page.add_style_tag(content=".mantine-Notification-root {display: none}")  # viser's note lies over the canvas
    belly = known.leaf("snowman/belly")
    window.click(belly)
    kept = window.selected()
    window.page.keyboard.press("k")
    shared = window.served.session.workspace.shared
    wait_for("the object", lambda: len(shared.content.objects) == 1)
    window.gesture(lambda: window.page.keyboard.press("Escape"))
    window.tab("Objects")
    open_folder(window, "Color, name, copy")
    window.press("Duplicate")
    wait_for("the copy", lambda: len(shared.content.objects) == 2)
    window.settle()
    window.shoot("18-copy")
    # viser draws splats last: a gizmo that leaves no depth is under all of them.
    wait_for("the gizmo before the splats", lambda: sum(window.gizmo_pixels()) > ARROW)
    for _ in range(2):  # before the camera goes there: so near, no arrow is all on the picture
        placement = shared.content.objects[2].placement
        window.settle()
        window.drag_gizmo(window.served.copy_gizmo._handle)
        wait_for("the copy to move", lambda p=placement: shared.content.objects[2].placement.center != p.center)
        wait_for("the gizmo before the splats", lambda: sum(window.gizmo_pixels()) > ARROW)
    window.shoot("19-copy-moved")
    for label, visible in (("Hide", False), ("Show", True)):
        window.press(label)
        wait_for("its state", lambda v=visible: shared.content.objects[1].visible is v)
    window.page.locator(".mantine-TextInput-input").filter(visible=True).first.fill("object 1")
    wait_for("what is found", lambda: "2 found" in str(window.served.panels._tabs[1]._search._list.options[0]))
    camera = window.served.camera().cam_from_world
    choose(window, "Found", "object 1")
    wait_for("the selection", lambda: np.array_equal(window.selected(), kept))
    wait_for("the camera", lambda: np.abs((window.served.camera().cam_from_world - camera).numpy()).max() > 1e-3)


def test_strokes_draw_and_preview_while_the_camera_stands(open_window: Any, known: KnownScene) -> None:
    window = open_window()
    belly = known.leaf("snowman/belly")
    x, y = window.place_of(belly)
    mouse, served = window.page.mouse, window.served
    stood = served.camera().cam_from_world.clone()

    def lead(places: tuple[tuple[float, float], ...]) -> None:
        mouse.move(*places[0])
        mouse.down()
        for place in places[1:]:
            mouse.move(*place, steps=2)
            time.sleep(0.1)

    window.press_key("v", lambda: served.choices.tool == "preview")
    for _ in range(2):
        lead(((x - 14, y - 30), (x - 6, y - 8), (x, y)))
        wait_for("the preview", lambda: served._previewed is not None and served._queue.wait_idle(1.0))
        shown = wait_for("it to settle", lambda: served._previewed).mask.numpy()
        assert not window.selected().any()
        window.page.get_by_text("let go to take them").first.wait_for()
        window.gesture(mouse.up)
        assert np.array_equal(window.selected(), shown) and known.inside(belly, 2)[shown].mean() > 0.9
        window.gesture(lambda: window.press("Undo"))
    for key, tool, way in (
        ("b", "brush", ((x - 8, y), (x, y - 2), (x + 8, y))),
        ("l", "lasso", ((x - 12, y - 12), (x + 12, y - 12), (x + 12, y + 12), (x - 12, y + 12))),
    ):
        window.press_key(key, lambda tool=tool: served.choices.tool == tool)
        lead(way)
        time.sleep(1)
        window.shoot(f"20-{tool}-led")
        window.gesture(mouse.up)
        inside = window.selected()
        assert inside.any() and known.inside(belly, 2)[inside].mean() > 0.5 and tool in served.session.step.label
        window.gesture(lambda: window.press("Undo"))
        assert not window.selected().any()
    assert np.abs((served.camera().cam_from_world - stood).numpy()).max() < 1e-5


def test_what_a_click_would_take_is_outlined_under_the_pointer(open_window: Any, known: KnownScene) -> None:
    window = open_window()
    served, mouse = window.served, window.page.mouse
    window.page.add_style_tag(content=".mantine-Notification-root {display: none}")  # viser's note lies over the canvas
    places = {name: window.place_of(known.leaf(name)) for name in ("snowman/belly", "snowman/chest")}
    for turn, (name, place) in enumerate(places.items()):
        wait_for("the outlines", lambda: served.hover._nodes and served.hover._parent.visible)
        mouse.move(40, 20)  # empty space
        wait_for("no outline", lambda: len(window.outline()) < 20)
        mouse.move(*place)

        def around(place: tuple[float, float] = place) -> bool:
            line = window.outline()
            return len(line) > 100 and bool((line.min(0) < place).all() and (line.max(0) > place).all())

        wait_for("an outline around the pointer", around)
        window.shoot(f"23-hover-{turn}")
        assert not window.selected().any()
        window.gesture(lambda place=place: mouse.click(*place))  # it goes through
        assert np.array_equal(window.selected(), known.inside(known.leaf(name), 2))
        window.gesture(lambda: window.press("Undo"))
        window.press_key("b", lambda: served.choices.tool == "brush")
        mouse.move(*place)
        wait_for("no outline with another tool", lambda: len(window.outline()) < 20 and not served.hover._nodes)
        window.press_key("c", lambda: served.choices.tool == "click")
