"""The label tree as a session edits it, as steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from splatseg.core.errors import SplatsegError
from splatseg.core.label_tree import LabelTree
from splatseg.core.progress import SILENT, Reporter
from splatseg.core.selection import Selection
from splatseg.segment.discretize import ClusterConfig, discretize
from splatseg.session import label_edit
from splatseg.session.locked import locked
from splatseg.session.shared import Change, Content
from splatseg.session.state import Mode, combine_sets
from splatseg.session.steps import SessionSteps


class LabelSteps(SessionSteps):
    """Dividing the whole scene into labels, and editing them by hand."""

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

    @locked
    def select_label(self, label: int, mode: Mode = "replace") -> Selection:
        """Select a label of any level by its id.

        Raises:
            SplatsegError: no such label, or the scene is not divided.
        """
        tree = self._tree()
        chosen = tree.selection(label)
        return self._select(f"label {tree.node(label).name}", combine_sets(self.selection, chosen, mode))

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
                raise SplatsegError(
                    f"merge: expected two whole labels selected, found {len(wanted)}; click one, Shift-click another"
                )
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
                raise SplatsegError(f"split: expected one whole label selected, found {len(wanted)}; click one")
            return label_edit.split(tree, wanted[0], self.workspace.field.unit, job.report)

        return self._edit_labels("split", edit)
