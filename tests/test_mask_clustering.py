"""Segments that views agree on: found over gaps in the masks, across occlusion; false masks and duplicates dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from splatseg.core.errors import SplatsegError
from splatseg.fit.mask_clustering import (
    MaskClusteringConfig,
    Segments,
    find_segments,
    mutual_best,
    overlap_of_size,
    usual_overlap,
)
from splatseg.fit.pixel_pools import PixelPool
from splatseg.fit.segment_features import SegmentFeatureConfig, fit_nested_features, segment_features
from splatseg.ops import Contributions
from splatseg.ops.mask_products import observe as blocked_observe
from splatseg.ops.reference.mask_products import observe as sparse_observe

PART_A, PART_B, OTHER = range(10), range(10, 20), range(20, 40)
OBJECT = range(20)


def pool_of(masks: Sequence[Iterable[int]], visible: Iterable[int] = range(40)) -> PixelPool:
    """A view in which every visible Gaussian fills one pixel and ``masks`` hold the pixels of theirs."""
    ids = torch.tensor(list(visible))
    bits = torch.tensor([sum(1 << m for m, mask in enumerate(masks) if g in mask) for g in ids.tolist()])
    present, patch = torch.cat([torch.zeros(1, dtype=torch.int64), bits]).unique(return_inverse=True)
    m = len(ids)
    contributions = Contributions(
        pixels=torch.zeros(m, 2, dtype=torch.int32),
        order=torch.arange(m),
        offsets=torch.arange(m + 1),
        ids=ids.int(),
        weights=torch.ones(m),
    )
    return PixelPool(contributions, patch[1:].nonzero()[:, 0], patch[1:], present[:, None])


def observed(pool: PixelPool, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What both implementations say: (count, masks) 0/1, and (count,) weights."""
    ids, on_matrix, some_weights = sparse_observe(pool, count)
    sparse_table, weight = np.zeros((count, on_matrix.shape[1])), np.zeros(count, np.float32)
    sparse_table[ids], weight[ids] = on_matrix.toarray(), some_weights
    seen = blocked_observe(pool, count, 0.0)
    table, weight_too = np.zeros((count, seen.width)), np.zeros(count, np.float32)
    table[seen.gaussians[seen.row], seen.mask] = 1
    weight_too[seen.gaussians] = seen.weight
    return [(sparse_table, weight), (table, weight_too)]


def sets_of(segments: Segments) -> set[frozenset[int]]:
    dense = segments.inside.toarray()
    return {frozenset(np.flatnonzero(dense[:, k]).tolist()) for k in range(len(segments))}


def wanted(*sets: Iterable[int]) -> set[frozenset[int]]:
    return {frozenset(one) for one in sets}


@pytest.fixture
def gappy() -> list[PixelPool]:
    """Eight views; each leaves one true mask out, and two hold a mask that nobody else has."""
    truth = [PART_A, PART_B, OBJECT, OTHER]
    pools = []
    for view in range(8):
        masks: list[Iterable[int]] = [mask for k, mask in enumerate(truth) if k != view % 4]
        if view == 2:
            masks.append(range(5, 15))
        if view == 5:
            masks.append(range(15, 30))
        pools.append(pool_of(masks))
    return pools


def test_masks_missing_in_some_views_are_found_and_false_ones_dropped(gappy: list[PixelPool]) -> None:
    segments = find_segments(gappy, 40)
    assert sets_of(segments) == wanted(PART_A, PART_B, OBJECT, OTHER)
    assert segments.views.tolist() == [6, 6, 6, 6]


def test_a_gaussian_outside_a_jittered_mask_follows_the_majority() -> None:
    pools = [pool_of([[g for g in OTHER if g != 20 + view], PART_A]) for view in range(6)]
    assert sets_of(find_segments(pools, 40)) == wanted(PART_A, OTHER)


