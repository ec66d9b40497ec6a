"""One state of a person's selection, and the steps that lead from one to the next. All of it is immutable.

A selection is a ``fixed`` set, made by rectangles and set operations, together with ``picks``: things that were
clicked, each with its own scores, proposed levels and threshold. The last pick is the one that the sliders move.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.selection import Selection
from splatseg.segment.clicks import Query
from splatseg.segment.levels import Level, propose_levels
from splatseg.segment.scores import UNCONFIRMED, Scores, check_threshold, scores
from splatseg.session.shared import Change

Mode = Literal["replace", "add", "subtract", "intersect"]
NODE_BYTES = 500  # of a label's node with its name, about
MODES: tuple[Mode, ...] = ("replace", "add", "subtract", "intersect")


@dataclass(frozen=True, eq=False)
class Pick:
    """Something that was clicked.

    Attributes:
        query: the features clicked, wanted and not.
        scores: of every Gaussian.
        levels: proposed thresholds, the smallest selection first.
        threshold: the one in use.
        level: index of the proposed level in use, None when the threshold was set by hand.
    """

    query: Query
    scores: Scores
    levels: tuple[Level, ...]
    threshold: float
    level: int | None

    @classmethod
    def of(cls, field: FeatureField, weights: Tensor, query: Query, level: int) -> Pick:
        """Score ``query`` and take its ``level``-th proposal, or the largest one if there are fewer."""
        found = scores(field, query)
        levels = propose_levels(found, weights, segments=field.segments)
        index = min(level, len(levels) - 1)
        return cls(query, Scores(found.values), levels, levels[index].threshold, index)

    def selection(self) -> Selection:
        return self.scores.above(self.threshold)

    def confirmed(self, field: FeatureField) -> bool:
        """Whether the masks of several views hold what was clicked; True for a field that does not know."""
        if field.segments is None:
            return True
        return self.scores.confidence(field) >= UNCONFIRMED

    def at_level(self, index: int) -> Pick:
        """At a proposed level.

        Raises:
            SplatsegError: there is no such level.
        """
        if not 0 <= index < len(self.levels):
            raise SplatsegError(f"level: expected 0..{len(self.levels) - 1}, found {index}")
        return replace(self, threshold=self.levels[index].threshold, level=index)

    def at_threshold(self, threshold: float) -> Pick:
        """At a threshold in [-1, 1], else :class:`SplatsegError`."""
        return replace(self, threshold=check_threshold(threshold), level=None)

    def without(self, field: FeatureField, weights: Tensor, negative: Tensor) -> Pick:
        """Scored again with ``negative`` (k, d) features unwanted; the threshold stays."""
        query = Query(self.query.positive, torch.cat([self.query.negative, negative]))
        found = scores(field, query)
        levels = propose_levels(found, weights, segments=field.segments)
        return replace(self, query=query, scores=Scores(found.values), levels=levels, level=None)


@dataclass(frozen=True, eq=False)
class Step:
    """A state and how it came about.

    Attributes:
        label: what the person did, shown by undo.
        fixed: the part that no slider moves.
        picks: the clicked things.
        selection: all of it, without what was hidden at the time.
        change: the change of the shared objects or labels that this step made, if any.
        drag: which drag of a slider made it; None if none did, or nobody said.
    """

    label: str
    fixed: Selection
    picks: tuple[Pick, ...]
    selection: Selection
    change: Change | None = None
    drag: int | None = None

    @property
    def active(self) -> Pick | None:
        """The pick that the sliders move."""
        return self.picks[-1] if self.picks else None


def parts_of(step: Step) -> Iterator[tuple[object, int]]:
    """The arrays that ``step`` holds and their bytes, for a bounded history; what steps share is the same object."""
    tensors = [step.fixed.mask, step.selection.mask]
    for pick in step.picks:
        tensors += [pick.scores.values, pick.query.positive, pick.query.negative]
    change = step.change or Change()
    tensors += [entry.ids for entry in (*change.before.values(), *change.after.values()) if entry is not None]
    for tensor in tensors:
        yield tensor, tensor.numel() * tensor.element_size()
    for tree, _ in change.trees or ():
        if tree is not None:
            yield tree.labels, tree.labels.nbytes
            yield tree.nodes, NODE_BYTES * len(tree.nodes)


def gather(label: str, fixed: Selection, picks: Sequence[Pick], hidden: Tensor | None) -> Step:
    """The step whose selection is ``fixed`` and ``picks`` together."""
    together = reduce(Selection.union, (pick.selection() for pick in picks), fixed)
    if hidden is not None:
        together = Selection(together.mask & ~hidden)
    return Step(label, fixed, tuple(picks), together)


def subtract_query(
    step: Step, field: FeatureField, weights: Tensor, negative: Tensor, level: int
) -> tuple[Selection, tuple[Pick, ...]]:
    """The fixed part and the picks of ``step`` with the thing of the unwanted features ``negative`` (k, d) taken out.

    Picks are scored again. Where that leaves most of the thing in (the click is where the pick itself was clicked, so
    no score can tell them apart), and in fixed sets, which have no scores, it leaves as a set: the pick's ``level``-th
    proposal.
    """
    unwanted = Pick.of(field, weights, Query(negative, negative.new_zeros((0, negative.shape[1]))), level).selection()
    fixed, picks = step.fixed, []
    for pick in step.picks:
        again = pick.without(field, weights, negative)
        if len(again.selection() & unwanted) * 2 > len(pick.selection() & unwanted):
            fixed = fixed | again.selection()
        else:
            picks.append(again)
    return fixed - unwanted, tuple(picks)


def combine_sets(current: Selection, other: Selection, mode: Mode) -> Selection:
    """``other`` put in place of, added to, taken from or intersected with ``current``."""
    if mode == "replace":
        return other
    if mode == "add":
        return current | other
    if mode == "subtract":
        return current - other
    if mode == "intersect":
        return current & other
    raise SplatsegError(f"mode: expected one of {', '.join(MODES)}, found {mode!r}")


def level_names(count: int) -> tuple[str, ...]:
    """What to call ``count`` nested levels, the smallest first."""
    named = {1: ("part",), 2: ("part", "object"), 3: ("part", "object", "group")}
    middle = (f"object {i}" for i in range(1, count - 1))
    return named.get(count) or ("part", *middle, "group")
