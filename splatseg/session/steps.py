"""The steps of one session: what is selected, and undo and redo of everything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree
from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.io.run import Run
from splatseg.session.history import History
from splatseg.session.locked import locked
from splatseg.session.shared import Change, Content, SceneObject
from splatseg.session.state import Pick, Step, gather, parts_of
from splatseg.session.workspace import Workspace

UNDO_BYTES = 400_000_000  # scores, masks and labels of one person's undo steps, at most so much (UNDO_STEPS steps)
UNDO_STEPS = 500
Edit = Callable[[Content], Change]


class SessionSteps:
    """What all parts of a :class:`splatseg.session.Session` stand on: the workspace, the selection, and its history."""

    def __init__(self, run: str | Path | Run | Workspace, level: int = 0) -> None:
        self.workspace = run if isinstance(run, Workspace) else Workspace.open(run)
        self.first_level = level
        self.notice = ""
        self._alone: tuple[int, int] | None = None  # the object shown alone, and its deletions at that time
        self._lock = threading.RLock()
        nothing = Selection.none(len(self.workspace))
        self._history = History(Step("start", nothing, (), nothing), UNDO_STEPS, UNDO_BYTES, parts_of)
        self._seen: tuple[Step, object, Selection] | None = None

    # What is there ---------------------------------------------------------------------------------------------------

    @property
    def step(self) -> Step:
        """The current state."""
        return self._history.state

    @property
    def selection(self) -> Selection:
        """What is selected of what is visible now: hiding takes out, also by another window, showing brings back."""
        seen, step, key = self._seen, self.step, (self.workspace.shared.version, self.isolated)
        if seen is None or seen[0] is not step or seen[1] != key:
            now = gather(step.label, step.fixed, step.picks, self.hidden())
            self._seen = seen = (step, key, now.selection)
        return seen[2]

    @property
    def nbytes(self) -> int:
        """Bytes that the undo history holds, the current state included."""
        return self._history.nbytes

    @property
    def isolated(self) -> int | None:
        """The object shown alone in this session; that ends for good when the object is deleted, also elsewhere."""
        alone = self._alone
        if alone is not None and alone[1] != self.workspace.shared.deletions(alone[0]):
            self._alone = alone = None
        return None if alone is None else alone[0]

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

    def _shown(self) -> FeatureSplat:
        return self.workspace.splat.showing(self._gaussians())

    def _gaussians(self) -> Gaussians:
        return self.workspace.visible_gaussians(self.isolated)

    def _do(
        self,
        label: str,
        fixed: Selection,
        picks: Sequence[Pick] = (),
        edit: Edit | None = None,
        drag: int | None = None,
    ) -> Step:
        """The next step. ``edit`` computes what it does to shared objects and labels, from what they are then."""
        change = None if edit is None else self.workspace.shared.edit(edit)
        step = replace(gather(label, fixed, picks, self.hidden()), change=change, drag=drag)
        self._history.do(step)
        self.notice = ""
        self.workspace.note_step(step)
        return step

    def _select(self, label: str, fixed: Selection, picks: Sequence[Pick] = ()) -> Selection:
        return self._do(label, fixed, picks).selection

    def _share(self, label: str, edit: Edit, drag: int | None = None) -> Change:
        """A step that changes shared objects and leaves the selection."""
        change = self._do(label, self.step.fixed, self.step.picks, edit, drag).change
        assert change is not None
        return change

    @locked
    def undo(self) -> Step:
        """Go one step back, also in what the step did to objects or labels; at the first one nothing happens.

        An object or the labels that another window has changed since stay as they are now, and are no part of the step
        any more: :attr:`notice` names them. Redo is the same forward.
        """
        left = self.step
        return self._stepped("undo", left, self._history.undo(), left.change and left.change.reversed())

    @locked
    def redo(self) -> Step:
        """Do the last undone step again; at the newest one nothing happens. Otherwise as :meth:`undo`."""
        left, step = self.step, self._history.redo()
        return self._stepped("redo", left, step, step.change)

    def _stepped(self, verb: str, left: Step, step: Step, change: Change | None) -> Step:
        self.notice = ""
        if step is not left and change is not None:
            made, others = self.workspace.shared.apply_standing(change)
            if others:
                # What is another's now leaves the step: redone or undone later, it would take back theirs.
                done = left if verb == "undo" else step
                amended = replace(done, change=made.reversed() if verb == "undo" else made)
                self._history.amend(done, amended)
                step = self.step
                self.notice = f"{verb} of '{done.label}': {', '.join(others)} left as another window has made it since"
        self.workspace.note_step(step)
        return replace(step, selection=self.selection)