def test_two_sides_of_one_object_are_one_segment() -> None:
    """No view sees all of it: views are compared on what both see, and a Gaussian is judged by those that see it."""
    sides = [range(14), range(6, 20)] * 3
    pools = [pool_of([OBJECT, OTHER], visible=[*side, *OTHER]) for side in sides]
    assert sets_of(find_segments(pools, 40)) == wanted(OBJECT, OTHER)


def test_what_a_view_leaves_unmasked_speaks_against_a_mask() -> None:
    """Two lemons with one mask in some views, and only the first lemon masked in others: that mask is not the pair."""
    pools = [pool_of([OBJECT, OTHER])] * 3 + [pool_of([PART_A, OTHER])] * 4
    assert sets_of(find_segments(pools, 40)) == wanted(OBJECT, PART_A, OTHER)


def test_duplicates_become_one_segment() -> None:
    """Masks of two sizes of one thing agree within each size; the better supported size stays."""
    sizes = [range(20)] * 5 + [range(19)] * 3
    pools = [pool_of([size, OTHER]) for size in sizes]
    segments = find_segments(pools, 40, MaskClusteringConfig(seed_iou=0.97))
    assert sets_of(segments) == wanted(OBJECT, OTHER)


def test_what_agrees_less_is_founded_late() -> None:
    """A small part of which every view's mask misses another Gaussian: each two overlap by 0.8 only."""
    pools = [pool_of([[g for g in PART_A if g != view], OTHER]) for view in range(6)]
    assert sets_of(find_segments(pools, 40)) == wanted(PART_A, OTHER)
    assert sets_of(find_segments(pools, 40, MaskClusteringConfig(late_iou=0.85, faint_iou=0.85))) == wanted(OTHER)


def test_what_is_founded_late_takes_nothing_from_what_is_there() -> None:
    """An object and its largest part overlap by 0.75; founded at that overlap from the start they would be one."""
    pools = [pool_of([OBJECT, OTHER])] * 4 + [pool_of([range(15), OTHER])] * 3
    assert sets_of(find_segments(pools, 40)) == wanted(OBJECT, range(15), OTHER)
    assert sets_of(find_segments(pools, 40, MaskClusteringConfig(seed_iou=0.7))) == wanted(OBJECT, OTHER)


def test_a_segment_takes_over_what_lies_in_it() -> None:
    pools = [pool_of([PART_A, [*range(1, 20)], OTHER]) for _ in range(4)]
    assert sets_of(find_segments(pools, 40, MaskClusteringConfig(nesting=0.8))) == wanted(PART_A, OBJECT, OTHER)
    assert sets_of(find_segments(pools, 40, MaskClusteringConfig(nesting=1))) == wanted(PART_A, range(1, 20), OTHER)


def test_what_a_segment_has_beside_its_parts_is_a_segment() -> None:
    """A door of which only the handle has masks of its own: the panel is what is left, with the views of the door."""
    pools = [pool_of([PART_A, OBJECT, OTHER])] * 4
    segments = find_segments(pools, 40, MaskClusteringConfig(rest=0.1))
    assert sets_of(segments) == wanted(PART_A, PART_B, OBJECT, OTHER)
    assert segments.views.tolist() == [4, 4, 4, 4]
    assert sets_of(find_segments(pools, 40)) == wanted(PART_A, OBJECT, OTHER)


def test_a_sliver_beside_the_parts_is_none() -> None:
    pools = [pool_of([range(9), range(9, 17), range(18), OTHER])] * 4
    assert sets_of(find_segments(pools, 40, MaskClusteringConfig(rest=0.1))) == wanted(
        range(9), range(9, 17), range(18), OTHER
    )
    with_sliver = find_segments(pools, 40, MaskClusteringConfig(rest=0.05))
    assert frozenset([17]) in sets_of(with_sliver), "one Gaussian of eighteen"


def test_no_pool_gives_no_segment() -> None:
    segments = find_segments([], 7)
    assert len(segments) == 0 and segments.inside.shape == (7, 0) and segments.weights.tolist() == [0] * 7


