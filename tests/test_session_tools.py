"""The selection tools of a session: one step of undo each, on what is visible, whatever another window does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known_run import KnownRun, click, make_run, part

from splatseg.core.errors import SplatsegError
from splatseg.core.label_tree import tree_from_leaves
from splatseg.core.selection import Selection
from splatseg.io.ply import load_gaussians
from splatseg.segment.properties import PROPERTIES
from splatseg.session import Cancelled, Change, Job, Session
from splatseg.session.colors import Look, Painter
from splatseg.session.exports import export_without
from splatseg.session.search import search, select_found

Tool = Callable[[Session], Selection]
LASSO = ((18.0, 1.0), (30.0, 1.0), (30.0, 31.0), (18.0, 31.0))  # around the object in the middle, parts 2 and 3


@pytest.fixture
def known(tmp_path: Path) -> KnownRun:
    return make_run(tmp_path)


@pytest.fixture
def mine(known: KnownRun) -> Session:
    return Session(known.workspace)


@pytest.fixture
def other(known: KnownRun) -> Session:
    return Session(known.workspace)


TOOLS: dict[str, Tool] = {  # each from part 2 and a bit of part 4, with which it does something
    "invert": lambda s: s.invert(),
    "lasso": lambda s: s.lasso("front", LASSO),
    "lasso through": lambda s: s.lasso("front", LASSO, through=True),
    "rectangle through": lambda s: s.rectangle("front", (LASSO[0], LASSO[2]), through=True),
    "brush": lambda s: s.brush("front", [(22.0, 16.0), (26.0, 10.0)], 4.0, mode="replace"),
    "box": lambda s: s.select_box((0.0, 0.0, 0.0), (1.0, 2.0, 1.0)),
    "sphere": lambda s: s.select_sphere((2.0, 0.0, 0.0), 0.7),
    "grow": lambda s: s.grow(),
    "grow by feature": lambda s: s.grow("feature"),
    "shrink": lambda s: s.shrink(),
    "fill holes": lambda s: s.fill_holes(),
    "largest": lambda s: s.keep_connected(),
    "clicked": lambda s: s.keep_connected("click"),
    "by size": lambda s: s.select_by("size", 0.0, 1.0),
    "by opacity": lambda s: s.select_by("opacity", 0.9),
    "by color": lambda s: s.select_by("color", None, 5.0, color=(128, 128, 128)),
    "by anisotropy": lambda s: s.select_by("anisotropy", 1.0, 1.5),
    "by distance": lambda s: s.select_by("distance", None, 6.2),
    "by views": lambda s: s.select_by("views", 2),
}


def prepared(session: Session, known: KnownRun) -> Selection:
    """Part 2 with a hole, and a bit of part 4, clicked last."""
    bits = part(known, 2).mask.clone()
    bits[part(known, 2).ids[[30, 31]]] = False
    bits[part(known, 4).ids[:40]] = True
    click(session, known, 4)
    return session.combine(Selection(bits), "replace")


@pytest.mark.parametrize("name", TOOLS)
def test_each_tool_is_one_step_that_two_windows_do_not_share(
    known: KnownRun, mine: Session, other: Session, name: str
) -> None:
    before = prepared(mine, known)
    theirs = click(other, known, 0)
    after = TOOLS[name](mine)
    assert after == mine.selection and after != before and len(after)
    for _ in range(2):
        assert mine.undo().selection == before
        assert mine.redo().selection == after
    assert other.selection == theirs
    other.keep("thing")
    other.show("thing", False)
    assert len(mine.selection & part(known, 0)) == 0
    mine.undo()
    again = TOOLS[name](mine)
    assert len(again & part(known, 0)) == 0, "what is hidden was selected"
    assert again == Selection(after.mask & ~part(known, 0).mask)
    other.show("thing")
    mine.undo()
    assert mine.selection == before


def test_lassos_of_all_modes_seen_and_through(known: KnownRun, mine: Session) -> None:
    centers = known.splat.camera.project(known.splat.gaussians.means)[0]
    inside = ((centers >= torch.tensor(LASSO[0])) & (centers <= torch.tensor(LASSO[2]))).all(1)
    through = mine.lasso("front", LASSO, through=True)
    assert torch.equal(through.mask, inside) and through == part(known, 2, 3)
    seen = mine.lasso("front", LASSO)
    assert len(seen - through) == 0 and len(seen) < len(through)
    click(mine, known, 0)
    assert mine.lasso("front", LASSO, mode="add") == part(known, 0) | seen
    assert mine.active is not None  # the slider still moves what was clicked
    assert mine.set_threshold(0.5) == part(known, 0, 1) | seen
    assert mine.lasso("front", LASSO, True, "subtract") == part(known, 0, 1)
    with pytest.raises(SplatsegError, match="empty space"):
        mine.lasso("front", ((0, 0), (2, 0), (0, 2)))
    assert mine.selection == part(known, 0, 1)


def test_a_brush_takes_what_its_path_covers(known: KnownRun, mine: Session) -> None:
    centers = known.splat.camera.project(known.splat.gaussians.means)[0]
    path = (known.splat.pixel_of(0), known.splat.pixel_of(2))
    start, end = (torch.tensor(place, dtype=torch.float64) for place in path)
    along = ((centers - start) @ (end - start) / (end - start).square().sum()).clamp(0, 1)
    covered = (centers - start - along[:, None] * (end - start)).norm(dim=1) <= 3
    assert mine.brush("front", path, 3.0, through=True, mode="replace").mask.tolist() == covered.tolist()
    seen = mine.brush("front", path, 3.0, mode="replace")
    assert 0 < len(seen) < int(covered.sum()) and len(seen - Selection(covered)) == 0
    dabs = [mine.brush("front", [place], 3.0) for place in path]
    assert len(dabs[-1] - seen) == 0, "dabs add to what is there"
    taken = mine.brush("front", [path[0]], 3.0, mode="subtract")
    assert 0 < len(taken) < len(seen)
    assert mine.undo().selection == dabs[-1]
    for bad, word in ((((), 3.0), "positions"), (([(1.0, 1.0)], 0.0), "radius"), (([(-99.0, 0.0)], 3.0), "outside")):
        with pytest.raises(SplatsegError, match=word):
            mine.brush("front", *bad)
    assert mine.selection == dabs[-1]


def test_objects_and_labels_are_found_by_name_class_and_size(known: KnownRun, mine: Session) -> None:
    tree = tree_from_leaves(known.splat.parts.numpy(), [np.arange(6) // 2, np.arange(6)], 0)
    tree = tree.classified(tree.at_level(0)[0].id, "Snowman")
    known.workspace.shared.apply(Change(trees=((None, 0), (tree, 0))))
    click(mine, known, 0)
    mine.keep("Mug of tea")
    assert [(f.kind, f.name) for f in search(mine, "TEA mug")] == [("object", "Mug of tea")]
    assert [f.id for f in search(mine, "label snow")] == [tree.at_level(0)[0].id]
    everything = search(mine, "")
    assert len(everything) == 1 + len(tree.nodes) and everything[0].kind == "object"
    sizes = [f.count for f in everything[1:]]
    assert sizes == sorted(sizes, reverse=True) and len(search(mine, "", most=2)) == 2
    bound = sizes[0] - 1
    assert {f.count for f in search(mine, f"label >{bound}")} == {size for size in sizes if size > bound}
    assert search(mine, f">{bound} <{bound}") == () and search(mine, "nowhere") == ()
    with pytest.raises(SplatsegError, match="number"):
        search(mine, ">many")
    for found in (everything[0], everything[-1]):
        select_found(mine, found)
        assert len(mine.selection) == found.count
        mine.undo()
    mine.delete("Mug of tea")
    with pytest.raises(SplatsegError):
        select_found(mine, everything[0])


def test_solids_add_subtract_and_intersect(known: KnownRun, mine: Session) -> None:
    left, upper = ((-2.0, 0.0, 0.0), (1.2, 2.0, 1.0)), ((0.0, 0.5, 0.0), (6.0, 0.9, 1.0))
    assert mine.select_box(*left) == part(known, 0, 1)
    assert mine.select_box(*upper, mode="intersect") == part(known, 0)
    assert mine.select_sphere((2.0, 0.5, 0.0), 0.8, mode="add") == part(known, 0) | Selection(
        (known.splat.gaussians.means - torch.tensor([2.0, 0.5, 0])).norm(dim=1) <= 0.8
    )
    assert mine.select_sphere((2.0, 0.0, 0.0), 2.0, mode="subtract") == part(known, 0)
    with pytest.raises(SplatsegError, match="empty space"):
        mine.select_sphere((50.0, 0.0, 0.0), 1.0)


def test_growing_stops_at_the_object_and_shrinking_comes_back(known: KnownRun, mine: Session) -> None:
    click(mine, known, 2)
    assert mine.grow(steps=30) == part(known, 2, 3)
    with pytest.raises(SplatsegError, match="found none"):
        mine.grow()
    with pytest.raises(SplatsegError, match="a border"):
        mine.shrink()
    mine.undo()
    smaller = mine.shrink()
    assert len(smaller) < len(part(known, 2)) and len(smaller - part(known, 2)) == 0
    with pytest.raises(SplatsegError, match="all border"):
        mine.shrink(steps=50)
    for by, steps, found in (("touch", 1, "'touch'"), ("space", 0, "at least one step")):
        with pytest.raises(SplatsegError, match=found):
            mine.grow(by, steps)  # type: ignore[arg-type]


def test_what_is_hidden_is_no_bridge(known: KnownRun, mine: Session, other: Session) -> None:
    click(other, known, 3)
    other.keep("lower")
    click(mine, known, 2)
    for visible in (False, True):
        other.show("lower", visible)
        if visible:
            assert mine.grow(steps=30) == part(known, 2, 3)
        else:
            with pytest.raises(SplatsegError, match="beside it"):
                mine.grow(steps=30)
            assert mine.selection == part(known, 2)


def test_the_piece_under_the_click_is_kept(known: KnownRun, mine: Session) -> None:
    click(mine, known, 0)
    mine.combine(part(known, 2, 3), "add")
    assert mine.keep_connected("largest") == part(known, 2, 3)
    mine.undo()
    assert mine.keep_connected("click") == part(known, 0)
    with pytest.raises(SplatsegError, match="more than one piece"):
        mine.keep_connected("click")
    mine.combine(part(known, 2, 4), "replace")
    with pytest.raises(SplatsegError, match="click it first"):
        mine.keep_connected("click")
    mine.click_gaussian(int(part(known, 4).ids[3]))
    mine.combine(part(known, 2, 3), "add")
    assert mine.keep_connected("click") == part(known, 4)
    with pytest.raises(SplatsegError, match="'nearest'"):
        mine.keep_connected("nearest")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PROPERTIES)
def test_selecting_by_a_property_is_what_its_histogram_counts(known: KnownRun, mine: Session, name: Any) -> None:
    color = (200, 128, 90)
    values = mine.property_values(name, color)
    found = mine.histogram(name, 8, color)
    assert found.counts.sum() == len(known.workspace)
    middle = float(values.median())
    chosen = mine.select_by(name, None, middle, color=color)
    assert torch.equal(chosen.mask, values <= middle)
    above = (values > middle).any()
    if above:
        rest = mine.select_by(name, float(np.nextafter(middle, np.inf)), None, color=color)
        assert len(rest & chosen) == 0
    with pytest.raises(SplatsegError, match="found none"):
        mine.select_by(name, 1e9, None, color=color)
    click(mine, known, 0)
    mine.keep("thing")
    mine.show("thing", False)
    assert mine.histogram(name, 8, color).counts.sum() == len(known.workspace) - len(part(known, 0))


def test_a_drag_of_a_property_slider_is_one_step(known: KnownRun, mine: Session) -> None:
    before = click(mine, known, 0)
    values = mine.property_values("distance")
    for drag in (1, 2):
        for bound in (7.0, 6.2, 6.1):
            found = mine.select_by("distance", None, bound, "add", drag=drag)
            assert found == before | Selection(values <= bound)  # of what was there before the drag
        assert mine.undo().selection == before
        mine.redo()
        mine.undo()


def test_tools_without_a_selection_or_photos_say_so(known: KnownRun, mine: Session) -> None:
    for tool in (mine.grow, mine.shrink, mine.fill_holes, mine.keep_connected):
        with pytest.raises(SplatsegError, match="found nothing"):
            tool()
    known.workspace.scene = None
    for name in ("views", "distance"):
        with pytest.raises(SplatsegError, match="photos"):
            mine.select_by(name)  # type: ignore[arg-type]
    with pytest.raises(SplatsegError, match="picked color"):
        mine.select_by("color")
    with pytest.raises(SplatsegError, match="'smell'"):
        mine.histogram("smell")  # type: ignore[arg-type]
    assert not mine.can_undo


# Clean ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stray(tmp_path: Path) -> KnownRun:
    """The known run with three Gaussians of part 0 in the air before the objects."""
    known = make_run(tmp_path)
    places = torch.tensor([[0.9, 1.6, -1.5], [-0.9, -1.6, -1.5], [1.1, -1.7, -1.0]])
    known.workspace.gaussians.means[STRAY] = places
    return known


STRAY = [70, 71, 69]


def test_floaters_are_proposed_in_red_and_removed(stray: KnownRun) -> None:
    mine, other = Session(stray.workspace), Session(stray.workspace)
    click(mine, stray, 4)
    click(other, stray, 4)
    ids = torch.arange(len(stray.workspace))
    orange = Painter(mine, ids)
    for _ in range(2):
        found = mine.propose_floaters()
        assert found.ids.tolist() == sorted(STRAY) and mine.proposing
        red = orange.paint(Look())[STRAY]
        assert (np.uint32(255) & red > 2 * (red >> 8 & 255)).all() and other.selection == part(stray, 4)
        entry = mine.remove_floaters()
        assert entry.name == "floaters 1" and not entry.visible and not len(mine.selection)
        assert (orange.paint(Look())[STRAY] == 0).all()
        with pytest.raises(SplatsegError, match="found nothing"):
            mine.propose_floaters()  # they are out of sight
        other.show(entry.id)
        assert (other.undo().label, mine.undo().label) == ("click", "floaters")
        mine.undo()
        assert mine.selection == part(stray, 4) and not mine.objects


def test_only_what_was_proposed_is_removed(stray: KnownRun) -> None:
    mine = Session(stray.workspace)
    with pytest.raises(SplatsegError, match="find them first"):
        mine.remove_floaters()
    mine.propose_floaters()
    mine.combine(part(stray, 2), "add")
    assert not mine.proposing
    with pytest.raises(SplatsegError, match="another selection"):
        mine.remove_floaters()
    mine.undo()
    assert len(mine.remove_floaters()) == 3
    written = load_gaussians(export_without(mine))
    assert len(written) == len(stray.workspace) - 3


def test_a_scene_without_floaters_says_so(known: KnownRun, mine: Session) -> None:
    click(mine, known, 0)
    with pytest.raises(SplatsegError, match="found nothing"):
        mine.propose_floaters()
    with pytest.raises(Cancelled):
        mine.propose_floaters(job=Stopping())
    assert mine.selection == part(known, 0)


class Stopping(Job):
    """Cancelled at its first report."""

    def report(self, step: str, share: float) -> None:
        self.cancel()
        super().report(step, share)


@pytest.mark.parametrize(
    "tool",
    [
        lambda s, job: s.grow(job=job),
        lambda s, job: s.fill_holes(job=job),
        lambda s, job: s.keep_connected(job=job),
        lambda s, job: s.lasso("front", LASSO, job=job),
        lambda s, job: s.select_by("views", 1, job=job),
    ],
)
def test_cancelled_tools_leave_the_selection(known: KnownRun, mine: Session, tool: Any) -> None:
    before = prepared(mine, known)
    with pytest.raises(Cancelled):
        tool(mine, Stopping())
    assert mine.selection == before
    tool(mine, Job())  # and it can be done after all
    mine.undo()
    assert mine.selection == before
