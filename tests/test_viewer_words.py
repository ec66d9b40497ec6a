"""What a window tells: that its words are true to what is drawn, plain, and said when something was or was not done."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest

pytest.importorskip("viser", reason="the viewer's extra is not installed")

from known_run import KnownRun
from PIL import Image
from viser._icons import svg_from_icon
from viser_client import HeadlessWindow, get, wait_for

from splatseg.core.label_tree import tree_from_leaves
from splatseg.session import Change, Session
from splatseg.session.colors import DISPLAY_MODES, Look, Painter, depth_range
from splatseg.session.legend import MOST_NAMES, legend
from splatseg.viewer import Viewer
from splatseg.viewer.app import BACK
from splatseg.viewer.panels.lit import LOOKS
from splatseg.viewer.status import MARKS, NAME_LETTERS, legend_html, plain, short


def click(window: HeadlessWindow, known: KnownRun, part: int, modifier: str | None = None) -> None:
    window.click(*known.splat.pixel_of(part), modifier)


def size(known: KnownRun, *parts: int) -> int:
    return int(np.isin(known.splat.parts.numpy(), parts).sum())


def selects(window: HeadlessWindow, count: int) -> None:
    wait_for(f"{count} selected", lambda: window.selected == count)


def says(window: HeadlessWindow, words: str) -> None:
    wait_for(f"the words {words!r}", lambda: words in window.status)


@pytest.mark.parametrize(
    ("contract", "said"),
    [
        (
            "merge: expected two whole labels selected, found 1; click one, Shift-click another",
            "Merge needs two whole labels selected, but there is 1: click one, Shift-click another",
        ),
        ("keep: expected something selected, found nothing", "Keep needs something selected, but there is none"),
        (
            "labels: expected them unchanged while it ran, found them changed in another window; divide again",
            "Labels needs them unchanged while it ran, but found them changed in another window: divide again",
        ),
        ("Cancelled", "Cancelled"),
    ],
)
def test_contracts_are_said_in_plain_words(contract: str, said: str) -> None:
    assert plain(contract) == said and "expected" not in plain(contract)


def test_nothing_selected_is_said_so_and_how_to_begin(known: KnownRun, window: HeadlessWindow) -> None:
    says(window, "Nothing selected")
    says(window, "Shift-click adds")
    for _ in range(2):
        click(window, known, 2)
        selects(window, size(known, 2))
        says(window, "last click: part, level 1 of")
        says(window, "of the scene's surface")
        assert "Shift-click" not in window.status
        window.press("Clear")
        selects(window, 0)
        assert "level" not in window.status and "%" not in window.status


def test_the_dropdown_names_what_is_drawn(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    """It said "heat map" while photo colors were drawn, asked for without a click or cleared afterwards."""
    (served,) = viewer.windows.values()
    for _ in range(2):
        window.put("Show", "heat map of the last click")
        says(window, "Heat map needs a clicked thing, but there is none: click one first")
        wait_for("the true name", lambda: window.value("Show") == "photo colors")
        click(window, known, 2)
        selects(window, size(known, 2))
        window.put("Show", "heat map of the last click")
        wait_for("the heat map", lambda: served.look.mode == "scores")
        window.press("Clear")
        wait_for("the true name", lambda: window.value("Show") == "photo colors" and served.look.mode == "photo")
        window.put("Show", "depth")
        wait_for("depth", lambda: served.look.mode == "depth")
        window.put("Show", "photo colors")
        wait_for("photo colors", lambda: served.look.mode == "photo")


def test_every_data_look_has_a_key_with_values(known: KnownRun) -> None:
    session, camera = Session(known.workspace), known.splat.camera
    session.click("front", *known.splat.pixel_of(2))
    session.keep("<b>mug</b>")
    keys = {mode: legend(session, Look(mode), camera) for mode in DISPLAY_MODES}
    assert keys["photo"] is None and legend_html(None) == ""
    low, high = depth_range(known.splat.gaussians, camera)
    depth = keys["depth"]
    assert depth is not None and [text for _, text in depth.ticks] == [
        f"{x:.3g}" for x in (high, (low + high) / 2, low)
    ]
    painter = Painter(session, known.splat.parts.nonzero()[:, 0])
    near = int(camera.project(known.splat.gaussians.means[painter.ids])[1].argmin())
    packed = int(painter.paint(Look("depth"), camera)[near])
    assert np.abs(np.array(depth.ramp[-1]) - [packed & 255, packed >> 8 & 255, packed >> 16 & 255]).max() < 40
    scores = keys["scores"]
    assert scores is not None and [text for _, text in scores.ticks] == ["0.00", "0.38", "0.71", "0.92", "1.00"]
    assert session.active is not None and f"{session.active.threshold:.2f}" in scores.title
    features = keys["features"]
    assert features is not None and sum(float(name.split()[2][:-1]) for _, name in features.names) <= 101
    labels = keys["labels"]
    assert labels is not None and labels.names[0] == (session.objects[0].color, f"<b>mug</b> ({size(known, 2)})")
    assert "&lt;b&gt;mug" in legend_html(labels) and "<b>" not in legend_html(labels)
    session.discretize()
    for number in range(MOST_NAMES + 3):
        session.combine("<b>mug</b>", "replace")
        session.keep(f"again {number}")
    many = legend(session, Look("labels"))
    assert many is not None and len(many.names) == MOST_NAMES + 1 and "more" in many.names[-1][1]


def test_the_key_stands_in_the_view_tab(known: KnownRun, window: HeadlessWindow) -> None:
    for _ in range(2):
        window.put("Show", "depth")
        wait_for("the key", lambda: window.markup("Distance from the camera"))
        window.put("Show", "photo colors")
        wait_for("it to go", lambda: not window.markup("Distance from the camera"))


def test_an_object_shown_alone_is_in_its_own_colors(known: KnownRun) -> None:
    """With a part of it selected the rest of it was gray."""
    session = Session(known.workspace)
    session.click("front", *known.splat.pixel_of(2))
    session.set_level(1)
    whole = session.keep("whole")
    session.set_level(0)
    painter = Painter(session, known.splat.parts.nonzero()[:, 0])
    rest = np.isin(known.splat.parts[painter.ids].numpy(), [3])
    plain_colors = painter.paint(Look(dim=False, highlight=False))
    assert not np.array_equal(painter.paint(Look())[rest], plain_colors[rest])
    session.isolate(whole.id)
    assert np.array_equal(painter.paint(Look())[rest], plain_colors[rest])


def test_gestures_that_change_nothing_say_so_and_ctrl_subtracts(known: KnownRun, window: HeadlessWindow) -> None:
    for _ in range(2):
        click(window, known, 2)
        selects(window, size(known, 2))
        click(window, known, 5, "alt")
        says(window, "nothing was taken out")
        click(window, known, 2, "shift")
        says(window, "nothing was added")
        click(window, known, 5, "shift")
        selects(window, size(known, 2, 5))
        assert "nothing was" not in window.status
        click(window, known, 5, "cmd/ctrl")  # as in SuperSplat; with a drag it draws a rectangle
        selects(window, size(known, 2))
        window.press("Clear")
        selects(window, 0)


def test_merge_and_split_tell_what_they_did(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    tree = tree_from_leaves(known.splat.parts.numpy(), [np.arange(6) // 2, np.arange(6)], 0)
    shared = known.workspace.shared
    for _ in range(2):
        shared.apply(Change(trees=((shared.content.tree, shared.content.level), (tree, 0))))
        window.put("Click picks whole labels", True)
        wait_for("the labels", lambda: window.enabled("Level"))
        click(window, known, 0)
        selects(window, size(known, 0, 1))
        window.press("Merge")
        says(window, "Merge needs two whole labels selected, but there is 1: click one, Shift-click another")
        click(window, known, 2, "shift")
        selects(window, size(known, 0, 1, 2, 3))
        window.press("Merge")
        says(window, f"✓ 2 labels are now one: '1', {size(known, 0, 1, 2, 3)} Gaussians")
        click(window, known, 4)
        selects(window, size(known, 4, 5))
        window.press("Split")
        sizes = sorted((size(known, 4), size(known, 5)), reverse=True)
        says(window, f"✓ split into 2 labels of {sizes[0]}, {sizes[1]} Gaussians")
        window.press("Find floaters")  # another job: the old message does not stay under it
        wait_for("the word to go", lambda: "split into" not in window.status)
        wait_for("the job to end", lambda: all(served.job is None for served in viewer.windows.values()))
        window.press("Clear")
        selects(window, 0)


def test_levels_are_chosen_by_name_and_by_key(known: KnownRun, window: HeadlessWindow) -> None:
    """The names stood under the slider as if they could be clicked."""
    window.press("group")
    says(window, "click one first")
    for _ in range(2):
        click(window, known, 2)
        selects(window, size(known, 2))
        window.press("object")
        selects(window, size(known, 2, 3))
        window.press("part")
        selects(window, size(known, 2))
        window.press("group")
        wait_for("the largest", lambda: window.selected > size(known, 2, 3) or "is shown" in window.status)
        window.press("part")
        selects(window, size(known, 2))
        window.key("Larger level")
        selects(window, size(known, 2, 3))
        window.key("Smaller level")
        selects(window, size(known, 2))
        window.key("Clear the selection, or the lasso")
        selects(window, 0)


def test_keys_keep_hide_and_look_at_the_selection(known: KnownRun, viewer: Viewer, window: HeadlessWindow) -> None:
    (served,) = viewer.windows.values()
    window.key("Look at the selection")
    says(window, "Focus needs something selected")
    for number, part in enumerate((2, 4)):
        assert not window.enabled("Keep as object")
        click(window, known, part)
        selects(window, size(known, part))
        wait_for("the button to be lit", lambda: window.enabled("Keep as object"))
        window.key("Look at the selection")
        center = known.splat.gaussians.means[known.splat.parts == part].mean(0).numpy() / served.template.unit
        wait_for(
            "the camera to turn around it",
            lambda center=center: (
                np.abs(np.array(window.moved.get("SetCameraLookAtMessage", np.inf)) - center).max() < 0.5
            ),
        )
        window._send_camera()  # as a browser would that is moved back
        window.key("Keep as object")
        wait_for("the object", lambda n=number: len(window.objects()) == 2 * n + 1)
        window.key("Hide the selection")
        selects(window, 0)
        says(window, "Objects → hidden")
        wait_for("the hidden one", lambda n=number: len(window.objects()) == 2 * n + 2)


def test_long_names_do_not_break_the_lists(known: KnownRun, window: HeadlessWindow) -> None:
    name = "m" * 200
    for number in range(2):
        click(window, known, 2)
        selects(window, size(known, 2))
        window.put("Name", name)
        wait_for("the name to arrive", lambda: window.value("Name") == name)
        window.press("Keep as object")
        wait_for("the object", lambda n=number: len(window.objects()) == n + 1)
        assert all(len(label.split(" · ")[0]) == NAME_LETTERS for label in window.objects())
        wait_for("the list", lambda: "text-overflow:ellipsis" in window.markup("mmm"))
    assert short("a" * NAME_LETTERS) == "a" * NAME_LETTERS
    assert max(map(len, window.widgets[window.find("Object")]["props"]["options"])) < NAME_LETTERS + 6


def test_a_page_loaded_anew_stands_as_it_was_left(known: KnownRun, viewer: Viewer) -> None:
    """Camera, look and mode were lost, and it was greeted with "back where the connection was lost"."""
    storage: dict[str, str] = {}
    start, side = known.splat.camera, known.workspace.views[1].camera
    for turn in range(2):
        window = HeadlessWindow(viewer.port, start, storage)
        (served,) = viewer.windows.values()
        if turn:
            says(window, BACK)
            unit = served.template.unit
            position = wait_for("the camera", lambda w=window: w.moved.get("SetCameraPositionMessage"))
            np.testing.assert_allclose(np.array(position) * unit, side.position.numpy(), atol=1e-4)
            assert window.value("Show") == "depth" and window.value("Click does") == "add (Shift)"
            assert window.value("Click picks whole labels") is True and served.choices.photo_selection is False
        window.put("Show", "depth")
        window.put("Click does", "add (Shift)")
        window.put("Click picks whole labels", True)
        window.put("Selection on the photo", False)
        window.camera = side
        window._send_camera()
        wait_for(
            "the camera to arrive",
            lambda s=served: np.abs(s.camera().position.numpy() - side.position.numpy()).max() < 1e-4,
        )
        wait_for("the choices", lambda s=served: s.choices.look.mode == "depth" and not s.choices.photo_selection)
        window.close()
        wait_for("the end of the window", lambda: not viewer.windows)


def test_images_have_the_size_asked_for(known: KnownRun, window: HeadlessWindow) -> None:
    for width, height in ((64, 40), (30, 50)):
        window.put("Image size", (width, height))
        window.downloads.pop("view.png", None)
        window.press("Image of this view (PNG)")
        wait_for("the image", lambda: "view.png" in window.downloads and not window.bar)
        assert Image.open(io.BytesIO(window.downloads["view.png"])).size == (width, height)


def test_the_photo_floats_and_fades_to_the_splat(window: HeadlessWindow) -> None:
    """Docked beside the canvas it left a strip of it; now it lies over a corner."""
    for _ in range(2):
        window.press("Next")
        uuid = wait_for("the photo", lambda: window.find("front.png") or window.find("side.png"))

        def picture(uuid: str = uuid) -> np.ndarray:
            data = window.widgets[uuid]["props"]["_data"]
            return np.asarray(Image.open(io.BytesIO(data)), dtype=int)

        wait_for("its pixels", lambda uuid=uuid: window.widgets[uuid]["props"].get("_data"))
        assert np.abs(picture() - 120).max() < 6  # the photos of this run are gray
        window.put("Fade to splat", 1.0)
        wait_for("what is drawn", lambda: np.abs(picture() - 120).max() > 100)
        window.put("Fade to splat", 0.0)
        wait_for("the photo again", lambda: np.abs(picture() - 120).max() < 6)
        window.put("Photo", "free camera")
        wait_for("the panel to go", lambda: not window.find("front.png") and not window.find("side.png"))


def test_the_open_tab_is_known_and_the_first_of_a_page_that_is_loaded_anew(known: KnownRun, viewer: Viewer) -> None:
    storage: dict[str, str] = {}
    for first, then in (("Select", "View"), ("View", "Files"), ("Files", "Objects")):
        window = HeadlessWindow(viewer.port, known.splat.camera, storage)
        (served,) = viewer.windows.values()
        assert window.tabs[0] == first  # a page opens it
        window.open_tab(first)
        wait_for("all in their places", lambda w=window: w.tabs == ["Select", "Objects", "Labels", "View", "Files"])
        for tab in ("Labels", first, "Labels", then):
            window.open_tab(tab)
            wait_for("the tab", lambda s=served, tab=tab: s.choices.tab == tab)
        address = window.picture_of("Select" if then != "Select" else "View")
        window.close()
        wait_for("its end", lambda: not viewer.windows)
        choice = served.choices.tab
        assert address is None or get(viewer.port, address).status == 204
        assert served.choices.tab == choice == then and not viewer._fetches._told  # nobody listens any more


def test_buttons_have_icons_and_tooltips_and_one_accent(known: KnownRun, window: HeadlessWindow) -> None:
    """They had neither icons nor, most of them, a word on what they do; two were green beside the blue ones."""
    for turn in range(2):
        window.click(*known.splat.pixel_of(turn))
        wait_for("the selection", lambda: window.selected > 0)
        window.press("Keep as object")
        wait_for("its row", lambda turn=turn: len(window.objects()) == turn + 1)
        buttons = [w["props"] for _, w in window._all() if w["type"] == "GuiButtonMessage"]
        assert len(buttons) > 30
        for props in buttons:
            assert "<svg" in props["_icon_html"] and props["hint"], props["label"]
            assert props["color"] in (None, "gray"), "red is for Cancel while something runs"
    assert len({icon for icon, _ in LOOKS.values()}) <= svg_from_icon.cache_info().maxsize, "each is read once"


def test_words_can_be_read_in_both_themes() -> None:
    """Green and red of the light theme were hardly to be read on the dark one's gray."""

    def luminance(color: str) -> float:
        shares = np.array([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)])
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for kind in ("done", "failed"):
        light, dark = re.findall("#[0-9a-f]{6}", MARKS[kind][1])  # type: ignore[index]
        for color, page in ((light, "#ffffff"), (dark, "#242424")):
            least, most = sorted((luminance(color), luminance(page)))
            assert (most + 0.05) / (least + 0.05) > 4.5
        assert MARKS[kind][1].startswith("light-dark(")  # type: ignore[index]
