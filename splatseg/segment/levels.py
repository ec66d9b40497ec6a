"""Level proposals: the few selections that stand for all that a click may have meant, from part to group.

Any threshold on the score may be the right one; let the angle theta = arccos(score) be equally plausible anywhere
between ``nearest`` and ``farthest`` (angles, not cosines: parts of one object differ by small angles, whose cosines
are all close to 1). Selections of one query at growing angles contain one another, so that with V(theta) for the
size of a selection two of them overlap by IoU = V(theta) / V(theta'). The k proposals are the angles that maximize
the expected IoU of the right selection with the nearest proposal. Where the field holds a hierarchy, V rests while
a thing is whole and climbs while the next is swallowed: a rest counts by its width and is covered by one proposal
in full, a climb is cheap to pass over. Solved exactly by dynamic programming (k-medoids in one dimension).

Where it is known what the masks of several views agree on (``Segments``), an angle at which the selection is such a
segment is likelier than others: it counts for ``agreed`` of all plausible angles times the segment's confidence, shared
among the segments that some selection of the query equals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims
from splatseg.core.gaussians import Gaussians
from splatseg.core.segments import Segments
from splatseg.segment.scores import Scores

_SPARE = 2  # proposals beyond ``at_most`` that are looked for, as some become one


@dataclass(frozen=True)
class LevelConfig:
    """How levels are proposed.

    Attributes:
        at_least, at_most: number of proposals, as far as the scores hold so many different selections.
        gain: expected IoU that another proposal must add, beyond ``at_least``.
        nearest, farthest: the range of plausible angles, radians. Beyond ``farthest`` (near a right angle) lies what
            has nothing to do with the click.
        spread: a clicked pixel blends features, so that even the Gaussians it shows lie at an angle from it; nothing is
            plausible within the smallest angle there is plus this, which would cut through the smallest part.
        bins: resolution of the angle over [0, pi].
        smallest: share of the splat below which nothing is proposed.
        largest: share above which nothing is proposed (the whole scene is no answer to a click).
        agreed: how much the angles count at which a selection is an agreed segment, beside 1 for all plausible ones.
            0, the default, turns it off: it did not help on both dev scenes (docs/evaluation/results.md).
        alike: overlap from which a selection is a segment.
        same: overlap above which two proposals are one: a person who moves the level wants to see it.
    """

    at_least: int = 2
    at_most: int = 5
    gain: float = 0.0075
    nearest: float = 0.2
    farthest: float = 1.4
    spread: float = 0.15
    bins: int = 256
    smallest: float = 1e-5
    largest: float = 0.95
    agreed: float = 0.0
    alike: float = 0.7
    same: float = 0.9

    def __post_init__(self) -> None:
        if not 1 <= self.at_least <= self.at_most:
            raise SplatsegError(f"levels: expected 1 <= at_least <= at_most, found {self.at_least} and {self.at_most}")
        if not 0 < self.same <= 1:
            raise SplatsegError(f"levels.same: expected an overlap in (0, 1], found {self.same}")
        if self.spread < 0:
            raise SplatsegError(f"levels.spread: expected at least 0, found {self.spread}")
        if self.bins < 16 or not 0 <= self.nearest < self.farthest <= np.pi:
            raise SplatsegError(
                "levels: expected bins >= 16 and 0 <= nearest < farthest <= pi, "
                f"found {self.bins}, {self.nearest} and {self.farthest}"
            )


@dataclass(frozen=True)
class Level:
    """One proposed selection: ``scores.above(threshold)``.

    Attributes:
        threshold: score in [-1, 1].
        share: selected share of the splat (by the weights), in (0, 1].
        stability: share of the plausible thresholds that it stands for, each counted by the IoU of its selection with
            this one; the levels' sum is the expected IoU.
        confidence: views that agree / views that could, of the agreed segment that it is, times the overlap with that;
            0 where it is none.
    """

    threshold: float
    share: float
    stability: float
    confidence: float = 0.0


def surface_weights(gaussians: Gaussians) -> Tensor:
    """(n,) weight of each Gaussian in the size of a selection, summing to 1: its opacity.

    Times its area, a few large blurred background Gaussians outweigh the many small ones that make up an object.
    """
    weights = gaussians.opacities.detach()
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def propose_levels(
    scores: Scores, weights: Tensor, config: LevelConfig | None = None, segments: Segments | None = None
) -> tuple[Level, ...]:
    """Propose nested selections for one query, the smallest first.

    Args:
        scores: what the clicks gave.
        weights: (n,) how much each Gaussian counts (:func:`surface_weights`).
        config: settings.
        segments: what views agree on (``FeatureField.segments``): the levels' confidence and, by ``config.agreed``,
            how likely they are.

    Returns:
        ``at_least`` to ``at_most`` levels of rising share and falling threshold; fewer where the scores hold fewer
        different selections (a field of one value has one).

    Raises:
        SplatsegError: the weights are of another splat, or all zero.
    """
    config = config or LevelConfig()
    check_dims("weights", weights, (scores.values.shape[0],))
    total = float(weights.sum())
    if not total > 0:
        raise SplatsegError(f"weights: expected a positive sum, found {total}")
    values, counted, pattern = scores.values, weights, None
    if scores.grouped is not None:
        groups, values = scores.grouped
        counted, pattern = groups.summed(weights), groups.pattern
    index = _bins(values, config.bins)
    share = torch.bincount(index, counted / total, config.bins).double().cumsum(0).cpu().numpy()
    angles = np.linspace(0, np.pi, config.bins + 1)[1:]
    closest = float(values.max().clamp(-1, 1).acos())
    plausible = (angles >= max(config.nearest, closest + config.spread)) & (angles <= config.farthest)
    certain, prior = np.zeros(config.bins), np.zeros(config.bins)
    if segments is not None and (segments.views > 0).any() and plausible.any():
        # Where segments do not count, nothing is asked of angles beyond the plausible: most of the scene lies there.
        end = config.bins if config.agreed else int(np.flatnonzero(plausible)[-1]) + 1
        near = (index < end).nonzero()[:, 0]
        pattern = segments.pattern_on(index.device) if pattern is None else pattern
        inside = _inside(index[near], pattern[near], counted[near], segments, end) / total
        certain[:end], prior[:end] = _standing(inside, segments.areas(weights), share[:end], segments, config)
        prior = np.where(plausible, prior, 0)
    plausible &= (share >= config.smallest) & (share <= config.largest)
    bins = np.flatnonzero(plausible)
    if not len(bins):
        first = int(np.argmax(share > 0))
        return (Level(float(np.cos(angles[first])), float(share[first]), 1.0),)
    likely = 1 / len(bins) + config.agreed * prior[bins]
    sizes = np.log(share[bins])
    covers = distinct(cover(sizes, config.at_most + _SPARE, likely / likely.sum()), sizes, config)
    best = covers[0]
    for found in covers[1:]:
        worth = sum(value for _, value in found) - sum(value for _, value in best)
        if len(found) > config.at_least and worth < config.gain:
            break
        best = found
    return tuple(
        Level(float(np.cos(angles[bins[i]])), float(share[bins[i]]), value, float(certain[bins[i]]))
        for i, value in best
    )


def _standing(
    inside: NDArray[np.float64],
    areas: NDArray[np.float64],
    share: NDArray[np.float64],
    segments: Segments,
    config: LevelConfig,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the first bins, as many as ``share`` has: the confidence of the segment that the selection within the bin's
    angle is, and how likely, summing over all bins to the mean confidence of those, that segment is meant.

    ``areas`` (s,) and ``inside`` (s, bins): share of the scene that segments have, in all and within the bin's angle.
    """
    agreed = np.flatnonzero((segments.views > 0) & (areas > 0))
    inside, areas = inside[agreed], areas[agreed, None]
    overlap = inside / np.maximum(areas + share - inside, 1e-12)
    best = overlap.argmax(axis=1)
    reached = overlap[np.arange(len(best)), best]
    certain = (overlap * (overlap >= config.alike) * segments.confidence[agreed][:, None]).max(axis=0, initial=0)
    # A thing rests at all angles up to the next one's: any of them selects it.
    rests = (overlap >= reached[:, None] - 0.02) & (reached >= config.alike)[:, None]
    mass = reached * segments.confidence[agreed] / np.maximum(rests.sum(axis=1), 1)
    return certain, mass @ rests / max(int((reached >= config.alike).sum()), 1)