def test_large_splats_compare_masks_on_a_sample(gappy: list[PixelPool]) -> None:
    segments = find_segments(gappy, 40, MaskClusteringConfig(max_gaussians=30), seed=3)
    assert sets_of(segments) == wanted(PART_A, PART_B, OBJECT, OTHER), "membership is voted for all Gaussians"


def test_nothing_confirmed_gives_no_segment_and_zero_features() -> None:
    pools = [pool_of([PART_A]), pool_of([OTHER])]
    segments = find_segments(pools, 40)
    assert len(segments) == 0
    assert torch.equal(segment_features(segments, 8), torch.zeros(40, 8))


def test_a_mask_needs_most_of_a_gaussians_weight() -> None:
    pool = pool_of([[0], [0, 1]], visible=range(2))
    c = pool.contributions
    # Gaussian 1 now fills a third of Gaussian 0's pixel and all of its own.
    shared = Contributions(
        c.pixels, c.order, torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]).int(), torch.tensor([0.6, 0.3, 0.9])
    )
    for inside, weight in observed(PixelPool(shared, pool.rows, pool.patch, pool.membership), 3):
        assert inside.tolist() == [[1, 1], [0, 1], [0, 0]]
        assert weight.tolist() == pytest.approx([0.6, 1.2, 0.0])


def test_more_masks_than_bits_in_a_word() -> None:
    """Masks 0..69 of one Gaussian each, the bits in two words, the sign bit of the first included."""
    membership = torch.zeros(71, 2, dtype=torch.int64)
    for mask in range(70):
        value = 1 << (mask % 64)
        membership[mask + 1, mask // 64] = value - (1 << 64) if value >= 1 << 63 else value
    base = pool_of([range(70)], visible=range(70))
    pool = PixelPool(base.contributions, base.rows, torch.arange(1, 71), membership)
    assert all(np.array_equal(inside, np.eye(70)) for inside, _ in observed(pool, 70))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"min_iou": 0.3}, "min_iou"),
        ({"late_iou": 0.9, "seed_iou": 0.8}, "late_iou"),
        ({"faint_iou": 0.0}, "faint_iou"),
        ({"faint_iou": 0.71}, "faint_iou"),
        ({"min_views": 0}, "min_views"),
        ({"min_share": 2}, "share"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SplatsegError, match=named):
        MaskClusteringConfig(**settings)


