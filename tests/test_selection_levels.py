"""Level proposals: from one click to the part, the object and the group around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_splat import make_gaussians, make_splat

from splatseg.errors import SplatsegError
from splatseg.evaluate.metrics import iou
from splatseg.selection import LevelConfig, PointClick, Scores, make_query, propose_levels, scores, surface_weights
from splatseg.selection.levels import valleys_by_persistence


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_part_and_object_are_proposed(noise: float) -> None:
    splat = make_splat(noise=noise)
    weights = surface_weights(splat.gaussians)
    for part in range(6):
        gaussian = int((splat.parts == part).nonzero()[5])
        found = scores(splat.field, make_query(splat.gaussians, splat.field, [PointClick(gaussian)]))
        masks = [found.above(level.threshold).mask for level in propose_levels(found, weights)]
        assert max(iou(mask, splat.parts == part) for mask in masks) > 0.95
        assert max(iou(mask, splat.objects == part // 2) for mask in masks) > 0.95


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
    with pytest.raises(SplatsegError, match="at_least <= at_most"):
        LevelConfig(at_least=4, at_most=3)


def test_surface_weights_sum_to_one_and_cut_giants() -> None:
    gaussians = make_gaussians(torch.randn(2000, 3))
    gaussians.log_scales[0] = 10.0  # one backdrop Gaussian, e^10 units wide
    weights = surface_weights(gaussians)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(weights[0]) == pytest.approx(1 / 2000, rel=1e-3)


def test_persistence_ranks_valleys_by_depth() -> None:
    #                 0    1    2    3    4    5    6    7
    rate = np.array([5.0, 1.0, 4.0, 0.0, 6.0, 2.0, 3.0, 2.5])
    assert valleys_by_persistence(rate) == [(3, 6.0), (5, 4.0), (1, 3.0), (7, 0.5)]


def test_persistence_counts_a_plateau_once_by_its_middle() -> None:
    rate = np.array([3.0, 1.0, 1.0, 1.0, 3.0, 0.0])
    assert valleys_by_persistence(rate) == [(5, 3.0), (2, 2.0)]
    assert valleys_by_persistence(np.zeros(5)) == [(2, 0.0)]  # constant: one valley, its middle