def _inside(index: Tensor, pattern: Tensor, weights: Tensor, segments: Segments, bins: int) -> NDArray[np.float64]:
    """(s, bins) weight that each segment has within the angle of each of the first bins, by bin, pattern and
    weight of what lies there."""
    table = segments.pattern_table
    there = torch.zeros(table.shape[0], dtype=torch.bool, device=index.device)
    there[pattern] = True
    number = there.cumsum(0) - 1
    counts = torch.bincount(number[pattern] * bins + index, weights, int(there.sum()) * bins).double().view(-1, bins)
    return np.asarray(table[there.cpu().numpy()].T @ counts.cpu().numpy()).cumsum(axis=1)


def cover(
    log_sizes: NDArray[np.float64], most: int, likely: NDArray[np.float64] | None = None
) -> list[list[tuple[int, float]]]:
    """The best 1, 2, .. ``most`` of n nested selections to stand for all of them.

    Args:
        log_sizes: (n,) ascending logarithms of their sizes.
        likely: (n,) how plausible each is, summing to 1; all equally if not given.

    Returns:
        For each number up to ``most`` (at most the number of different sizes): the picked selections, ascending,
        and the mean over all n of the IoU with the picked one that stands for them, as far as this one does.
    """
    n = len(log_sizes)
    overlap = np.exp(-np.abs(log_sizes[:, None] - log_sizes[None])) * (1 / n if likely is None else likely[None])
    summed = np.concatenate([np.zeros((n, 1)), overlap.cumsum(1)], axis=1)
    # worth[a, b]: what the best single pick covers of the run a..b-1, and which one it is.
    worth, pick = np.full((n + 1, n + 1), -np.inf), np.zeros((n + 1, n + 1), np.int64)
    for a in range(n):
        runs = summed[:, a + 1 :] - summed[:, a : a + 1]
        pick[a, a + 1 :], worth[a, a + 1 :] = runs.argmax(0), runs.max(0)
    most = min(most, len(np.unique(log_sizes)))
    total = worth[0]
    cuts: list[NDArray[np.int64]] = []
    found = [_picked(worth, pick, cuts, n)]
    for _ in range(most - 1):
        joined = total[:, None] + worth
        cuts.append(joined.argmax(0))
        total = joined.max(0)
        found.append(_picked(worth, pick, cuts, n))
    return found


