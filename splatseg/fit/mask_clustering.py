"""Pixel pools of all views -> segments: masks that several views agree on, as sets of Gaussians.

A segmenter looks at one photo at a time: an object has a mask in one view and none in the next, two things are merged
here and split there. Blending weights say which Gaussians support which mask, so that masks of different views can be
compared where they are: on the splat. Masks that overlap there, as far as both views see, are one segment (the idea of
MaskClustering, Yan et al., CVPR 2024, on Gaussians in place of points); what too few views show is dropped; a Gaussian
belongs to a segment if the segment's masks hold it in most of what their views show of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.segments import Segments
from splatseg.fit.pixel_pools import PixelPool
from splatseg.fit.segment_borders import BorderConfig, settle
from splatseg.ops.mask_products import MaskEvidence, gather, vote

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
ROUNDING = 2e-5  # of overlaps, which are ratios of float32 sums
ENOUGH = 0.3  # of what the best view shows of a segment: a view that shows less can neither confirm nor refute it


@dataclass(frozen=True)
class MaskClusteringConfig:
    """When masks of different views are the same thing.

    Attributes:
        pixels: looked at in a view, drawn from all of them; a part of a few hundred pixels needs a good share of them.
        total_pixels: ... and in all views together; bounds the time and, at some 40 bytes per pixel, the memory.
        seed_iou: overlap, on the Gaussians that both views see, from which two masks found a segment. High, as an
            object and its largest part may overlap by more than ``min_iou``.
        late_iou: ... from which masks do that have then found no segment: small parts, which overlap less for the same
            error at their border. ``seed_iou`` turns it off.
        min_iou: overlap from which a mask counts as one of a segment's.
        faint_iou: thin or small things overlap by less still where borders lie off. Masks that overlap by this much, by
            no less than masks of their size do (:func:`overlap_of_size`), and match no other mask of each other's view
            better found a segment where twice as many views agree. What such a mask then joins may overlap it by as
            little as these do (:func:`usual_overlap`). ``late_iou`` turns it off.
        min_views: a segment that fewer views show is dropped; where only few views see a third of it, one that fewer
            than half of them show, or a single one.
        min_share: ... and one that is shown in less than this share of the views that see a third of it and have masks
            on most of that: a view that has none there neither confirms nor refutes it.
        duplicate_iou: overlap from which two segments are one.
        min_weight: a view sees a Gaussian whose blending weights sum to more in its pool.
        nesting: a segment takes over the Gaussians of another that lies in it by more than this share; 1 turns it off.
        rest: what a segment has beside its parts is a segment too, if it is more than this share of it and no
            duplicate: the door of a cabinet without its handle. 1, the default, turns it off: where parts were missed,
            what is left is no part.
        rounds: how often the masks are handed out anew to the segments found so far.
        max_gaussians: masks are compared on at most so many Gaussians; bounds time and memory on large splats.
        borders: how what the masks of a segment disagree on is settled.
    """

    pixels: int = 32_768
    total_pixels: int = 2**23
    seed_iou: float = 0.85
    late_iou: float = 0.7
    min_iou: float = 0.6
    faint_iou: float = 0.25
    min_views: int = 3
    min_share: float = 0.15
    duplicate_iou: float = 0.9
    min_weight: float = 0.02
    nesting: float = 0.9
    rest: float = 1.0
    rounds: int = 3
    max_gaussians: int = 200_000
    borders: BorderConfig = field(default_factory=BorderConfig)

    def __post_init__(self) -> None:
        for name in ("seed_iou", "late_iou", "min_iou", "duplicate_iou", "nesting"):
            if not 0.5 <= getattr(self, name) <= 1:
                raise SplatsegError(
                    f"mask_clustering.{name}: expected a share in [0.5, 1], found {getattr(self, name)}"
                )
        if self.late_iou > self.seed_iou:
            raise SplatsegError(
                f"mask_clustering.late_iou: expected at most seed_iou={self.seed_iou}, found {self.late_iou}"
            )
        if not 0 < self.faint_iou <= self.late_iou:
            raise SplatsegError(
                f"mask_clustering.faint_iou: expected in (0, late_iou={self.late_iou}], found {self.faint_iou}"
            )
        for name in ("min_share", "rest"):
            if not 0 <= getattr(self, name) <= 1:
                raise SplatsegError(f"mask_clustering.{name}: expected a share in [0, 1], found {getattr(self, name)}")
        for name in ("pixels", "total_pixels", "min_views", "rounds", "max_gaussians"):
            if getattr(self, name) < 1:
                raise SplatsegError(f"mask_clustering.{name}: expected at least 1, found {getattr(self, name)}")

    def needed(self, could: Ints) -> Ints:
        """Views that must show what ``could`` views see: half of them, two at least and ``min_views`` at most."""
        return np.minimum(np.maximum(-(-could // 2), 2), self.min_views)


def find_segments(
    pools: Iterable[PixelPool],
    count: int,
    config: MaskClusteringConfig = MaskClusteringConfig(),
    seed: int = 0,
    gaussians: Gaussians | None = None,
) -> Segments:
    """The segments of a splat of ``count`` Gaussians; none where no mask is confirmed.

    Args:
        pools: one a view, traced on that splat, of masked and unmasked pixels alike; taken one at a time.
        count: number of Gaussians.
        config: settings.
        seed: of the choice of Gaussians that masks are compared on, where there are more than ``max_gaussians``.
        gaussians: the splat, by whose looks borders are settled; None leaves them to the votes alone.
    """
    evidence = gather(pools, count, config.min_weight)
    if evidence is None:
        return Segments.none(count)
    compared = evidence
    if count > config.max_gaussians:
        chosen = np.random.default_rng(seed).choice(count, config.max_gaussians, replace=False)
        compared = evidence.rows(np.sort(chosen))
    agreement, shown = compared.agreement(config.faint_iou), compared.shown()
    needed = config.needed(_could(shown))
    mutual = mutual_best(agreement, compared.view)
    usual = usual_overlap(agreement, mutual, needed)
    of_size = overlap_of_size(agreement, mutual, shown[np.arange(len(compared.view)), compared.view])
    least = np.minimum(of_size[agreement.row], of_size[agreement.col])
    faint = np.where(mutual, np.maximum(least, np.float32(config.faint_iou)), np.float32(np.inf))
    owner = np.full(len(compared.view), -1, np.int64)
    stages: list[tuple[float | Floats, Ints]] = [(config.seed_iou, needed), (config.late_iou, needed)]
    stages.append((faint, 2 * needed))  # the less two masks overlap, the more of them must
    for iou, members in stages:
        owner = _group(agreement, owner, iou, members)
        for _ in range(config.rounds):
            owner = _hand_out(compared, owner, usual, config)
    if gaussians is None:
        inside = vote(evidence, owner)
    else:
        inside = settle(evidence.shares(owner, config.borders.doubt), gaussians, evidence.weights, config.borders)
    if config.nesting < 1:
        inside = _nest(inside, evidence.mutual(inside), config.nesting)
    view = evidence.view
    views = _distinct_views(owner, view, inside.shape[1])
    could = np.maximum(_could(evidence.shown(inside)), views)
    agreed = evidence.agreed(owner, inside)
    covered = evidence.agreed(np.zeros(len(view), np.int64), sparse.csr_matrix(np.ones((count, 1), np.float32)))
    if config.rest < 1 and len(views):
        rests, parents = _rests(inside, evidence, config)
        inside = sparse.hstack([inside, *rests]).tocsr()
        views, could = (np.concatenate([counts, counts[parents]]) for counts in (views, could))
    return Segments(inside.astype(bool), evidence.weights, views, could, agreed, covered)


def _sees(shown: Floats) -> NDArray[np.bool_]:
    """(s, views) whether a view sees more than :data:`ENOUGH` of what the best one does, by the weight each sees."""
    return np.asarray(shown > ENOUGH * shown.max(axis=1, initial=0, keepdims=True))


def _could(shown: Floats) -> Ints:
    """(s,) views that see enough of each set to have a mask of it, by the weight (s, views) that each sees."""
    return _sees(shown).sum(axis=1)


def mutual_best(agreement: sparse.coo_matrix, view: Ints) -> NDArray[np.bool_]:
    """Of each entry whether the two masks overlap no other mask of each other's view more.

    Args:
        agreement: (m, m) symmetric overlap of masks of different views, from some least on.
        view: (m,) of each mask.
    """
    a = agreement
    best = np.zeros((len(view), int(view.max(initial=-1)) + 1), np.float32)
    np.maximum.at(best, (a.row, view[a.col]), a.data)
    least = a.data + ROUNDING
    return np.asarray((least >= best[a.row, view[a.col]]) & (least >= best[a.col, view[a.row]]))


def usual_overlap(agreement: sparse.coo_matrix, mutual: NDArray[np.bool_], needed: Ints) -> Floats:
    """(m,) what a mask and its match in another view usually overlap by: the median over views where each is the
    other's best (``mutual``, of the entries of ``agreement``); 1 where those are fewer than ``needed`` (m,).

    How far borders lie off shows here mask by mask, whatever its size and shape: those of a handle a few pixels thin
    overlap by a third where those of the door around it overlap by nine tenths.
    """
    row = agreement.row[mutual].astype(np.int64)
    usual = _quantiles(agreement.data[mutual], row, len(needed))
    usual[np.bincount(row, minlength=len(needed)) < needed] = 1
    return usual


def overlap_of_size(agreement: sparse.coo_matrix, mutual: NDArray[np.bool_], size: Floats) -> Floats:
    """(m,) what all but a quarter of the matches (``mutual``, of the entries of ``agreement``) of masks of like
    ``size`` (m,) overlap by, at least: sizes between the same powers of two. 1 where those have no match.

    Where borders lie off they lie off for all masks, and more of a small one: what overlaps by little among masks of
    its size that overlap by much has met by chance.
    """
    power = np.frexp(size)[1].astype(np.int64)
    power -= power.min(initial=0)
    matches = _quantiles(agreement.data[mutual], power[agreement.row[mutual]], int(power.max(initial=0)) + 1, 0.25)
    return matches[power]


def _group(agreement: sparse.coo_matrix, owner: Ints, iou: float | Floats, needed: Ints) -> Ints:
    """(m,) segment of each mask, -1 for none: those of ``owner`` and new ones among the masks that have none there.

    A segment takes as many masks as ``needed`` (m,) says of its first. The mask that most others agree with takes
    those, and so on. ``iou``: least overlap of two masks that are one thing, for all or for each entry.
    """
    a = agreement
    free = (a.data >= iou - ROUNDING) & (owner[a.row] < 0) & (owner[a.col] < 0)
    graph = sparse.csr_matrix((a.data[free], (a.row[free], a.col[free])), shape=a.shape)
    owner = owner.copy()
    found = int(owner.max(initial=-1)) + 1
    agreeing = np.diff(graph.indptr)
    order = np.argsort(-agreeing, kind="stable")
    for mask in order[(owner[order] < 0) & (agreeing[order] + 1 >= needed[order])]:
        if owner[mask] >= 0:
            continue
        others = graph.indices[graph.indptr[mask] : graph.indptr[mask + 1]]
        members = np.append(others[owner[others] < 0], mask)
        if len(members) >= needed[mask]:
            owner[members] = found
            found += 1
    return owner


def _hand_out(evidence: MaskEvidence, owner: Ints, usual: Floats, config: MaskClusteringConfig) -> Ints:
    """Every mask to the segment it overlaps most, after dropping duplicates; segments with too few views end.

    By ``min_iou`` at least, or, where that is less, by what is usual: the mean of that for the mask and for those of
    the segment (``usual`` (m,)).
    """
    sets = vote(evidence, owner)
    distinct = _distinct(evidence.mutual(sets), np.bincount(owner[owner >= 0]), config.duplicate_iou)
    sets, of_set = sets[:, distinct], _quantiles(usual, owner, sets.shape[1])[distinct]
    overlap, shown = evidence.matches(sets, float(min(config.min_iou, of_set.min(initial=1))))
    least = np.minimum(config.min_iou, (usual[overlap.row] + of_set[overlap.col]) / 2)
    sees = _sees(shown)
    told = (sees & (evidence.masked(sets) > 0.5 * shown)).sum(axis=1)
    best = _best_column(overlap, least)
    views = _distinct_views(best, evidence.view, sets.shape[1])
    kept = views >= np.maximum(config.needed(sees.sum(axis=1)), config.min_share * told)
    number = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)  # at the end that of no segment
    return number[best]


def _quantiles(values: Floats, group: Ints, count: int, share: float = 0.5) -> Floats:
    """(count,) the value with ``share`` of the ``values`` of each ``group`` 0..count-1 below it, the upper one of two
    (the median, that is); 1 of none."""
    used = group >= 0
    values, group = values[used], group[used]
    ordered = values[np.lexsort((values, group))]
    size = np.bincount(group, minlength=count)
    chosen = np.cumsum(size) - size + (share * size).astype(np.int64)
    quantiles = np.ones(count, np.float32)
    quantiles[size > 0] = ordered[chosen[size > 0]]
    return quantiles


def _best_column(overlap: sparse.coo_matrix, least: Floats) -> Ints:
    """(m,) column of the largest entry of each row, -1 where that is below what it must be at ``least`` (of each
    entry); the last of equal ones, and what rounding alone makes unequal counts as equal: devices add up in different
    orders."""
    top = np.zeros(overlap.shape[0], np.float32)
    np.maximum.at(top, overlap.row, overlap.data)
    chosen = (overlap.data >= least - ROUNDING) & (overlap.data >= top[overlap.row] - ROUNDING)
    best = np.full(overlap.shape[0], -1, np.int64)
    np.maximum.at(best, overlap.row[chosen], overlap.col[chosen])
    return best


def _distinct_views(owner: Ints, view: Ints, count: int) -> Ints:
    """(count,) views that the masks of each segment come from: ``owner`` (m,) segment of each mask, -1 for none."""
    owned, views = owner >= 0, int(view.max(initial=0)) + 1
    pairs = np.unique(owner[owned] * views + view[owned])
    return np.bincount(pairs // views, minlength=count)


def _distinct(shared: Floats, support: Ints, duplicate_iou: float) -> list[int]:
    """Columns that are no duplicate of one with more masks, by the weight ``shared`` (s, s) of each two; empty ones
    left out."""
    area = shared.diagonal()
    kept: list[int] = []
    for column in np.argsort(-support, kind="stable"):
        union = area[column] + area[kept] - shared[column, kept]
        if area[column] > 0 and not (shared[column, kept] >= duplicate_iou * union).any():
            kept.append(int(column))
    return kept


def _nest(inside: sparse.csr_matrix, overlap: Floats, share: float) -> sparse.csr_matrix:
    """Every segment takes over those that lie in it by more than ``share``, from the smallest up; ``overlap`` (s, s) is
    the weight that each two share."""
    area = overlap.diagonal()
    order = np.argsort(area, kind="stable")
    by_column = inside.tocsc()
    columns = np.split(by_column.indices, by_column.indptr[1:-1])
    taken_over = np.zeros(inside.shape[0], bool)
    for position, large in enumerate(order):
        smaller = order[:position]
        within = smaller[overlap[smaller, large] > share * area[smaller]]
        if len(within):  # marked all at once: a segment may take over hundreds of a million Gaussians each
            for segment in (large, *within):
                taken_over[columns[segment]] = True
            columns[large] = np.flatnonzero(taken_over).astype(columns[large].dtype)
            taken_over[columns[large]] = False
    ends = np.cumsum([0, *(len(one) for one in columns)])
    ones = np.ones(ends[-1], np.float32)
    return sparse.csc_matrix((ones, np.concatenate(columns), ends), inside.shape).tocsr() if len(area) else inside


def _rests(
    inside: sparse.csr_matrix, evidence: MaskEvidence, config: MaskClusteringConfig
) -> tuple[list[sparse.csr_matrix], list[int]]:
    """(n, 1) columns of what segments have beside their parts, where it is worth a segment, and those segments."""
    weights, overlap = evidence.weights, evidence.mutual(inside)
    area = overlap.diagonal()
    rests: list[sparse.csr_matrix] = []
    parents: list[int] = []
    for whole in range(len(area)):
        within = (overlap[whole] > config.nesting * area) & (area < config.duplicate_iou * area[whole])
        if not within.any():
            continue
        part = np.asarray(inside[:, np.flatnonzero(within)].sum(axis=1)).ravel() > 0
        rest = (inside[:, [whole]].toarray().ravel() > 0) & ~part
        size = float(weights[rest].sum())
        shared = inside.T @ np.where(rest, weights, 0)
        if size > config.rest * area[whole] and not (shared >= config.duplicate_iou * (size + area - shared)).any():
            rests.append(sparse.csr_matrix(rest[:, None], dtype=np.float32))
            parents.append(whole)
    return rests, parents
