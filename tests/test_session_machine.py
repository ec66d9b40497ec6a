"""A day of two people on one run, at random: whatever they do, nothing of the other's is lost and all can be undone.

Seeded: the same days each time. ``SPLATSEG_DAYS=500`` lives so many others.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from known_run import make_run, make_scene
from tiny_splat import TinySplat, make_camera, make_splat

from splatseg.core.errors import SplatsegError
from splatseg.core.label_tree import tree_from_leaves
from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.io.labels import load_labels, save_labels
from splatseg.io.ply import load_gaussians
from splatseg.io.run import Run
from splatseg.segment.floaters import FloaterConfig
from splatseg.segment.properties import PROPERTIES
from splatseg.session import Session, Workspace
from splatseg.session.colors import DISPLAY_MODES, Look, Painter, showable
from splatseg.session.exports import export_labels, export_selection, export_without
from splatseg.session.shared import Content
from splatseg.session.state import MODES, Step
from splatseg.session.tool_steps import BYS

SPLAT: TinySplat = make_splat()
LOOSE = FloaterConfig(piece=150, share=0.34, far=0.0, few=2)  # with which objects of this splat are floaters
DEAD = 2**22 + 1  # above every process id of Linux
DAYS = int(os.environ.get("SPLATSEG_DAYS", "0"))

people = st.integers(0, 1)
parts = st.integers(0, 5)
modes = st.sampled_from(MODES)
drags = st.none() | st.integers(1, 2)
places = st.integers(0, 3)  # in the list of objects or labels


class ByHand(Workspace):
    """A workspace whose autosave is written when the test says so."""

    def _autosave_loop(self) -> None:
        return


def value_of(content: Content) -> tuple[Any, ...]:
    """What a file must hold of ``content``."""
    objects = [(o.id, o.name, o.color, o.visible, o.ids.tolist()) for o in content.objects.values()]
    tree = content.tree
    labels = None if tree is None else (tree.labels.tobytes(), [(node.id, node.name) for node in tree.nodes])
    return objects, labels, content.level


def chosen(step: Step | None) -> Selection:
    """All that a step holds, hidden or not."""
    nothing = Selection.none(len(SPLAT.parts))
    if step is None:
        return nothing
    return reduce(Selection.union, (pick.selection() for pick in step.picks), step.fixed)


class Person:
    """A window: a session and the painter that lives as long."""

    def __init__(self, space: Workspace) -> None:
        self.session = Session(space)
        self.painter = Painter(self.session, torch.arange(len(space)))

    def state(self) -> tuple[Any, ...]:
        """All that undo is to bring back; entries and trees are immutable, so that they are compared as objects."""
        session = self.session
        content, step = session.workspace.shared.content, session.step
        picks = tuple((id(pick.scores), pick.threshold, pick.level) for pick in step.picks)
        objects = tuple((key, id(entry)) for key, entry in content.objects.items())
        masks = tuple(mask.numpy().tobytes() for mask in (step.fixed.mask, session.selection.mask))
        return masks, picks, objects, id(content.tree), content.level

    def visible(self) -> torch.Tensor:
        """(n,) bool: what the window draws."""
        return torch.from_numpy(self.painter.paint(Look(dim=False, highlight=False)) >> 24 != 0)


class Day(RuleBasedStateMachine):
    """Two windows on one workspace."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.run = make_run(self.folder).workspace.run
        tree = tree_from_leaves(SPLAT.parts.numpy(), [np.arange(6) // 2, np.arange(6)], 0)
        save_labels(self.run.labels, SPLAT.gaussians, tree)
        self.scene = make_scene(self.folder / "photos")
        self.written: dict[int, tuple[object, int]] = {}  # id of an entry or tree -> it, and whose; oldest first
        self.removed: dict[int, int] = {}  # id of an object -> who took it away last
        self.saved: dict[str, tuple[Any, Selection]] = {}
        self.camera_steps = 0

    @initialize()
    def morning(self) -> None:
        self.open()
        self.note_saved()

    def open(self) -> None:
        self.space = ByHand(Run(self.run.folder), FeatureSplat(SPLAT.gaussians, SPLAT.field), self.scene)
        self.space.adopt_labels()
        self.space.start_autosave()
        self.people = [Person(self.space), Person(self.space)]
        # Of neither: what was there before.
        self.written = {id(o): (o, -1) for o in (*self.content.objects.values(), self.content.tree)}
        self.removed = {}

    def note_saved(self) -> None:
        """What a viewer that starts now must find."""
        self.autosaved = (value_of(self.space.shared.content), chosen(self.space._last_step))

    def teardown(self) -> None:
        self.space.close()
        shutil.rmtree(self.folder)

    # Doing things ----------------------------------------------------------------------------------------------------

    @property
    def content(self) -> Content:
        return self.space.shared.content

    def key(self, place: int) -> int:
        """Id of one of the objects; one that is not there where there are none."""
        keys = list(self.content.objects)
        return keys[place % len(keys)] if keys else 999

    def do(self, who: int, action: Callable[[Session], object]) -> None:
        """A step of one's own: it is refused and changes nothing, or is undone and redone exactly."""
        person = self.people[who]
        before, last, content = person.state(), person.session.step, self.content
        try:
            action(person.session)
        except SplatsegError as error:
            assert "\n" not in str(error) and person.state() == before
            return
        self.note_writer(who, content)
        after = person.state()
        step = person.session.step
        if step.drag is not None and (step.label, step.drag) == (last.label, last.drag):
            return  # one drag of a slider is one step
        for _ in range(2):
            person.session.undo()
            assert person.state() == before and not person.session.notice
            person.session.redo()
            assert person.state() == after and not person.session.notice

    def note_writer(self, who: int, before: Content) -> None:
        for new in (*self.content.objects.values(), self.content.tree):
            self.written.setdefault(id(new), (new, who))
        for key in before.objects.keys() - self.content.objects.keys():
            self.removed[key] = who

    @rule(who=people, redo=st.booleans())
    def back_or_forth(self, who: int, redo: bool) -> None:
        """Undo and redo go one step, touch nobody else's work, and say so where they leave some."""
        session, before = self.people[who].session, self.content
        history = session._history
        depth = (len(history._past), len(history._future))
        moved = session.can_redo if redo else session.can_undo
        session.redo() if redo else session.undo()
        by = (-1 if redo else 1) * moved
        assert (len(history._past), len(history._future)) == (depth[0] - by, depth[1] + by)
        assert "\n" not in session.notice
        for key in before.objects.keys() | self.content.objects.keys():
            self.check_own(who, redo, before.objects.get(key), self.content.objects.get(key), self.removed.get(key))
        self.check_own(who, redo, before.tree, self.content.tree, None)
        for key in before.objects.keys() - self.content.objects.keys():
            self.removed[key] = who

    def check_own(self, who: int, redo: bool, old: object, new: object, remover: int | None) -> None:
        """What undo replaces is one's own; what redo replaces is what the step had replaced, so older than its own."""
        if old is new:
            return
        if old is None:
            assert remover == who, "the other person had deleted it"
        elif not redo:
            assert self.written[id(old)][1] == who, "it was the other person's"
        elif new is not None:
            assert list(self.written).index(id(old)) < list(self.written).index(id(new)), "the other's was newer"

    @rule(who=people, how=st.sampled_from(["rename", "hide", "delete", "merge"]), steps=st.integers(1, 3))
    def meddle(self, who: int, how: str, steps: int) -> None:
        """The other changes what was made last, and one undoes and redoes one's own steps around it."""
        other, newest = 1 - who, max(self.content.objects, default=999)
        if how == "merge":
            self.split(who, 0)
            self.merge(other, 0, 1)
        elif how == "rename":
            self.do(other, lambda session: session.rename(newest, "ours"))
        elif how == "hide":
            self.do(other, lambda session: session.show(newest, False))
        else:
            self.delete_one(other, newest)
        for redo in (False, True):
            for _ in range(steps):
                self.back_or_forth(who, redo)

    # Selecting -------------------------------------------------------------------------------------------------------

    @rule(who=people, part=parts, mode=modes)
    def click(self, who: int, part: int, mode: Any) -> None:
        self.do(who, lambda session: session.click("front", *SPLAT.pixel_of(part), mode=mode))

    @rule(who=people, left=st.integers(0, 40), width=st.integers(0, 30), mode=modes)
    def rectangle(self, who: int, left: int, width: int, mode: Any) -> None:
        self.do(who, lambda session: session.rectangle("front", ((left, 3), (left + width, 29)), mode))

    @rule(who=people, index=st.integers(0, 2), drag=drags)
    def level(self, who: int, index: int, drag: int | None) -> None:
        self.do(who, lambda session: session.set_level(index, drag))

    @rule(who=people, threshold=st.sampled_from([-0.5, 0.3, 0.5, 0.9, 2.0]), drag=drags)
    def threshold(self, who: int, threshold: float, drag: int | None) -> None:
        self.do(who, lambda session: session.set_threshold(threshold, drag))

    @rule(who=people, place=places, mode=modes)
    def combine(self, who: int, place: int, mode: Any) -> None:
        self.do(who, lambda session: session.combine(self.key(place), mode))

    @rule(who=people, everything=st.booleans())
    def invert_or_clear(self, who: int, everything: bool) -> None:
        self.do(who, lambda session: session.invert() if everything else session.clear())

    @rule(who=people, left=st.integers(-5, 40), height=st.integers(1, 40), through=st.booleans(), mode=modes)
    def lasso(self, who: int, left: int, height: int, through: bool, mode: Any) -> None:
        corners = ((left, 1), (left + 25, 3), (left + 12, height))
        self.do(who, lambda session: session.lasso("front", corners, through, mode))

    @rule(who=people, x=st.integers(-3, 3), ball=st.booleans(), mode=modes)
    def solid(self, who: int, x: float, ball: bool, mode: Any) -> None:
        center = (float(x), 0.2, 0.0)
        self.do(
            who,
            lambda session: (
                session.select_sphere(center, 0.8, mode)
                if ball
                else session.select_box(center, (1.5, 0.6, 1.0), (1.0, 0.0, 0.0, 0.2), mode)
            ),
        )

    @rule(who=people, tool=st.sampled_from(["grow", "shrink"]), by=st.sampled_from(BYS), steps=st.integers(1, 3))
    def reshape(self, who: int, tool: str, by: Any, steps: int) -> None:
        self.do(who, lambda session: getattr(session, tool)(by, steps))

    @rule(who=people, tool=st.sampled_from(["fill", "largest", "click"]))
    def tidy(self, who: int, tool: Any) -> None:
        self.do(who, lambda session: session.fill_holes() if tool == "fill" else session.keep_connected(tool))

    @rule(who=people, name=st.sampled_from(PROPERTIES), bound=st.floats(0, 2), mode=modes, drag=drags)
    def select_by(self, who: int, name: Any, bound: float, mode: Any, drag: int | None) -> None:
        self.do(who, lambda session: session.select_by(name, bound, None, mode, (128, 100, 90), drag=drag))

    @rule(who=people, remove=st.booleans())
    def clean(self, who: int, remove: bool) -> None:
        self.do(who, lambda session: session.remove_floaters() if remove else session.propose_floaters(LOOSE))

    @rule(who=people, part=parts, mode=modes)
    def pick_label(self, who: int, part: int, mode: Any) -> None:
        self.do(who, lambda session: session.pick_label("front", *SPLAT.pixel_of(part), mode=mode))

    # Objects ---------------------------------------------------------------------------------------------------------

    @rule(who=people, name=st.sampled_from(["mug", "cup", " "]))
    def keep(self, who: int, name: str) -> None:
        self.do(who, lambda session: session.keep(name))

    @rule(who=people)
    def hide(self, who: int) -> None:
        self.do(who, lambda session: session.hide_selection())

    @rule(who=people, place=places, visible=st.booleans())
    def show(self, who: int, place: int, visible: bool) -> None:
        self.do(who, lambda session: session.show(self.key(place), visible))

    @rule(who=people, place=places, name=st.sampled_from(["tea", "pot"]))
    def rename(self, who: int, place: int, name: str) -> None:
        self.do(who, lambda session: session.rename(self.key(place), name))

    @rule(who=people, place=places)
    def delete(self, who: int, place: int) -> None:
        self.delete_one(who, self.key(place))

    def delete_one(self, who: int, key: int) -> None:
        session = self.people[who].session
        if session.isolated == key:
            session.isolate(None)  # alone ends with the object for good, so that undo shows more than before
        self.do(who, lambda session: session.delete(key))

    @rule(who=people, place=st.none() | places)
    def isolate(self, who: int, place: int | None) -> None:
        if place is None or self.content.objects:
            self.people[who].session.isolate(None if place is None else self.key(place))

    # Labels ----------------------------------------------------------------------------------------------------------

    def label(self, place: int) -> int:
        """One of the labels of the shown level."""
        tree = self.content.tree
        assert tree is not None
        nodes = tree.at_level(self.content.level)
        return nodes[place % len(nodes)].id

    @rule(who=people, first=places, second=places)
    def merge(self, who: int, first: int, second: int) -> None:
        self.do(who, lambda session: session.merge_labels((self.label(first), self.label(second))))

    @rule(who=people, place=places)
    def split(self, who: int, place: int) -> None:
        self.do(who, lambda session: session.split_label(self.label(place)))

    @rule(who=people, level=st.integers(0, 2))
    def label_level(self, who: int, level: int) -> None:
        self.do(who, lambda session: session.set_label_level(level))

    # Files -----------------------------------------------------------------------------------------------------------

    @rule(who=people, name=st.sampled_from(["a", "b"]))
    def save(self, who: int, name: str) -> None:
        session = self.people[who].session
        session.save(name)
        self.saved[name] = (value_of(self.content), chosen(session.step))

    @precondition(lambda self: self.saved)
    @rule(who=people, name=st.sampled_from(["a", "b"]))
    def reopen(self, who: int, name: str) -> None:
        self.do(who, lambda session: session.reopen(name))
        if name in self.saved:
            content, selected = self.saved[name]
            assert value_of(self.content) == content
            assert chosen(self.people[who].session.step) == selected

    @rule(who=people, alone=st.booleans())
    def export(self, who: int, alone: bool) -> None:
        """What is exported is what the window shows."""
        if alone:
            self.isolate(who, 0)
        person = self.people[who]
        selected, visible = person.session.selection.mask, person.visible()
        assert not bool((selected & ~visible).any())
        for what in ("selection", "without"):
            self.export_part(person, what, selected, visible)
        for what in ("labels", "objects"):
            self.export_labels(person, what, visible)

    def export_labels(self, person: Person, what: str, visible: torch.Tensor) -> None:
        wanted = self.content.objects if what == "objects" else self.content.tree
        if not wanted:
            return
        tree = load_labels(export_labels(person.session, what, what)[0], SPLAT.gaussians)
        if what == "labels":
            assert value_of(Content(tree=tree))[1] == value_of(self.content)[1]
        labeled = tree.labels[:, 0] > 0 if what == "objects" else np.ones(len(tree), bool)
        colors = tree.colors(0 if what == "objects" else self.content.level)
        if what == "labels":  # the kept objects lie on top of the labels
            for entry in self.content.objects.values():
                labeled[entry.ids.numpy()] = False
        shown = person.painter.paint(Look("labels", dim=False, highlight=False))
        rgb = np.stack([shown & 255, shown >> 8 & 255, shown >> 16 & 255], axis=1)
        seen = labeled & visible.numpy()
        assert (rgb[seen] == colors[seen]).all()

    def export_part(self, person: Person, what: str, selected: torch.Tensor, visible: torch.Tensor) -> None:
        expected = selected & visible if what == "selection" else visible & ~selected
        export = export_selection if what == "selection" else export_without
        try:
            written = load_gaussians(export(person.session))
        except SplatsegError:
            assert not bool(expected.any()) or bool(expected.all()), "refused though there is something to export"
            return
        assert torch.equal(written.means, SPLAT.gaussians.means[expected])

    # Ends ------------------------------------------------------------------------------------------------------------

    @rule()
    def autosave(self) -> None:
        self.space.flush()
        assert self.space.autosave_error is None
        self.note_saved()

    @rule(whole=st.booleans())
    def kill_and_restart(self, whole: bool) -> None:
        """The process is gone, with or without all of it saved, in the middle of writing a session and an export."""
        if whole:
            self.autosave()
        for folder in (self.space.sessions_folder, self.run.exports):
            folder.mkdir(exist_ok=True)
            (folder / f".x.{DEAD}-0123abcd.tmp.npz").write_bytes(b"half")
        self.space.close()  # only frees the lock: nothing is written by it here
        self.open()
        content, selected = self.autosaved
        assert value_of(self.content) == content
        step = self.space.take_restored_step()
        if step is not None:
            self.people[0].session.resume(step)
        assert chosen(self.people[0].session.step) == selected
        assert not [p for f in (self.space.sessions_folder, self.run.exports) for p in f.glob(".*.tmp*")]

    # Always ----------------------------------------------------------------------------------------------------------

    @invariant()
    def every_mode_paints(self) -> None:
        """In both windows, whatever the other did; what a painter remembers is never out of date."""
        self.camera_steps += 1
        mode = DISPLAY_MODES[self.camera_steps % len(DISPLAY_MODES)]
        for person in self.people:
            for each in DISPLAY_MODES:
                camera = make_camera(0.1 * (self.camera_steps % 3))
                look = showable(person.session, Look(each))
                painted = person.painter.paint(look, camera)
                if each == mode:
                    fresh = Painter(person.session, torch.arange(len(self.space))).paint(look, camera)
                    assert np.array_equal(painted, fresh)

    @invariant()
    def nothing_hidden_is_selected(self) -> None:
        for person in self.people:
            hidden = person.session.hidden()
            assert hidden is None or not bool((person.session.selection.mask & hidden).any())


TestDay = Day.TestCase
TestDay.settings = settings(
    max_examples=DAYS or 8,
    stateful_step_count=40,
    derandomize=not DAYS,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate] if not DAYS else list(Phase),  # a failing day is printed whole; others are shrunk
)