def distinct(
    covers: list[list[tuple[int, float]]], log_sizes: NDArray[np.float64], config: LevelConfig
) -> list[list[tuple[int, float]]]:
    """The best of ``covers`` (:func:`cover`) for each number up to ``config.at_most`` of picks, after those that
    overlap by more than ``config.same`` have become one: the one that stands for more, for both as far as they
    overlap."""
    best: dict[int, list[tuple[int, float]]] = {}
    for found in covers:
        apart: list[tuple[int, float]] = []
        for pick in found:
            overlap = np.exp(log_sizes[apart[-1][0]] - log_sizes[pick[0]]) if apart else 0.0
            if overlap > config.same:
                less, more = sorted((apart.pop(), pick), key=lambda each: each[1])
                pick = (more[0], more[1] + float(overlap) * less[1])
            apart.append(pick)
        known = best.get(len(apart))
        if known is None or sum(value for _, value in apart) > sum(value for _, value in known):
            best[len(apart)] = apart
    return [best[number] for number in sorted(best) if number <= config.at_most]


def _picked(
    worth: NDArray[np.float64], pick: NDArray[np.int64], cuts: list[NDArray[np.int64]], n: int
) -> list[tuple[int, float]]:
    """Follow the cuts back from the last run to the first."""
    runs, end = [], n
    for cut in reversed(cuts):
        runs.append((int(cut[end]), end))
        end = int(cut[end])
    runs.append((0, end))
    return [(int(pick[a, b]), float(worth[a, b])) for a, b in reversed(runs)]


def _bins(values: Tensor, bins: int) -> Tensor:
    """(n,) int64 bin of the angle of each score over [0, pi]."""
    return (values.clamp(-1, 1).acos() * (bins / np.pi)).long().clamp_(0, bins - 1)
