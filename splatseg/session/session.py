"""One person's work on a run: a selection with undo, and the shared objects and labels it is turned into."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from splatseg.camera import Camera
from splatseg.clusters import ClusterConfig, LabelTree, discretise
from splatseg.errors import SplatsegError
from splatseg.gaussians import Gaussians
from splatseg.io.run import Run
from splatseg.scene import View
from splatseg.selection import Box, Click, History, PointClick, Selection, make_query, select_box
from splatseg.selection.clicks import click_features
from splatseg.session import labels, store
from splatseg.session.jobs import Job, locked, tell
from splatseg.session.shared import Change, Color, SceneObject, check_color, clean_name
from splatseg.session.state import Mode, Pick, Step, combine_sets, gather, take_out
from splatseg.session.workspace import Workspace

UNDO_BYTES = 400_000_000  # scores and masks of one person's undo steps, at most about so much
Where = str | View | Camera


class Session:
    """Selections on one run, with undo and redo of every step.

    Sessions that are given the same :class:`Workspace` share objects and labels and nothing else. Image positions
    (u, v) are in pixels of the view's camera, with pixel centres at + 0.5. Every method that finds nothing to act on
    raises :class:`SplatsegError` with a line for people, and changes nothing.

    Args:
        run: a run folder, or a workspace that is open already.
        level: which proposed level a click shows first; 0 is the smallest part.
    """

    def __init__(self, run: str | Path | Run | Workspace, level: int = 0) -> None:
        self.workspace = run if isinstance(run, Workspace) else Workspace.open(run)
        self.first_level = level
        self.isolated: int | None = None
        self._lock = threading.RLock()
        n = len(self.workspace)
        nothing = Selection.none(n)
        limit = min(max(UNDO_BYTES // (6 * n), 20), 500)
        self._history = History(Step("start", nothing, (), nothing), limit)

    # What is there ---------------------------------------------------------------------------------------------------

    @property
    def step(self) -> Step:
        """The current state."""
        return self._history.state

    @property
    def selection(self) -> Selection:
        return self.step.selection

    @property
    def active(self) -> Pick | None:
        """The pick whose levels and threshold the sliders move: the last one."""
        return self.step.active

    @property
    def objects(self) -> tuple[SceneObject, ...]:
        return tuple(self.workspace.shared.content.objects.values())

    @property
    def tree(self) -> LabelTree | None:
        return self.workspace.shared.content.tree

    @property
    def label_level(self) -> int:
        """The level of the label tree that is shown, 0 coarsest."""
        return self.workspace.shared.content.level

    @property
    def can_undo(self) -> bool:
        return self._history.can_undo

    @property
    def can_redo(self) -> bool:
        return self._history.can_redo

    def hidden(self) -> Tensor | None:
        """(n,) bool of what is not shown to this session; None if all is."""
        return self.workspace.hidden(self.isolated)

    def _gaussians(self) -> Gaussians:
        return self.workspace.visible_gaussians(self.isolated)

    def _do(self, label: str, fixed: Selection, picks: Sequence[Pick] = (), change: Change | None = None) -> Selection:
        if change is not None:
            self.workspace.shared.apply(change)
        step = replace(gather(label, fixed, picks, self.hidden()), change=change)
        self._history.do(step)
        self.workspace.note_step(step)
        return step.selection

    # Pointing --------------------------------------------------------------------------------------------------------

    @locked
    def click(self, view: Where, u: float, v: float, mode: Mode = "replace", job: Job | None = None) -> Selection:
        """Select what is seen at (u, v): ``replace`` the selection, ``add`` to it, ``subtract`` (what was clicked
        before is scored again with this unwanted), or ``intersect``. ``job`` reports and cancels.

        Raises:
            SplatsegError: outside the image, empty space, or nothing to subtract from.
        """
        return self._point(Click(self.workspace.camera(view), (u, v), mode != "subtract"), mode, job)

    @locked
    def click_gaussian(self, gaussian: int, mode: Mode = "replace") -> Selection:
        """:meth:`click` on a Gaussian by its id, for 3D pickers."""
        return self._point(PointClick(gaussian, mode != "subtract"), mode)

    def _point(self, click: Click | PointClick, mode: Mode, job: Job | None = None) -> Selection:
        space, step = self.workspace, self.step
        tell(job, "looking what is there", 0.0)
        if mode == "subtract":
            if not len(step.selection):
                raise SplatsegError("subtract: expected something selected to subtract from, found nothing")
            return self._subtract(click_features(self._gaussians(), space.field, click), job)
        query = make_query(self._gaussians(), space.field, [click])
        active = step.active
        level = active.level if mode == "add" and active and active.level is not None else self.first_level
        tell(job, "scoring", 0.3)
        pick = Pick.of(space.field, space.weights, query, level)
        tell(job, "selecting", 0.8)
        if mode == "replace":
            return self._do("click", Selection.none(len(space)), (pick,))
        if mode == "add":
            return self._do("add", step.fixed, (*step.picks, pick))
        return self._do(mode, combine_sets(step.selection, pick.selection(), mode))

    def _subtract(self, negative: Tensor, job: Job | None) -> Selection:
        tell(job, "scoring again", 0.3)
        space = self.workspace
        fixed, picks = take_out(self.step, space.field, space.weights, negative, self.first_level)
        tell(job, "selecting", 0.8)
        return self._do("subtract", fixed, picks)

    @locked
    def rectangle(
        self,
        view: Where,
        corners: tuple[tuple[float, float], tuple[float, float]],
        mode: Mode = "replace",
        job: Job | None = None,
    ) -> Selection:
        """Select all that is seen through a rectangle between two image positions (:func:`select_box`). ``job`` reports
        and cancels.

        Raises:
            SplatsegError: outside the image, or nothing but empty space inside.
        """
        box = Box(self.workspace.camera(view), corners)
        found = select_box(self._gaussians(), box, lambda share: tell(job, "looking what is there", 0.9 * share))
        tell(job, "selecting", 0.9)
        if not len(found):
            raise SplatsegError("rectangle: expected something inside it, found empty space")
        if mode == "add":
            return self._do("add rectangle", self.step.fixed | found, self.step.picks)
        return self._do("rectangle", combine_sets(self.selection, found, mode))

    @locked
    def pick_label(self, view: Where, u: float, v: float, mode: Mode = "replace") -> Selection:
        """Select the whole label seen at (u, v), at the shown level.

        Raises:
            SplatsegError: the scene is not divided yet, outside the image, or empty space.
        """
        tree = self._tree()
        label = labels.label_at(self._gaussians(), tree.labels[:, self.label_level], self.workspace.camera(view), u, v)
        return self._do(f"label {tree.node(label).name}", combine_sets(self.selection, tree.selection(label), mode))

    # Refining --------------------------------------------------------------------------------------------------------

    @locked
    def set_level(self, index: int) -> Selection:
        """Move the last clicked thing to its ``index``-th proposed level, 0 the smallest."""
        return self._refine("level", lambda pick: pick.at_level(index))

    @locked
    def set_threshold(self, threshold: float) -> Selection:
        """Select what scores above ``threshold`` in [-1, 1]; scores are reused, so this costs one comparison."""
        return self._refine("threshold", lambda pick: pick.at_threshold(threshold))

    def _refine(self, label: str, change: Callable[[Pick], Pick]) -> Selection:
        step = self.step
        if step.active is None:
            raise SplatsegError(f"{label}: expected a clicked thing to refine, found none; click one first")
        picks = (*step.picks[:-1], change(step.active))
        if step.label == label and step.change is None and self.can_undo:
            self._history.undo()  # one drag of a slider is one step of undo
        return self._do(label, step.fixed, picks)

    # Sets ------------------------------------------------------------------------------------------------------------

    @locked
    def combine(self, other: int | str | Selection, mode: Mode) -> Selection:
        """Combine the selection with another one, or with a kept object by id or name."""
        if not isinstance(other, Selection):
            other = self.workspace.shared.content.find(other).selection(len(self.workspace))
        return self._do(mode, combine_sets(self.selection, other, mode))

    @locked
    def invert(self) -> Selection:
        """Select what is visible and not selected."""
        return self._do("invert", ~self.selection)

    @locked
    def clear(self) -> Selection:
        return self._do("clear", Selection.none(len(self.workspace)))

    @locked
    def undo(self) -> Step:
        """Take the last step back, also what it did to objects or labels; at the first one nothing happens.

        Raises:
            SplatsegError: another window has changed those objects since.
        """
        if self.step.change is not None:
            self.workspace.shared.apply(self.step.change.reversed())
        return self._stepped(self._history.undo())

    @locked
    def redo(self) -> Step:
        """Do the last undone step again. Errors as :meth:`undo`."""
        before = self.step
        step = self._history.redo()
        if step is not before and step.change is not None:
            try:
                self.workspace.shared.apply(step.change)
            except SplatsegError:
                self._history.undo()
                raise
        return self._stepped(step)

    def _stepped(self, step: Step) -> Step:
        self.workspace.note_step(step)
        return step

    # Objects ---------------------------------------------------------------------------------------------------------

    @locked
    def keep(self, name: str, color: Color | None = None, visible: bool = True) -> SceneObject:
        """Keep the selection as a named object.

        Raises:
            SplatsegError: nothing is selected, no name, or a bad colour.
        """
        if not len(self.selection):
            raise SplatsegError("keep: expected something selected, found nothing")
        key = self.workspace.shared.new_id()
        paint = labels.object_color(key) if color is None else check_color(color)
        entry = SceneObject(key, clean_name(name), paint, self.selection.ids.int(), visible)
        self._do(f"keep {entry.name}", self.step.fixed, self.step.picks, Change({key: None}, {key: entry}))
        return entry

    def hide_selection(self) -> SceneObject:
        """Take the selection out of sight, as a hidden object; :meth:`show` brings it back."""
        taken = {entry.name for entry in self.objects}
        name = next(f"hidden {i}" for i in range(1, len(taken) + 2) if f"hidden {i}" not in taken)
        return self.keep(name, visible=False)

    def _replace_object(self, key: int | str, label: str, **fields: object) -> SceneObject:
        old = self.workspace.shared.content.find(key)
        new = replace(old, **fields)  # type: ignore[arg-type]
        self._do(label, self.step.fixed, self.step.picks, Change({old.id: old}, {old.id: new}))
        return new

    @locked
    def rename(self, key: int | str, name: str) -> SceneObject:
        return self._replace_object(key, "rename", name=clean_name(name))

    @locked
    def recolor(self, key: int | str, color: Color) -> SceneObject:
        return self._replace_object(key, "recolour", color=check_color(color))

    @locked
    def show(self, key: int | str, visible: bool = True) -> SceneObject:
        """Show or hide an object, for everyone. What is hidden is not found by clicks either."""
        return self._replace_object(key, "show" if visible else "hide", visible=visible)

    @locked
    def delete(self, key: int | str) -> None:
        """Forget an object; its Gaussians stay in the scene."""
        old = self.workspace.shared.content.find(key)
        self._do(f"delete {old.name}", self.step.fixed, self.step.picks, Change({old.id: old}, {old.id: None}))

    @locked
    def isolate(self, key: int | str | None) -> None:
        """Show this object alone, in this session only; None shows all again."""
        self.isolated = None if key is None else self.workspace.shared.content.find(key).id

    # Labels ----------------------------------------------------------------------------------------------------------

    def _tree(self) -> LabelTree:
        if self.tree is None:
            raise SplatsegError("labels: expected the scene divided into labels, found none; discretise it first")
        return self.tree

    def discretise(self, config: ClusterConfig | None = None, job: Job | None = None) -> LabelTree:
        """Divide the whole scene into nested labels. Seconds to a minute: ``job`` reports and cancels."""
        space = self.workspace
        tree = discretise(space.gaussians, space.field, config, None if job is None else job.report)
        self._relabel("discretise", tree, tree.default_level)
        return tree

    @locked
    def _relabel(self, label: str, tree: LabelTree, level: int, selection: Selection | None = None) -> None:
        content = self.workspace.shared.content
        change = Change(trees=((content.tree, content.level), (tree, level)))
        fixed, picks = (self.step.fixed, self.step.picks) if selection is None else (selection, ())
        self._do(label, fixed, picks, change)

    def set_label_level(self, level: int) -> None:
        """Show another level of the label tree, 0 coarsest."""
        tree = self._tree()
        if not 0 <= level < tree.levels:
            raise SplatsegError(f"level: expected 0..{tree.levels - 1}, found {level}")
        self._relabel("label level", tree, level)

    def selected_labels(self) -> tuple[int, ...]:
        """The labels of the shown level that are selected as a whole."""
        tree = self._tree()
        return labels.covered(tree.labels[:, self.label_level], self.selection)

    def merge_labels(self, chosen: Sequence[int] | None = None) -> int:
        """Make one label of several (the selected ones if not given); returns its id.

        Raises:
            SplatsegError: fewer than two, or labels that are parts of different things.
        """
        chosen = self.selected_labels() if chosen is None else tuple(chosen)
        if len(chosen) < 2:
            raise SplatsegError(f"merge: expected two labels selected as a whole, found {len(chosen)}")
        tree = self._tree()
        for other in chosen[1:]:
            tree = tree.merge(chosen[0], other)
        self._relabel("merge", tree, self.label_level, tree.selection(chosen[0]))
        return chosen[0]

    def split_label(self, label: int | None = None, job: Job | None = None) -> tuple[int, ...]:
        """Divide a label (the selected one if not given): into its parts if the tree has some, else in two by feature,
        which takes seconds for half a million Gaussians: ``job`` reports and cancels.

        Raises:
            SplatsegError: not exactly one label, or one that cannot be divided.
        """
        chosen = self.selected_labels() if label is None else (label,)
        if len(chosen) != 1:
            raise SplatsegError(f"split: expected one label selected as a whole, found {len(chosen)}")
        report = None if job is None else job.report
        tree, parts = labels.split(self._tree(), chosen[0], self.workspace.field.unit, report)
        self._relabel("split", tree, self.label_level, tree.selection(parts[0]))
        return parts

    # Files -----------------------------------------------------------------------------------------------------------

    @locked
    def save(self, name: str) -> Path:
        """Save objects, labels and the selection under ``name`` in the run's ``sessions``; returns the file."""
        path = self.workspace.session_path(clean_name(name))
        if path.stem == "autosave":
            raise SplatsegError("save: expected another name, 'autosave' is written by the viewer itself")
        store.save(path, self.workspace, self.step)
        return path

    @locked
    def reopen(self, name: str) -> None:
        """Put objects, labels and selection as they were saved under ``name``; one step of undo.

        Raises:
            SplatsegError: no such session, a damaged one, or one of another splat.
        """
        saved = store.load(self.workspace.session_path(name), self.workspace)
        nothing = Selection.none(len(self.workspace))
        step = saved.step or Step("", nothing, (), nothing)
        self._do(f"reopen {name}", step.fixed, step.picks, saved.change(self.workspace.shared.content))

    @locked
    def resume(self, step: Step) -> None:
        """Take up a selection that an earlier session left."""
        self._do("resume", step.fixed, step.picks)
