"""One person's work on a run: a selection with undo, and the shared objects and labels it is turned into."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree
from splatseg.core.progress import SILENT, Reporter
from splatseg.core.scene import View
from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.io.run import Run
from splatseg.segment.clicks import Box, Click, PointClick, click_features, make_query, select_box
from splatseg.segment.discretize import ClusterConfig, discretize
from splatseg.session import label_edit, store
from splatseg.session.history import History
from splatseg.session.locked import locked
from splatseg.session.shared import Change, Color, Content, SceneObject, check_color, clean_name
from splatseg.session.state import Mode, Pick, Step, combine_sets, gather, parts_of, take_out
from splatseg.session.workspace import Workspace

UNDO_BYTES = 400_000_000  # scores, masks and labels of one person's undo steps, at most so much (UNDO_STEPS steps)
UNDO_STEPS = 500
UNKNOWN = "no masks of several views hold what was clicked: the selection follows color and shape alone"
Where = str | View | Camera
Edit = Callable[[Content], Change]


class Session:
    """Selections on one run, with undo and redo of every step.

    Sessions that are given the same :class:`Workspace` share objects and labels and nothing else. Image positions
    (u, v) are in pixels of the view's camera, with pixel centres at + 0.5. Every method that finds nothing to act on
    raises :class:`SplatsegError` with a line for people, and changes nothing.

    Args:
        run: a run folder, or a workspace that is open already.
        level: which proposed level a click shows first; 0 is the smallest part.

    Attributes:
        notice: a line for people, else empty: what the last undo or redo left as another window has made it, or that
            the last click was on what no masks tell of.
    """

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

    def _do(self, label: str, fixed: Selection, picks: Sequence[Pick] = (), edit: Edit | None = None) -> Step:
        """The next step. ``edit`` computes what it does to shared objects and labels, from what they are then."""
        change = None if edit is None else self.workspace.shared.edit(edit)
        step = replace(gather(label, fixed, picks, self.hidden()), change=change)
        self._history.do(step)
        self.notice = ""
        self.workspace.note_step(step)
        return step

    def _select(self, label: str, fixed: Selection, picks: Sequence[Pick] = ()) -> Selection:
        return self._do(label, fixed, picks).selection

    def _share(self, label: str, edit: Edit) -> Change:
        """A step that changes shared objects and leaves the selection."""
        change = self._do(label, self.step.fixed, self.step.picks, edit).change
        assert change is not None
        return change

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
    def click_gaussian(self, gaussian: int, mode: Mode = "replace") -> Selection:
        """:meth:`click` on a Gaussian by its id, for 3D pickers."""
        return self._point(PointClick(gaussian, mode != "subtract"), mode)

    def _point(self, click: Click | PointClick, mode: Mode, job: Reporter = SILENT) -> Selection:
        space, step = self.workspace, self.step
        job.report("looking what is there", 0.0)
        if mode == "subtract":
            if not len(self.selection):
                raise SplatsegError("subtract: expected something selected to subtract from, found nothing")
            return self._subtract(click_features(self._shown(), click), job)
        query = make_query(self._shown(), [click])
        active = step.active
        level = active.level if mode == "add" and active and active.level is not None else self.first_level
        job.report("scoring", 0.3)
        pick = Pick.of(space.field, space.weights, query, level)
        job.report("selecting", 0.8)
        if mode == "replace":
            found = self._select("click", Selection.none(len(space)), (pick,))
        elif mode == "add":
            found = self._select("add", step.fixed, (*step.picks, pick))
        else:
            found = self._select(mode, combine_sets(self.selection, pick.selection(), mode))
        if not pick.confirmed(space.field):
            self.notice = UNKNOWN
        return found

    def _subtract(self, negative: Tensor, job: Reporter) -> Selection:
        job.report("scoring again", 0.3)
        space = self.workspace
        fixed, picks = take_out(self.step, space.field, space.weights, negative, self.first_level)
        job.report("selecting", 0.8)
        return self._select("subtract", fixed, picks)

    @locked
    def rectangle(
        self,
        view: Where,
        corners: tuple[tuple[float, float], tuple[float, float]],
        mode: Mode = "replace",
        job: Reporter = SILENT,
    ) -> Selection:
        """Select all that is seen through a rectangle between two image positions (:func:`select_box`). ``job`` reports
        and cancels.

        Raises:
            SplatsegError: outside the image, or nothing but empty space inside.
        """
        box = Box(self.workspace.camera(view), corners)
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
        content = self.workspace.shared.content
        tree = label_edit.divided(content)
        label = label_edit.label_at(self._gaussians(), tree.labels[:, content.level], self.workspace.camera(view), u, v)
        return self._select(f"label {tree.node(label).name}", combine_sets(self.selection, tree.selection(label), mode))

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
        return self._select(label, step.fixed, picks)

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

    # Objects ---------------------------------------------------------------------------------------------------------

    @locked
    def keep(self, name: str, color: Color | None = None, visible: bool = True) -> SceneObject:
        """Keep the selection as a named object.

        Raises:
            SplatsegError: nothing is selected, no name, or a bad colour.
        """
        cleaned = clean_name(name)
        return self._keep(f"keep {cleaned}", lambda content: cleaned, color, visible)

    @locked
    def hide_selection(self) -> SceneObject:
        """Take the selection out of sight, as a hidden object; :meth:`show` brings it back."""

        def free(content: Content) -> str:
            taken = {entry.name for entry in content.objects.values()}
            return next(f"hidden {i}" for i in range(1, len(taken) + 2) if f"hidden {i}" not in taken)

        return self._keep("hide", free, None, False)

    def _keep(self, label: str, name: Callable[[Content], str], color: Color | None, visible: bool) -> SceneObject:
        chosen = self.selection
        if not len(chosen):
            raise SplatsegError("keep: expected something selected, found nothing")
        key = self.workspace.shared.new_id()
        paint = label_edit.object_color(key) if color is None else check_color(color)

        def edit(content: Content) -> Change:
            return Change({key: None}, {key: SceneObject(key, name(content), paint, chosen.ids.int(), visible)})

        entry = self._share(label, edit).after[key]
        assert entry is not None
        return entry

    def _replace_object(self, key: int | str, label: str, **fields: object) -> SceneObject:
        def edit(content: Content) -> Change:
            old = content.find(key)
            return Change({old.id: old}, {old.id: replace(old, **fields)})  # type: ignore[arg-type]

        (entry,) = self._share(label, edit).after.values()
        assert entry is not None
        return entry

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

        def edit(content: Content) -> Change:
            old = content.find(key)
            return Change({old.id: old}, {old.id: None})

        self._share("delete", edit)

    @locked
    def isolate(self, key: int | str | None) -> None:
        """Show this object alone, in this session only, until it is deleted; None shows all again."""
        shared = self.workspace.shared
        with shared.lock:
            found = None if key is None else shared.content.find(key).id
            self._alone = None if found is None else (found, shared.deletions(found))

    # Labels ----------------------------------------------------------------------------------------------------------

    def _tree(self) -> LabelTree:
        return label_edit.divided(self.workspace.shared.content)

    def discretize(self, config: ClusterConfig | None = None, job: Reporter = SILENT) -> LabelTree:
        """Divide the whole scene into nested labels. Seconds to a minute: ``job`` reports and cancels.

        Raises:
            SplatsegError: another window has edited the labels meanwhile, which this would take back.
        """
        space, base = self.workspace, self.tree
        tree = discretize(space.splat, config, job.report)
        if not self._relabel("discretize", base, tree):
            raise SplatsegError(
                "labels: expected them unchanged while the scene was being divided, found them changed in another "
                "window; divide again to replace them"
            )
        return tree

    @locked
    def _relabel(self, label: str, base: LabelTree | None, tree: LabelTree, chosen: tuple[int, ...] = ()) -> bool:
        """Put ``tree`` in the place of ``base`` and select the first of ``chosen``, if any; False, and nothing is done,
        if another tree is there by now. A tree without a choice is a new one, shown at its own level."""
        shared = self.workspace.shared
        with shared.lock:
            if shared.content.tree is not base:
                return False
            level = shared.content.level if chosen else tree.default_level
            change = Change(trees=((base, shared.content.level), (tree, level)))
            fixed, picks = (tree.selection(chosen[0]), ()) if chosen else (self.step.fixed, self.step.picks)
            self._do(label, fixed, picks, lambda content: change)
        return True

    def _edit_labels(
        self, label: str, edit: Callable[[LabelTree], tuple[LabelTree, tuple[int, ...]]]
    ) -> tuple[int, ...]:
        """Put in place of the label tree what ``edit`` makes of it, and select the first of the labels it returns.

        An edit may take seconds, so it is computed beside the lock; if the tree is another one by then, the edit is
        computed again from that one. Neither window takes the other's edit back.
        """
        while True:
            base = self._tree()
            tree, parts = edit(base)
            if self._relabel(label, base, tree, parts):
                return parts

    @locked
    def set_label_level(self, level: int) -> None:
        """Show another level of the label tree, 0 coarsest."""

        def edit(content: Content) -> Change:
            tree = label_edit.divided(content)
            if not 0 <= level < tree.levels:
                raise SplatsegError(f"level: expected 0..{tree.levels - 1}, found {level}")
            return Change(trees=((tree, content.level), (tree, level)))

        self._share("label level", edit)

    def selected_labels(self) -> tuple[int, ...]:
        """The labels of the shown level that are selected as a whole."""
        return self._selected(self._tree())

    def _selected(self, tree: LabelTree) -> tuple[int, ...]:
        return label_edit.covered(tree.labels[:, min(self.label_level, tree.levels - 1)], self.selection)

    def merge_labels(self, chosen: Sequence[int] | None = None) -> int:
        """Make one label of several (the selected ones if not given); returns its id.

        Raises:
            SplatsegError: fewer than two, or labels that are parts of different things.
        """

        def edit(tree: LabelTree) -> tuple[LabelTree, tuple[int, ...]]:
            wanted = self._selected(tree) if chosen is None else tuple(chosen)
            if len(wanted) < 2:
                raise SplatsegError(f"merge: expected two labels selected as a whole, found {len(wanted)}")
            for other in wanted[1:]:
                tree = tree.merge(wanted[0], other)
            return tree, wanted[:1]

        return self._edit_labels("merge", edit)[0]

    def split_label(self, label: int | None = None, job: Reporter = SILENT) -> tuple[int, ...]:
        """Divide a label (the selected one if not given): into its parts if the tree has some, else in two by feature,
        which takes seconds for half a million Gaussians: ``job`` reports and cancels.

        Raises:
            SplatsegError: not exactly one label, or one that cannot be divided.
        """

        def edit(tree: LabelTree) -> tuple[LabelTree, tuple[int, ...]]:
            wanted = self._selected(tree) if label is None else (label,)
            if len(wanted) != 1:
                raise SplatsegError(f"split: expected one label selected as a whole, found {len(wanted)}")
            return label_edit.split(tree, wanted[0], self.workspace.field.unit, job.report)

        return self._edit_labels("split", edit)

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
