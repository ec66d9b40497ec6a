"""One person's work on a run: a selection with undo, and the shared objects and labels it is turned into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.progress import SILENT, Reporter
from splatseg.core.scene import View
from splatseg.core.selection import Selection
from splatseg.segment.clicks import Box, Click, PointClick, click_features, make_query, select_box
from splatseg.segment.outlines import box_through
from splatseg.session import label_edit, store
from splatseg.session.clean_steps import CleanSteps
from splatseg.session.label_steps import LabelSteps
from splatseg.session.locked import locked
from splatseg.session.object_steps import ObjectSteps
from splatseg.session.shared import clean_name
from splatseg.session.state import Mode, Pick, Step, combine_sets, gather, subtract_query
from splatseg.session.tool_steps import ToolSteps
from splatseg.session.workspace import Workspace

UNKNOWN = "no masks of several views hold what was clicked: the selection follows color and shape alone"
NOT_SELECTED = "nothing was taken out: what was clicked is not selected"
SELECTED_ALREADY = "nothing was added: what was clicked is selected already"
Where = str | View | Camera


class Session(ObjectSteps, LabelSteps, ToolSteps, CleanSteps):
    """Selections on one run, with undo and redo of every step.

    Sessions that are given the same :class:`Workspace` share objects and labels and nothing else. Image positions
    (u, v) are in pixels of the view's camera, with pixel centers at + 0.5. Every method that finds nothing to act on
    raises :class:`SplatsegError` with a line for people, and changes nothing.

    Args:
        run: a run folder, or a workspace that is open already.
        level: which proposed level a click shows first; 0 is the smallest part.

    Attributes:
        notice: a line for people, else empty: what the last undo or redo left as another window has made it, that the
            last click was on what no masks tell of, or that it changed nothing.
    """

    # Pointing --------------------------------------------------------------------------------------------------------

    @locked
    def click(self, view: Where, u: float, v: float, mode: Mode = "replace", job: Reporter = SILENT) -> Selection:
        """Select what is seen at (u, v): ``replace`` the selection, ``add`` to it, ``subtract`` (what was clicked
        before is scored again with this unwanted), or ``intersect``. ``job`` reports and cancels.

        Raises:
            SplatsegError: outside the image, empty space, or nothing to subtract from.
        """
        return self._point(Click(self.workspace.camera(view), (u, v), mode != "subtract"), mode, job)

    @locked
    def preview(self, view: Where, u: float, v: float, mode: Mode = "replace", job: Reporter = SILENT) -> Selection:
        """What :meth:`click` there would leave selected; nothing is changed. Raises as it does."""
        click = Click(self.workspace.camera(view), (u, v), mode != "subtract")
        label, fixed, picks, _ = self._pointed(click, mode, job)
        return gather(label, fixed, picks, self.hidden()).selection

    @locked
    def click_gaussian(self, gaussian: int, mode: Mode = "replace") -> Selection:
        """:meth:`click` on a Gaussian by its id, for 3D pickers."""
        return self._point(PointClick(gaussian, mode != "subtract"), mode)

    def _point(self, click: Click | PointClick, mode: Mode, job: Reporter = SILENT) -> Selection:
        before = self.selection
        label, fixed, picks, pick = self._pointed(click, mode, job)
        found = self._select(label, fixed, picks)
        unchanged = torch.equal(found.mask, before.mask)
        if pick is None:
            if unchanged:
                self.notice = NOT_SELECTED
            return found
        self._clicked = click
        if mode == "add" and unchanged:
            self.notice = SELECTED_ALREADY
        elif not pick.confirmed(self.workspace.field):
            self.notice = UNKNOWN
        return found

    def _pointed(
        self, click: Click | PointClick, mode: Mode, job: Reporter
    ) -> tuple[str, Selection, tuple[Pick, ...], Pick | None]:
        """Label, fixed part and picks of the step that ``click`` makes, and what was picked; None if it takes away."""
        space, step = self.workspace, self.step
        job.report("looking what is there", 0.0)
        if mode == "subtract":
            if not len(self.selection):
                raise SplatsegError("subtract: expected something selected to subtract from, found nothing")
            unwanted = click_features(self._shown(), click)
            job.report("scoring again", 0.3)
            fixed, picks = subtract_query(step, space.field, space.weights, unwanted, self.first_level)
            job.report("selecting", 0.8)
            return "subtract", fixed, picks, None
        query = make_query(self._shown(), [click])
        active = step.active
        level = active.level if mode == "add" and active and active.level is not None else self.first_level
        job.report("scoring", 0.3)
        pick = Pick.of(space.field, space.weights, query, level)
        job.report("selecting", 0.8)
        if mode == "replace":
            return "click", Selection.none(len(space)), (pick,), pick
        if mode == "add":
            return "add", step.fixed, (*step.picks, pick), pick
        return mode, combine_sets(self.selection, pick.selection(), mode), (), pick

    @locked
    def rectangle(
        self,
        view: Where,
        corners: tuple[tuple[float, float], tuple[float, float]],
        mode: Mode = "replace",
        job: Reporter = SILENT,
        through: bool = False,
    ) -> Selection:
        """Select all that is seen through a rectangle between two image positions (:func:`select_box`), or with
        ``through`` everything behind it, too. ``job`` reports and cancels.

        Raises:
            SplatsegError: outside the image, or nothing but empty space inside.
        """
        box = Box(self.workspace.camera(view), corners)
        if through:
            found = self._visible(box_through(self._gaussians(), box))
        else:
            found = select_box(self._gaussians(), box, lambda share: job.report("looking what is there", 0.9 * share))
        job.report("selecting", 0.9)
        if not len(found):
            raise SplatsegError("rectangle: expected something inside it, found empty space")
        if mode == "add":
            return self._select("add rectangle", self.step.fixed | found, self.step.picks)
        return self._select("rectangle", combine_sets(self.selection, found, mode))

    @locked
    def pick_label(self, view: Where, u: float, v: float, mode: Mode = "replace") -> Selection:
        """Select the whole label seen at (u, v), at the shown level.

        Raises:
            SplatsegError: the scene is not divided yet, outside the image, or empty space.
        """
        name, found = self._label_at(view, u, v)
        return self._select(f"label {name}", combine_sets(self.selection, found, mode))

    @locked
    def preview_label(self, view: Where, u: float, v: float, mode: Mode = "replace") -> Selection:
        """What :meth:`pick_label` there would leave selected; nothing is changed. Raises as it does."""
        found = combine_sets(self.selection, self._label_at(view, u, v)[1], mode)
        return gather("label", found, (), self.hidden()).selection

    def _label_at(self, view: Where, u: float, v: float) -> tuple[str, Selection]:
        content = self.workspace.shared.content
        tree = label_edit.divided(content)
        label = label_edit.label_at(self._gaussians(), tree.labels[:, content.level], self.workspace.camera(view), u, v)
        return tree.node(label).name, tree.selection(label)

    # Refining --------------------------------------------------------------------------------------------------------

    @locked
    def set_level(self, index: int, drag: int | None = None) -> Selection:
        """Move the last clicked thing to its ``index``-th proposed level, 0 the smallest.

        ``drag`` numbers the gesture this is part of: what follows under the same number is the same step of undo.
        """
        return self._refine("level", lambda pick: pick.at_level(index), drag)

    @locked
    def set_threshold(self, threshold: float, drag: int | None = None) -> Selection:
        """Select what scores above ``threshold`` in [-1, 1]; scores are reused, so this costs one comparison. ``drag``
        as in :meth:`set_level`."""
        return self._refine("threshold", lambda pick: pick.at_threshold(threshold), drag)

    def _refine(self, label: str, change: Callable[[Pick], Pick], drag: int | None) -> Selection:
        step = self.step
        if step.active is None:
            raise SplatsegError(f"{label}: expected a clicked thing to refine, found none; click one first")
        picks = (*step.picks[:-1], change(step.active))
        if drag is not None and (step.label, step.drag) == (label, drag) and self.can_undo:
            self._history.undo()
        return self._do(label, step.fixed, picks, drag=drag).selection

    # Sets ------------------------------------------------------------------------------------------------------------

    @locked
    def combine(self, other: int | str | Selection, mode: Mode) -> Selection:
        """Combine the selection with another one, or with a kept object by id or name."""
        if not isinstance(other, Selection):
            other = self.workspace.shared.content.find(other).selection(len(self.workspace))
        return self._select(mode, combine_sets(self.selection, other, mode))

    @locked
    def invert(self) -> Selection:
        """Select what is visible and not selected."""
        return self._select("invert", ~self.selection)

    @locked
    def clear(self) -> Selection:
        return self._select("clear", Selection.none(len(self.workspace)))

    # Files -----------------------------------------------------------------------------------------------------------

    @locked
    def save(self, name: str) -> Path:
        """Save objects, labels and the selection under ``name`` in the run's ``sessions``; returns the file."""
        path = self.workspace.session_path(clean_name(name))
        if path.stem == "autosave":
            raise SplatsegError("save: expected another name, 'autosave' is written by the viewer itself")
        store.save(path, self.workspace.shared.content, self.workspace.fingerprint, self.step)
        return path

    @locked
    def reopen(self, name: str) -> None:
        """Put objects, labels and selection as they were saved under ``name``; one step of undo.

        Raises:
            SplatsegError: no such session, a damaged one, or one of another splat.
        """
        saved = store.load(self.workspace.session_path(name), self.workspace.field, self.workspace.weights)
        nothing = Selection.none(len(self.workspace))
        step = saved.step or Step("", nothing, (), nothing)
        self._do(f"reopen {name}", step.fixed, step.picks, saved.change)

    @locked
    def resume(self, step: Step) -> None:
        """Take up a selection that an earlier session left."""
        self._do("resume", step.fixed, step.picks)


def open_run(folder: str | Path, scene: str | Path | None = None) -> Session:
    """A session on a finished run.

    Args:
        folder: made by ``scripts/fit.py`` or ``fit_scene``.
        scene: where its capture lies now, if it was moved.

    Raises:
        SplatsegError: not a run, or its files are missing, damaged or of another splat.
    """
    return Session(Workspace.open(folder, None if scene is None else Path(scene)))
