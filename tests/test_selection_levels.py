"""Level proposals: from one click to the part, the object and the group around it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_splat import make_gaussians, make_splat

from splatseg.core.errors import SplatsegError
from splatseg.core.splat import FeatureSplat
from splatseg.evaluate.metrics import iou
from splatseg.segment.clicks import PointClick, make_query
from splatseg.segment.levels import LevelConfig, cover, distinct, propose_levels, surface_weights
from splatseg.segment.scores import Scores, scores


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_part_and_object_are_proposed(noise: float) -> None:
    splat = make_splat(noise=noise)
    weights = surface_weights(splat.gaussians)
    for part in range(6):
        gaussian = int((splat.parts == part).nonzero()[5])
        found = scores(splat.field, make_query(FeatureSplat(splat.gaussians, splat.field), [PointClick(gaussian)]))
        masks = [found.above(level.threshold).mask for level in propose_levels(found, weights)]
        assert max(iou(mask, splat.parts == part) for mask in masks) > 0.95
        assert max(iou(mask, splat.objects == part // 2) for mask in masks) > 0.95


def test_a_click_that_blends_two_things_does_not_cut_through_the_part() -> None:
    """All of the part lies 0.2 to 0.35 radians from such a click; the nearest few of it are no level of their own."""
    part, rest = torch.linspace(0.2, 0.35, 500), torch.linspace(1.2, 1.38, 500)
    found, weights = Scores(torch.cat([part, rest]).cos()), torch.ones(1000)
    first = propose_levels(found, weights)[0]
    assert len(found.above(first.threshold)) >= 490
    naive = propose_levels(found, weights, LevelConfig(spread=0))[0]
    assert len(found.above(naive.threshold)) < 250, "what it protects against"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 400), st.integers(1, 5))
def test_levels_are_nested_and_bounded(seed: int, n: int, most: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = Scores(torch.rand(n, generator=generator) * 2 - 1)
    weights = torch.rand(n, generator=generator) + 1e-3
    levels = propose_levels(values, weights, LevelConfig(at_least=1, at_most=most))
    assert 1 <= len(levels) <= most
    shares = [level.share for level in levels]
    thresholds = [level.threshold for level in levels]
    assert shares == sorted(shares) and thresholds == sorted(thresholds, reverse=True)
    assert all(-1 <= t <= 1 for t in thresholds) and all(0 < s <= 1 + 1e-6 for s in shares)


def test_a_field_of_one_value_has_one_level() -> None:
    levels = propose_levels(Scores(torch.ones(50)), torch.ones(50))
    assert len(levels) == 1 and levels[0].share == pytest.approx(1.0)
    assert len(Scores(torch.ones(50)).above(levels[0].threshold)) == 50


def test_weights_of_another_splat_or_of_nothing() -> None:
    with pytest.raises(SplatsegError, match="weights: expected shape"):
        propose_levels(Scores(torch.ones(5)), torch.ones(4))
    with pytest.raises(SplatsegError, match="weights: expected a positive sum, found 0"):
        propose_levels(Scores(torch.ones(5)), torch.zeros(5))
    with pytest.raises(SplatsegError, match=r"levels\.spread: expected at least 0"):
        LevelConfig(spread=-0.1)
    with pytest.raises(SplatsegError, match="at_least <= at_most"):
        LevelConfig(at_least=4, at_most=3)


def test_weights_sum_to_one() -> None:
    gaussians = make_gaussians(torch.randn(2000, 3))
    gaussians.log_scales[0] = 10.0  # one backdrop Gaussian, e^10 units wide, counts like any other
    weights = surface_weights(gaussians)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(weights[0]) == pytest.approx(1 / 2000, rel=1e-3)


def expected_iou(log_sizes: np.ndarray, picked: tuple[int, ...]) -> float:
    overlap = np.exp(-np.abs(log_sizes[:, None] - log_sizes[list(picked)][None]))
    return float(overlap.max(1).mean())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-8, 0), min_size=1, max_size=9), st.integers(1, 4))
def test_cover_is_the_best_of_all_choices(sizes: list[float], most: int) -> None:
    log_sizes = np.sort(np.array(sizes))
    for picked in cover(log_sizes, most):
        best = max(expected_iou(log_sizes, chosen) for chosen in combinations(range(len(sizes)), len(picked)))
        assert expected_iou(log_sizes, tuple(i for i, _ in picked)) == pytest.approx(best, abs=1e-9)
        assert sum(value for _, value in picked) == pytest.approx(best, abs=1e-9)


def test_cover_of_plateaus_is_one_pick_each() -> None:
    log_sizes = np.log(np.repeat([0.01, 0.1, 0.7], [5, 9, 3]))
    one, two, three = cover(log_sizes, 5)  # there are no more than three different selections
    assert len(one) == 1 and 5 <= one[0][0] < 14  # the widest rest
    assert [len(two), len(three)] == [2, 3]
    assert [i for i, _ in three] == [0, 5, 14] and sum(v for _, v in three) == pytest.approx(1.0)
    assert [value for _, value in three] == pytest.approx([5 / 17, 9 / 17, 3 / 17])


def test_no_more_levels_than_are_worth_it() -> None:
    """Two sharp selections: two levels, however many are allowed."""
    values = Scores(torch.cat([torch.full((10,), 0.95), torch.full((40,), 0.4), torch.full((950,), -0.1)]))
    levels = propose_levels(values, torch.ones(1000))
    assert [round(level.share, 3) for level in levels] == [0.01, 0.05]


def test_proposals_that_are_nearly_the_same_are_one() -> None:
    """A rest of 100, a hair's climb to 103, a rest, and the next thing: three proposals of two used to look alike."""
    sizes = np.array([100.0] * 40 + [103.0] * 40 + [400.0] * 60)
    covers = cover(np.log(sizes), 5)
    assert [len(found) for found in covers] == [1, 2, 3]
    for config, counts in ((LevelConfig(), [1, 2]), (LevelConfig(same=1.0), [1, 2, 3])):
        found = distinct(covers, np.log(sizes), config)
        assert [len(picks) for picks in found] == counts
        for picks, best in zip(found, covers, strict=False):
            assert sum(value for _, value in picks) == pytest.approx(sum(value for _, value in best), abs=0.02)
    (low, value), (high, _) = distinct(covers[2:], np.log(sizes), LevelConfig())[0]
    assert sizes[low] in (100.0, 103.0) and sizes[high] == 400.0
    assert value == pytest.approx(40 / 140 * (1 + 100 / 103))
    with pytest.raises(SplatsegError, match=r"levels\.same: expected an overlap in \(0, 1\], found 0"):
        LevelConfig(same=0)