def tree(groups: int = 3, objects: int = 3, parts: int = 3) -> torch.Tensor:
    """(leaves, nodes) bool: which groups, objects and parts each leaf lies in."""
    leaves = torch.arange(groups * objects * parts)
    levels = [leaves // (objects * parts), leaves // parts, leaves]
    return torch.cat([torch.nn.functional.one_hot(level) for level in levels], dim=1).bool()


def test_every_segment_has_a_threshold_from_every_pattern_inside() -> None:
    inside = tree()
    codes = fit_nested_features(inside, torch.ones(len(inside)), 16, SegmentFeatureConfig(), seed=0)
    unit = torch.nn.functional.normalize(inside.float() @ codes, dim=1)
    cosines = unit @ unit.T
    for anchor, segment in inside.nonzero().tolist():
        member = inside[:, segment]
        assert float(cosines[anchor, member].min()) > float(cosines[anchor, ~member].max()), (anchor, segment)


def test_features_are_the_codes_of_patterns(gappy: list[PixelPool]) -> None:
    segments = find_segments(gappy, 45)  # the last five Gaussians are in no view
    features = segment_features(segments, 8, seed=1)
    assert torch.equal(features, segment_features(segments, 8, seed=1))
    assert torch.equal(features[40:], torch.zeros(5, 8))
    assert torch.allclose(features[:40].norm(dim=1), torch.ones(40), atol=1e-5)
    assert torch.equal(features[:10], features[:1].expand(10, 8)), "one pattern, one feature"
    near, far = features[0] @ features[10], features[0] @ features[20]
    assert float(near) > float(far) and float(near) < 0.99, "parts of one object are close, and apart"


def test_patterns_beyond_the_limit_follow_from_their_segments(gappy: list[PixelPool]) -> None:
    features = segment_features(find_segments(gappy, 40), 8, SegmentFeatureConfig(patterns=1))
    assert torch.allclose(features.norm(dim=1), torch.ones(40), atol=1e-5)


def rough_views(draw: np.random.Generator, count: int = 10) -> list[PixelPool]:
    """Views of a thing of 2000 Gaussians, whose masks lose a tenth of it, and of one of 36, whose masks lose a quarter:
    about the same error at their borders."""
    large, small = np.arange(400), np.arange(400, 436)
    return [
        pool_of([draw.permutation(large)[200:].tolist(), draw.permutation(small)[9:].tolist()], range(436))
        for _ in range(count)
    ]


def nearest_iou(segments: Segments, thing: Iterable[int]) -> float:
    """Overlap of ``thing`` with the segment that is most like it."""
    wanted = frozenset(thing)
    return max((len(found & wanted) / len(found | wanted) for found in sets_of(segments)), default=0.0)


def test_one_mask_a_view_is_enough() -> None:
    """Ten things, all of them in all of 30 views, each with a mask in three: views that show nothing there are silent.
    They counted against each: three of 30 were too few, and no thing was found."""
    things = [range(4 * k, 4 * k + 4) for k in range(10)]
    for order in (np.arange(30) % 10, np.random.default_rng(1).permutation(30) % 10):
        segments = find_segments([pool_of([things[k]]) for k in order], 40)
        assert sets_of(segments) == wanted(*things)
        assert segments.views.tolist() == [3] * 10 and segments.could.tolist() == [30] * 10


def test_views_that_show_something_else_there_are_not_silent() -> None:
    """The same three of 30 views, where the others have masks on those Gaussians: of another thing."""
    pools = [pool_of([OBJECT, OTHER, *([range(5, 15)] if view < 3 else [])]) for view in range(30)]
    assert sets_of(find_segments(pools, 40)) == wanted(OBJECT, OTHER)


def ragged_views(draw: np.random.Generator, count: int = 20) -> list[PixelPool]:
    """Views of a thing of 2000 Gaussians, whose masks lose a tenth of it, of one of 60 beside it, whose masks lose a
    third (as of a handle a few pixels thin), and of a blob of 60 anywhere on the first."""
    large, thin, blob = np.arange(2000), np.arange(2000, 2060), np.arange(60)
    return [
        pool_of(
            [
                draw.permutation(large)[200:].tolist(),
                draw.permutation(thin)[21:].tolist(),
                (blob + draw.integers(1940)).tolist(),
            ],
            range(2060),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_thin_things_are_found_though_each_two_masks_overlap_by_less_than_half(seed: int) -> None:
    """Many views together say what no two of them do: two masks share 0.48 of what they cover, and most views agree.
    Overlaps below a half founded nothing, whatever the number of views. Blobs that meet by chance still do not."""
    large, thin = range(2000), range(2000, 2060)
    pools = ragged_views(np.random.default_rng(seed))
    found = find_segments(pools, 2060)
    assert len(found) == 2 and nearest_iou(found, thin) >= 0.8 and nearest_iou(found, large) > 0.98
    assert found.views.min() >= 16, "most of 20 views join"
    strict = find_segments(pools, 2060, MaskClusteringConfig(faint_iou=0.7))
    assert len(strict) == 1 and nearest_iou(strict, large) > 0.98


def chance_views(draw: np.random.Generator, count: int = 20) -> list[PixelPool]:
    """Views of a backdrop of 400 Gaussians and of eight things of 60, whose masks lose a tenth; every third view has a
    mask of 60 Gaussians of the backdrop, too, each of others: two of them overlap by 0.69 at most, most by a third."""
    backdrop, things, pools = np.arange(400), np.arange(400, 880).reshape(8, 60), []
    start = draw.integers(270) + 11 * draw.permutation(7)
    for view in range(count):
        masks = [draw.permutation(thing)[6:].tolist() for thing in (backdrop, *things)]
        if view % 3 == 0:
            masks.append((start[view // 3] + np.arange(60)).tolist())
        pools.append(pool_of(masks, range(880)))
    return pools


@pytest.mark.parametrize("seed", range(3))
def test_masks_that_meet_by_chance_found_nothing_where_others_of_their_size_agree(seed: int) -> None:
    """Seven masks of nothing, which overlap by far less than masks of things of that size do. They founded a segment,
    as a thin thing would where borders lie off."""
    pools = chance_views(np.random.default_rng(seed))
    found = find_segments(pools, 880)
    assert len(found) == 9 and all(nearest_iou(found, range(k, k + 60)) == 1 for k in range(400, 880, 60))
    assert nearest_iou(found, range(400)) == 1


def test_what_masks_of_a_thing_usually_overlap_by_keeps_others_out() -> None:
    """Its largest part overlaps an object by 0.55, which would do among ragged masks; here masks are exact."""
    pools = [pool_of([OBJECT, OTHER])] * 10 + [pool_of([range(11), OTHER])] * 2
    segments = find_segments(pools, 40)
    assert sets_of(segments) == wanted(OBJECT, OTHER)
    assert sorted(segments.views.tolist()) == [10, 12]


def agreement_of(pairs: dict[tuple[int, int], float], count: int) -> sparse.coo_matrix:
    """Symmetric (count, count) overlaps."""
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    both = (np.array(rows + columns, np.int32), np.array(columns + rows, np.int32))
    return sparse.coo_matrix((np.array([*pairs.values()] * 2, np.float32), both), (count, count))


def test_the_best_match_in_each_view() -> None:
    """Masks 0 and 1 of a view, 2 and 3 of the next, 4 of a third: 0-2 and 1-3 are each other's best, 1-2 is 2's
    second; 4 is best matched by 0 and by 3 in their views, and matches both. A last bit makes no better one."""
    pairs = {(0, 2): 0.8, (1, 2): 0.6, (1, 3): 0.6 + 1e-6, (0, 4): 0.5, (1, 4): 0.4, (3, 4): 0.3}
    agreement = agreement_of(pairs, 5)
    best = mutual_best(agreement, np.array([0, 0, 1, 1, 2]))
    found = {(int(row), int(col)) for row, col in zip(agreement.row[best], agreement.col[best], strict=True)}
    assert found == {pair for a, b in [(0, 2), (1, 3), (0, 4), (3, 4)] for pair in [(a, b), (b, a)]}
    usual = usual_overlap(agreement, best, np.full(5, 2))
    assert usual.tolist() == pytest.approx([0.8, 1, 1, 0.6, 0.5], abs=1e-5), (
        "the upper of two; 1 of those with one match"
    )
    assert usual_overlap(agreement, best, np.full(5, 3)).tolist() == [1] * 5


def test_what_masks_of_a_size_overlap_by() -> None:
    """Four matches of masks of 8 to 15, one of a mask of 3 with one of those; a mask of 16 has none, nor one of 0."""
    pairs = {(0, 1): 0.9, (0, 2): 0.8, (1, 2): 0.6, (2, 3): 0.3}
    agreement = agreement_of(pairs, 6)
    size = np.array([8, 15, 12, 3, 16, 0], np.float32)
    every = np.ones(len(agreement.data), bool)
    assert overlap_of_size(agreement, every, size).tolist() == pytest.approx([0.6] * 3 + [0.3, 1, 1])
    but_faint = agreement.data > 0.5
    assert overlap_of_size(agreement, but_faint, size).tolist() == pytest.approx([0.6] * 3 + [1, 1, 1])


def test_no_mask_has_a_match() -> None:
    nothing = agreement_of({}, 2)
    best = mutual_best(nothing, np.array([0, 1]))
    assert best.shape == (0,) and usual_overlap(nothing, best, np.ones(2, np.int64)).tolist() == [1, 1]
    assert overlap_of_size(nothing, best, np.ones(2, np.float32)).tolist() == [1, 1]
