"""The headless viewer on a splat with three known objects of two parts each."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from known_run import KnownRun, make_run, part

import splatseg
from splatseg.core.errors import SplatsegError
from splatseg.core.label_tree import tree_from_leaves
from splatseg.core.selection import Selection
from splatseg.session import Cancelled, Change, Job, Session


@pytest.fixture
def known(tmp_path: Path) -> KnownRun:
    return make_run(tmp_path)


@pytest.fixture
def session(known: KnownRun) -> Session:
    return Session(known.workspace)


def click(session: Session, known: KnownRun, number: int, mode: str = "replace") -> Selection:
    return session.click("front", *known.splat.pixel_of(number), mode=mode)  # type: ignore[arg-type]


def test_click_lights_up_the_part_and_the_levels_climb_to_the_object(known: KnownRun, session: Session) -> None:
    assert click(session, known, 2) == part(known, 2)
    assert session.active is not None and len(session.active.levels) >= 2
    found = [session.set_level(i) for i in range(len(session.active.levels))]
    assert found[0] == part(known, 2) and part(known, 2, 3) in found
    for small, large in itertools.pairwise(found):
        assert len(small - large) == 0  # nested


def test_a_run_folder_is_all_a_script_needs(known: KnownRun) -> None:
    session = splatseg.Session(str(known.workspace.run.folder))
    assert session.click(known.splat.camera, *known.splat.pixel_of(2)) == part(known, 2)


def test_threshold_refines_without_new_scores(known: KnownRun, session: Session) -> None:
    click(session, known, 2)
    assert session.active is not None
    scores = session.active.scores
    assert session.set_threshold(0.5) == part(known, 2, 3)
    assert session.set_threshold(0.9) == part(known, 2)
    assert session.active.scores is scores and session.active.level is None


def test_one_drag_of_a_slider_is_one_step_of_undo(known: KnownRun, session: Session) -> None:
    """Two moves of one slider were one step, however far apart."""
    before = click(session, known, 2)
    for drag in (1, 2):
        for threshold in (0.9, 0.7, 0.5, 0.3 if drag == 1 else 0.9):
            session.set_threshold(threshold, drag)
    session.set_level(1, 2)  # another slider
    assert session.selection == part(known, 2, 3)
    for _ in range(2):
        assert session.undo().selection == part(known, 2)
        assert session.undo().selection == part(known, 2, 3)
        assert session.undo().selection == before
        for _ in range(3):
            session.redo()
    session.set_level(0)
    session.set_level(1)  # no drag: a step each
    assert session.undo().selection == part(known, 2)


def test_sliders_without_a_click_say_so(session: Session) -> None:
    with pytest.raises(SplatsegError, match="click one first"):
        session.set_threshold(0.5)
    assert not session.can_undo


def test_add_and_subtract(known: KnownRun, session: Session) -> None:
    click(session, known, 0)
    assert click(session, known, 4, "add") == part(known, 0, 4)
    session.set_threshold(0.5)  # moves the last click only
    assert session.selection == part(known, 0, 4, 5)
    assert click(session, known, 5, "subtract") == part(known, 0, 4)


def test_subtract_changes_the_score_not_only_the_set(known: KnownRun, session: Session) -> None:
    click(session, known, 2)
    session.set_threshold(0.5)
    click(session, known, 3, "subtract")
    assert session.active is not None
    assert float(session.active.scores.values[known.splat.parts == 3].max()) < -0.9
    # However far the threshold is lowered, the part stays out.
    assert len(session.set_threshold(-0.5) & part(known, 3)) == 0


def test_subtract_from_a_rectangle_takes_the_clicked_part_out(known: KnownRun, session: Session) -> None:
    seen = session.rectangle("front", ((0, 0), (48, 32)))
    assert len(seen & part(known, 1)) and len(seen & part(known, 0))
    assert click(session, known, 1, "subtract") == seen - part(known, 1)


def test_subtract_where_it_was_clicked_takes_it_back(known: KnownRun, session: Session) -> None:
    """The wanted and the unwanted click are the same there, so that no score can tell them apart."""
    click(session, known, 0)
    click(session, known, 4, "add")
    assert click(session, known, 4, "subtract") == part(known, 0)
    session.set_threshold(0.5)  # the other thing can still be refined
    assert session.selection == part(known, 0, 1)
    assert len(click(session, known, 0, "subtract") & part(known, 0)) == 0
    assert session.selection == part(known, 1)


def test_subtract_from_nothing_says_so(known: KnownRun, session: Session) -> None:
    with pytest.raises(SplatsegError, match="nothing"):
        click(session, known, 1, "subtract")


def test_intersect_click_keeps_the_common_part(known: KnownRun, session: Session) -> None:
    click(session, known, 2)
    session.set_threshold(0.5)
    assert click(session, known, 3, "intersect") == part(known, 3)


def test_click_into_empty_space_or_outside_changes_nothing(known: KnownRun, session: Session) -> None:
    before = click(session, known, 2)
    for u, v in ((0, 0), (48, 5), (-1, 5)):
        with pytest.raises(SplatsegError):
            session.click("front", u, v)
    assert session.selection == before
    assert session.undo().selection == Selection.none(len(known.workspace))


def test_unknown_view_and_mode_are_named(known: KnownRun, session: Session) -> None:
    with pytest.raises(SplatsegError, match="'back'"):
        session.click("back", 1, 1)
    with pytest.raises(SplatsegError, match="mode"):
        click(session, known, 2, "xor")


def test_rectangle_modes(known: KnownRun, session: Session) -> None:
    u, v = known.splat.pixel_of(2)
    found = session.rectangle("front", ((u - 2, v - 2), (u + 3, v + 3)))
    assert len(found) > 0 and len(found - part(known, 2)) == 0
    click(session, known, 2)
    assert session.rectangle("front", ((u - 2, v - 2), (u + 3, v + 3)), "subtract") == part(known, 2) - found
    with pytest.raises(SplatsegError, match="empty space"):
        session.rectangle("front", ((0, 0), (1, 1)))


def test_sets_invert_clear_and_undo_of_every_step(known: KnownRun, session: Session) -> None:
    states = [session.selection, click(session, known, 0)]
    session.keep("left")
    states.append(session.selection)
    states.append(session.rectangle("front", ((0, 0), (48, 32))))
    states.append(session.combine("left", "subtract"))
    states.append(session.invert())
    assert session.selection == ~(states[3] - part(known, 0))
    states.append(session.clear())
    for expected in reversed(states[:-1]):
        assert session.undo().selection == expected
    assert not session.can_undo and session.objects == ()
    for expected in states[1:]:
        assert session.redo().selection == expected
    assert not session.can_redo and [o.name for o in session.objects] == ["left"]


def test_objects_keep_rename_recolor_delete_and_their_undo(known: KnownRun, session: Session) -> None:
    click(session, known, 2)
    kept = session.keep("mug\n ")
    assert kept.name == "mug" and len(kept) == len(part(known, 2))
    session.rename("mug", "cup")
    session.recolor("cup", (1, 2, 3))
    assert session.objects[0].name == "cup" and session.objects[0].color == (1, 2, 3)
    session.delete(kept.id)
    assert session.objects == ()
    session.undo()
    session.undo()
    assert session.objects[0].name == "cup" and session.objects[0].color == kept.color
    for bad in (
        lambda: session.keep(" \n"),
        lambda: session.recolor("cup", (0, 0, 300)),
        lambda: session.delete("tea"),
    ):
        with pytest.raises(SplatsegError):
            bad()


def test_nothing_selected_cannot_be_kept(session: Session) -> None:
    with pytest.raises(SplatsegError, match="nothing"):
        session.keep("air")


def test_what_is_hidden_is_neither_selected_nor_hit(known: KnownRun, session: Session) -> None:
    click(session, known, 2)
    hidden = session.hide_selection()
    assert len(session.selection) == 0
    with pytest.raises(SplatsegError, match="empty space"):
        click(session, known, 2)
    assert len(session.rectangle("front", ((0, 0), (48, 32))) & part(known, 2)) == 0
    assert len(session.clear()) == 0 and len(session.invert() & part(known, 2)) == 0
    session.show(hidden.id)
    assert click(session, known, 2) == part(known, 2)


def test_isolate_is_of_this_session_only(known: KnownRun, session: Session) -> None:
    other = Session(known.workspace)
    click(session, known, 2)
    session.keep("mug")
    session.isolate("mug")
    assert len(session.invert()) == 0
    with pytest.raises(SplatsegError, match="empty space"):
        click(session, known, 0)
    assert click(other, known, 0) == part(known, 0)
    session.isolate(None)
    assert click(session, known, 0) == part(known, 0)


def test_sessions_share_objects_but_not_selections(known: KnownRun, session: Session) -> None:
    other = Session(known.workspace)
    heard = []
    known.workspace.shared.listen(lambda: heard.append(len(other.objects)))
    click(session, known, 0)
    click(other, known, 4)
    session.keep("mine")
    assert [o.name for o in other.objects] == ["mine"] and heard == [1]
    assert other.selection == part(known, 4)
    assert len(session.undo().selection) and other.objects == ()


def give_labels(known: KnownRun) -> None:
    """The known objects and parts as the label tree: 1..3 are the objects, 4..9 their parts."""
    tree = tree_from_leaves(known.splat.parts.numpy(), [np.arange(6) // 2, np.arange(6)], 0)
    known.workspace.shared.apply(Change(trees=((None, 0), (tree, 0))))


def test_discretize_labels_everything_and_is_undone(known: KnownRun, session: Session) -> None:
    with pytest.raises(SplatsegError, match="divide it first"):
        session.pick_label("front", *known.splat.pixel_of(0))
    job = Job()
    tree = session.discretize(job=job)
    assert bool((tree.labels > 0).all()) and job.share == 1
    assert session.tree is tree and session.label_level == tree.default_level
    session.undo()
    assert session.tree is None


def test_discretize_can_be_cancelled(session: Session) -> None:
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        session.discretize(job=job)
    assert session.tree is None and not session.can_undo


def test_pick_labels_at_the_shown_level(known: KnownRun, session: Session) -> None:
    give_labels(known)
    assert session.pick_label("front", *known.splat.pixel_of(2)) == part(known, 2, 3)
    session.set_label_level(1)
    assert session.pick_label("front", *known.splat.pixel_of(2)) == part(known, 2)
    with pytest.raises(SplatsegError, match="level"):
        session.set_label_level(2)
    with pytest.raises(SplatsegError, match="empty space"):
        session.pick_label("front", 0, 0)


def test_merge_two_labels_and_split_one(known: KnownRun, session: Session) -> None:
    give_labels(known)
    session.pick_label("front", *known.splat.pixel_of(0))
    session.pick_label("front", *known.splat.pixel_of(4), mode="add")
    first, second = session.selected_labels()
    merged = session.merge_labels()
    assert merged == first and session.selected_labels() == (first,)
    assert session.selection == part(known, 0, 1, 4, 5)
    assert len(session.split_label()) == 2
    session.undo()
    session.undo()
    assert session.selected_labels() == (first, second)


def test_split_puts_known_parts_in_place_of_their_label(known: KnownRun, session: Session) -> None:
    give_labels(known)
    session.pick_label("front", *known.splat.pixel_of(2))
    parts = session.split_label()
    assert session.tree is not None and session.label_level == 0
    assert {frozenset(session.tree.selection(p).ids.tolist()) for p in parts} == {
        frozenset(part(known, i).ids.tolist()) for i in (2, 3)
    }
    assert session.pick_label("front", *known.splat.pixel_of(3)) == part(known, 3)


def test_split_of_a_leaf_parts_it_by_feature(known: KnownRun, session: Session) -> None:
    tree = tree_from_leaves(known.splat.objects.numpy(), [np.arange(3)], 0)
    known.workspace.shared.apply(Change(trees=((None, 0), (tree, 0))))
    session.pick_label("front", *known.splat.pixel_of(2))
    session.split_label()
    assert session.pick_label("front", *known.splat.pixel_of(2)) == part(known, 2)
    with pytest.raises(SplatsegError, match="alike"):
        session.split_label()


def test_split_can_be_cancelled(known: KnownRun, session: Session) -> None:
    tree = tree_from_leaves(known.splat.objects.numpy(), [np.arange(3)], 0)
    known.workspace.shared.apply(Change(trees=((None, 0), (tree, 0))))
    chosen = session.pick_label("front", *known.splat.pixel_of(2))
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        session.split_label(job=job)
    assert session.tree is tree and session.selection == chosen


def test_merge_and_split_say_what_they_need(known: KnownRun, session: Session) -> None:
    session.discretize()
    session.clear()
    with pytest.raises(SplatsegError, match="two whole labels"):
        session.merge_labels()
    with pytest.raises(SplatsegError, match="one whole label"):
        session.split_label()
