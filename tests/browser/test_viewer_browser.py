"""The viewer in a real browser: headless Chromium, driven by mouse and keyboard, on a scene whose parts are known.

It runs where the browser draws a picture in 0.4 s; ``SPLATSEG_BROWSER=1`` runs it on slower machines too, ``=0`` never.
What else can be set: ``chromium.py``.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium import FRAMES, PATIENCE, address, button, open_page, wait_for, wait_for_widgets
from known_run import make_run
from known_scene import KnownScene
from PIL import Image

from splatseg.io.ply import load_gaussians

viser = pytest.importorskip("viser", reason="the viewer's extra is not installed")
viewer_room = pytest.importorskip("splatseg.viewer", reason="the viewer's extra is not installed")

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_click_level_subtract_undo_export(open_window: Any, known: KnownScene) -> None:
    window = open_window()
    belly, chest, other = known.leaf("snowman/belly"), known.leaf("snowman/chest"), known.leaf("mushroom/cap")
    window.shoot("1-open")  # in the scene's own colors: some are reddish themselves

    window.click(belly, selects=known.inside(belly, 2))
    window.shoot("2-part", lit=(belly,), dark=(chest, other))

    window.page.get_by_role("slider").first.focus()
    window.page.keyboard.press("ArrowRight")
    wait_for("the object", lambda: np.array_equal(window.selected(), known.inside(belly, 1)))
    window.settle()
    window.shoot("3-object", lit=(belly, chest), dark=(other,))

    window.click(chest, "Alt", selects=known.inside(belly, 1) & ~known.inside(chest, 2))
    window.shoot("4-subtract", lit=(belly,), dark=(chest, other))

    window.gesture(lambda: window.press("Undo"))
    assert np.array_equal(window.selected(), known.inside(belly, 1))

    window.click(other, "Shift")
    assert window.selected()[known.inside(belly, 1) | known.inside(other, 2)].all()
    window.gesture(lambda: window.page.keyboard.press("Control+z"))
    assert np.array_equal(window.selected(), known.inside(belly, 1))

    window.tab("Files")
    with window.page.expect_download() as waiting:
        button(window.page, "Selection (PLY)").click()
    path = Path(waiting.value.path())
    assert waiting.value.suggested_filename == "selection.ply"
    expected = load_gaussians(known.run.geometry).select(window.served.session.selection.mask)
    found = load_gaussians(path)
    for name, tensor in found.tensors().items():
        np.testing.assert_array_equal(tensor.numpy(), expected.tensors()[name].numpy())
    assert (known.run.exports / "selection.ply").read_bytes() == path.read_bytes()
    window.shoot("5-export")


@pytest.mark.parametrize("size", [1e-3, 1e4])
def test_scenes_of_any_size_are_seen_at_opening_and_walked_through(
    launch: Callable[[], Any], tmp_path: Path, size: float
) -> None:
    """viser's page draws from 0.01 to 1000 units and its keys move 2 units per second, whatever the scene's size is: of
    these two nothing was seen, or no key moved anything that one could see."""
    known = make_run(tmp_path, size)
    viewer = viewer_room.Viewer(known.workspace, viewer_room.ViewerConfig(viewer_room.ServerConfig(port=0)))
    browser = launch()
    try:
        page = open_page(browser, viewer.port, (640, 400))
        (window,) = viewer.windows.values()

        def seen() -> float:
            """Share of the middle of the canvas that is not of the background's color."""
            box = page.locator("canvas").first.bounding_box()
            with Image.open(io.BytesIO(page.screenshot(timeout=PATIENCE * 1000))) as shot:
                pixels = np.asarray(shot.convert("RGB"), dtype=int)
            left, top = int(box["x"]), int(box["y"])
            canvas = pixels[top : top + int(box["height"]), left : left + int(box["width"])]
            corner, middle = canvas[-5, 5], canvas[canvas.shape[0] // 4 : -canvas.shape[0] // 4, 150:450]
            return float((np.abs(middle - corner).max(axis=2) > 40).mean())

        wait_for("the splat to be seen", lambda: seen() > 0.02)
        start = window.camera().position.numpy()
        distance = float(np.linalg.norm(start - known.splat.gaussians.means.mean(0).numpy()))
        for _ in range(2):
            before = window.camera().position.numpy()
            page.mouse.click(5, 395)  # the keys are the canvas's
            page.keyboard.down("d")
            moved = wait_for(
                "a step that one can see",
                lambda before=before: (
                    float(np.linalg.norm(window.camera().position.numpy() - before)) > 0.01 * distance
                ),
            )
            page.keyboard.up("d")
            assert moved and np.linalg.norm(window.camera().position.numpy() - before) < 50 * distance
    finally:
        browser.close()
        viewer.close()


def test_a_click_into_empty_space_says_so(open_window: Any, known: KnownScene) -> None:
    window = open_window()
    box = window.page.locator("canvas").first.bounding_box()
    window.page.mouse.click(box["x"] + box["width"] - 40, box["y"] + 40)
    wait_for("the message", lambda: "empty space" in window.served.panels._message[0])
    window.page.get_by_text("empty space").first.wait_for()
    assert not window.selected().any() and not window.served.session.can_undo
    window.shoot("6-empty-space")


def test_two_windows_share_objects_but_not_selections(open_window: Any, known: KnownScene) -> None:
    first, second = open_window(680, 400), open_window(680, 400)
    belly, cap = known.leaf("snowman/belly"), known.leaf("mushroom/cap")
    first.click(belly)
    second.click(cap)
    assert np.array_equal(first.selected(), known.inside(belly, 2))
    assert np.array_equal(second.selected(), known.inside(cap, 2))
    boxes = first.page.get_by_role("textbox").all()
    next(box for box in boxes if box.input_value() == "object 1").fill("<b>belly</b>")
    first.page.keyboard.press("Tab")
    time.sleep(1)  # viser sends what is typed after a pause
    first.gesture(lambda: first.press("Keep as object"))
    second.tab("Objects")
    second.page.get_by_text("<b>belly</b>").first.wait_for()  # as text, not as markup
    assert np.array_equal(second.selected(), known.inside(cap, 2))
    second.shoot("7-second-window")


def unnamed_buttons(page: Any) -> list[Any]:
    """What the browser would read to a person who does not see them: nothing."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")
    buttons = [node for node in tree["nodes"] if node.get("role", {}).get("value") == "button"]
    assert len(buttons) > 5
    return [node for node in buttons if not node.get("name", {}).get("value") and not node.get("ignored")]


def test_a_lost_connection_finds_its_selection_again_and_a_lost_server_is_told(
    open_window: Any, viewer: Any, known: KnownScene
) -> None:
    window = open_window(680, 400)
    belly = known.leaf("snowman/belly")
    window.click(belly)
    lost = window.page.get_by_text("The server does not answer").first
    for tab in ("Objects", "Labels", "View", "Files", "Select"):
        window.tab(tab)
        assert unnamed_buttons(window.page) == []
    for _ in range(2):
        lost.wait_for(state="hidden")
        session, before = window.served.session, set(viewer.windows)
        viewer.server._websock_server.disconnect_all_clients()
        window._client = wait_for("the browser to come back", lambda before=before: set(viewer.windows) - before).pop()
        window.settle()
        assert window.served.session is session
        assert np.array_equal(window.selected(), known.inside(belly, 2))
    lost.wait_for(state="hidden")
    viewer.server.stop()
    lost.wait_for(state="visible")
    window.shoot("21-lost")


def test_photo_beside_the_render_and_division_into_labels(open_window: Any, known: KnownScene) -> None:
    window = open_window(1000, 480)
    window.tab("View")
    window.press("Next")
    window.page.get_by_text("Photo", exact=True).first.wait_for()
    wait_for("the photo", lambda: window.page.locator("img[src^='blob:']").count() > 0)
    window.shoot("8-photo")
    window.tab("Labels")
    button(window.page, "Divide the scene").click()
    wait_for("the labels", lambda: window.served.session.tree is not None and window.served.job is None)
    window.settle()
    belly = known.leaf("snowman/belly")
    window.click(belly)
    assert window.served.session.selected_labels() and window.selected()[known.inside(belly, 2)].mean() > 0.9
    window.shoot("9-labels")


def test_lasso_and_brush_by_real_clicks(open_window: Any, known: KnownScene) -> None:
    from splatseg.viewer.strokes import ALONE_SECONDS

    window = open_window()
    belly = known.leaf("snowman/belly")
    x, y = window.place_of(belly)
    corners = [(x - 12, y - 12), (x + 12, y - 12), (x + 12, y + 12), (x - 12, y + 12)]

    def click(corner: tuple[float, float], number: int) -> None:
        window.page.mouse.click(*corner)
        wait_for(f"corner {number}", lambda: window.served.canvas.corners == number)

    window.press_key("l", lambda: window.served.choices.tool == "lasso")
    for turn in range(2):
        for number, corner in enumerate(corners, 1):
            click(corner, number)
        if not turn:
            window.shoot("10-lasso")
        time.sleep(2 * ALONE_SECONDS)  # a click that is told late is none of its own
        assert window.served.canvas.corners == 4
        window.press_key("Backspace", lambda: window.served.canvas.corners == 3)
        click(corners[-1], 4)
        window.gesture(lambda: window.page.keyboard.press("Enter"))
        inside = window.selected()
        assert inside.any() and known.inside(belly, 2)[inside].mean() > 0.9 and not window.served.canvas.corners
        window.gesture(lambda: window.press("Undo"))
        assert not window.selected().any()
    window.press_key("b", lambda: window.served.choices.tool == "brush")
    for _ in range(2):
        before = window.selected()
        x += 6
        window.gesture(lambda x=x: window.page.mouse.click(x, y))
        assert window.selected().sum() > before.sum() and window.selected()[before].all()
    window.page.keyboard.down("Control")
    window.gesture(lambda: window.page.mouse.click(x, y))
    window.page.keyboard.up("Control")
    assert window.selected().sum() < before.sum() + 1
    window.shoot("11-brush")


def test_a_page_loaded_anew_stands_as_it_was_left(open_window: Any, viewer: Any, known: KnownScene) -> None:
    window = open_window(680, 400)
    belly = known.leaf("snowman/belly")
    window.click(belly)
    box = window.page.locator("canvas").first.bounding_box()
    start = window.served.camera().position.numpy()
    window.page.mouse.move(box["x"] + 100, box["y"] + 300)  # not on viser's note
    window.page.mouse.down()
    window.page.mouse.move(box["x"] + 180, box["y"] + 320, steps=4)
    window.page.mouse.up()
    wait_for("the camera to turn", lambda: np.abs(window.served.camera().position.numpy() - start).max() > 1e-2)
    window.settle()
    window.tab("View")
    window.page.get_by_text("Dark", exact=True).first.click()
    wait_for("the theme", lambda: window.served.choices.dark)
    time.sleep(1)  # the camera comes to rest
    left, session, before = window.served.camera(), window.served.session, set(viewer.windows)
    window.page.reload()
    window.page.get_by_text("Sharp where I look").first.wait_for()  # of the View tab
    window._client = wait_for("the page", lambda: set(viewer.windows) - before).pop()
    window.settle()
    window.page.get_by_text("Welcome back").first.wait_for()
    assert window.served.session is session and window.served.choices.dark
    wait_for(
        "the camera to be where it was",
        lambda: np.abs((window.served.camera().cam_from_world - left.cam_from_world).numpy()).max() < 1e-2,
    )
    window.shoot("12-reloaded")


def test_the_open_tab_is_open_after_a_reload(open_window: Any, viewer: Any) -> None:
    window = open_window(680, 400)
    tabs = window.page.get_by_role("tab")
    order = tabs.all_inner_texts()
    for left, name in (("Objects", "Files"), ("Files", "Labels"), ("Labels", "Select")):
        window.tab(left)  # one that was open before is told of as well
        window.tab(name)
        wait_for("the tab", lambda name=name: window.served.choices.tab == name)
        before = set(viewer.windows)
        window.page.reload()
        window._client = wait_for("the page", lambda before=before: set(viewer.windows) - before).pop()
        window.page.get_by_role("tab", name=name, selected=True).wait_for()
        wait_for("their order", lambda: tabs.all_inner_texts() == order)
        window.settle()
        assert window.page.get_by_role("tab", selected=True).all_inner_texts() == [name]
    window.shoot("22-tab")


def test_the_photo_lies_over_the_canvas(open_window: Any) -> None:
    """Docked beside it, it left 152 pixels of the canvas at 900 x 600."""
    window = open_window(900, 600)
    wide = window.page.locator("canvas").first.bounding_box()["width"]
    window.tab("View")
    for _ in range(2):
        window.press("Next")
        wait_for("the photo", lambda: window.page.locator("img[src^='blob:']").count() > 0)
        window.page.get_by_text("Fade to splat").first.wait_for()
        assert window.page.locator("canvas").first.bounding_box()["width"] == wide
    window.shoot("13-photo-over")


def test_a_ball_is_dragged_by_its_gizmo(open_window: Any, known: KnownScene) -> None:
    window = open_window()
    belly = known.leaf("snowman/belly")
    window.click(belly)
    window.page.add_style_tag(content=".mantine-Notification-root {display: none}")  # viser's note lies over the canvas
    window.press_key("o", lambda: window.served.canvas.solid.kind == "ball")
    gizmo = window.served.canvas.solid._gizmo
    window.shoot("14-ball")
    for _ in range(2):
        before = gizmo.position.copy()
        window.drag_gizmo(gizmo)
        wait_for("the gizmo to move", lambda before=before: np.abs(gizmo.position - before).max() > 0)
        window.settle()
    window.gesture(lambda: window.press("only it"))
    center = torch.from_numpy(gizmo.position * window.served.template.unit)
    means = window.served.session.workspace.gaussians.means.double()
    radius = window.served.canvas.solid.size[0] / 2
    assert np.array_equal(window.selected(), ((means - center).norm(dim=1) <= radius).numpy())
    window.shoot("15-ball-moved")


def test_a_phone_shows_the_picture_above_the_panel_and_is_tapped(open_window: Any, known: KnownScene) -> None:
    """viser's panel covered 68 % of the width and 60 % of the height, and so the middle of the picture."""
    window = open_window(390, 844, phone=True)
    window.page.add_style_tag(content=".mantine-Notification-root {display: none}")  # viser's note lies over the canvas
    sheet = window.page.get_by_role("tab", name="Select").locator("xpath=ancestor::div[contains(@style, 'fixed')]")
    box = sheet.first.bounding_box()
    assert box["width"] == 390 and box["height"] <= 0.41 * 844 and box["y"] + box["height"] == pytest.approx(844, abs=1)
    places = {name: window.place_of(known.leaf(name)) for name in ("mushroom/cap", "snowman/belly")}
    seen = {name: place for name, place in places.items() if 0 < place[0] < 390 and 0 < place[1] < box["y"]}
    assert seen, places
    for _ in range(2):
        for name, place in seen.items():
            window.gesture(lambda place=place: window.page.touchscreen.tap(*place))
            assert np.array_equal(window.selected(), known.inside(known.leaf(name), 2))
        window.gesture(lambda: window.served.act(window.served.session.clear))
    window.shoot("24-phone")


def errors_at(browser: Any, port: int, ready: Callable[[Any], object]) -> list[str]:
    """What a page's console says is wrong until it is ready and has been drawn."""
    page = browser.new_context().new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address(port), timeout=PATIENCE * 1000)
    ready(page)
    page.evaluate(FRAMES, 5)
    page.context.close()
    return said


def test_the_console_tells_of_nothing_but_visers_own_nan(launch: Callable[[], Any], viewer: Any) -> None:
    """Its quad for splats has corners without a depth: a program of one splat and nothing else has that line, too."""
    bare = viser.ViserServer(port=0, verbose=False)
    point = {"centers": np.zeros((1, 3)), "covariances": 0.1 * np.eye(3)[None], "rgbs": np.ones((1, 3))}
    bare.scene.add_gaussian_splats("/one", opacities=np.ones((1, 1)), **point)
    browser = launch()
    try:
        for _ in range(2):
            theirs = errors_at(browser, bare.get_port(), lambda page: page.wait_for_timeout(5000))
            ours = errors_at(browser, viewer.port, wait_for_widgets)
            assert len(theirs) == 1 and "Computed radius is NaN" in theirs[0]
            assert set(ours) <= set(theirs)
    finally:
        browser.close()
        bare.stop()
