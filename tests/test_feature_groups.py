"""Clicks look at groups of Gaussians with the same feature: what they find is what looking at all of them finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from tiny_splat import make_gaussians

from splatseg.core.field import FeatureField
from splatseg.core.segments import Segments
from splatseg.core.splat import FeatureSplat
from splatseg.segment.clicks import PointClick, Query, make_query
from splatseg.segment.levels import propose_levels
from splatseg.segment.scores import Scores, score_features, scores

COUNT, DIM = 600, 8


def make_field(seed: int = 0) -> FeatureField:
    """Twelve patterns of five segments; a tenth of the Gaussians is seen by no view and has a feature of its own, the
    first one of a pattern among them."""
    draw = np.random.default_rng(seed)
    table = draw.random((12, 5)) < 0.4
    table[0] = False
    pattern = draw.integers(0, 12, COUNT)
    weights = draw.random(COUNT).astype(np.float32) + 0.1
    weights[draw.random(COUNT) < 0.1] = 0
    weights[0] = 0
    codes = draw.standard_normal((32, DIM)).astype(np.float32)[table @ (1 << np.arange(5))]
    features = codes[pattern]
    features[weights == 0] += draw.standard_normal((int((weights == 0).sum()), DIM)).astype(np.float32)
    features[np.flatnonzero(weights == 0)[5:20]] = codes[0]  # what no view shows takes its nearest neighbor's
    ones = np.ones(COUNT, np.float32)
    counts = np.array([4, 3, 0, 5, 2])
    segments = Segments(sparse.csr_matrix(table)[pattern], weights, counts, counts + 1, ones, ones)
    return FeatureField(torch.from_numpy(features), "0" * 16, segments)


def test_groups_are_of_one_pattern_and_one_feature() -> None:
    field = make_field()
    groups = field.groups
    assert groups is not None and field.segments is not None
    different = np.unique(np.column_stack([field.features.numpy(), field.segments.patterns[0]]), axis=0)
    assert 12 < len(groups.unit) == len(different) < COUNT // 4
    assert torch.equal(groups.unit[groups.of], field.unit)
    assert np.array_equal(groups.pattern[groups.of].numpy(), field.segments.patterns[0])
    assert len(groups.of.unique()) == len(groups.unit), "none is empty"
    weights = torch.rand(COUNT)
    wanted = torch.zeros(len(groups.unit), dtype=torch.float64).index_add_(0, groups.of, weights.double())
    for _ in range(2):
        assert torch.allclose(groups.summed(weights), wanted)
    assert float(groups.summed(weights / 2).sum()) == pytest.approx(float(weights.sum()) / 2)


@pytest.mark.parametrize("negative", [0, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_click_finds_the_same_by_groups(seed: int, negative: int) -> None:
    field = make_field(seed)
    draw = torch.Generator().manual_seed(seed)
    clicked = torch.randint(COUNT, (1 + negative,), generator=draw)
    query = Query(field.unit[clicked[:1]], field.unit[clicked[1:]])
    weights = torch.rand(COUNT, generator=draw)
    found, plain = scores(field, query), Scores(score_features(field.unit, query))
    assert found.grouped is not None and torch.allclose(found.values, plain.values, atol=1e-6)
    levels, wanted = (propose_levels(one, weights, segments=field.segments) for one in (found, plain))
    assert [level.threshold for level in levels] == [level.threshold for level in wanted]
    for mine, theirs in zip(levels, wanted, strict=True):
        assert mine.share == pytest.approx(theirs.share, rel=1e-4)
        assert mine.stability == pytest.approx(theirs.stability, rel=1e-3)
        assert mine.confidence == pytest.approx(theirs.confidence, abs=1e-4)


def test_a_click_needs_no_unit_feature_of_every_gaussian() -> None:
    """They take as much memory as the features and, of six million, a second: by groups none is read."""
    field = make_field()
    gaussians = make_gaussians(torch.rand(COUNT, 3))
    splat = FeatureSplat(gaussians, replace(field, fingerprint=gaussians.fingerprint()))
    query = make_query(splat, [PointClick(5), PointClick(9, positive=False)])
    assert scores(splat.field, query).grouped is not None and "unit" not in vars(splat.field)


def test_features_that_all_differ_are_no_groups() -> None:
    field = make_field()
    noise = FeatureField(torch.randn(COUNT, DIM), field.fingerprint, field.segments)
    assert noise.groups is None and scores(noise, Query(noise.unit[:1], noise.unit[:0])).grouped is None
    assert FeatureField(field.features, field.fingerprint).groups is None


def test_patterns_of_a_file_are_not_looked_for_again() -> None:
    """Those that :meth:`to_tensors` wrote are taken; a table with a row twice, or of no Gaussian, is put in order."""
    segments = make_field().segments
    assert segments is not None
    stored = segments.to_tensors()
    again = Segments.from_tensors(stored, COUNT)
    assert "patterns" in vars(again)
    for mine, theirs in zip(again.patterns, segments.patterns, strict=True):
        assert np.array_equal(mine, theirs) and mine.dtype == theirs.dtype
    table, pattern = stored["segments.table"], stored["segments.pattern"].clone()
    pattern[pattern == 1] = 0
    for odd in ({"segments.table": torch.cat([table, table[:1]])}, {"segments.pattern": pattern}):
        found = Segments.from_tensors(stored | odd, COUNT)
        fresh = replace(found)
        for mine, theirs in zip(found.patterns, fresh.patterns, strict=True):
            assert np.array_equal(mine, theirs)
        assert len(found.patterns[1]) <= len(table) and np.array_equal(
            found.patterns[1][found.patterns[0]], found.inside.toarray()
        )
