"""Segments: stored with the field, nested to a family, every agreed one a label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from tiny_splat import make_splat

from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.segments import Segments, nest
from splatseg.core.splat import FeatureSplat
from splatseg.fit.mask_clustering import find_segments
from splatseg.segment.agreed import recall
from splatseg.segment.discretize import ClusterConfig, discretize
from splatseg.segment.levels import LevelConfig, propose_levels
from splatseg.segment.scores import Scores

PART_A, PART_B, OBJECT, OTHER = range(10), range(10, 20), range(20), range(20, 40)


def segments_of(count: int, sets: Iterable[Iterable[int]], views: Iterable[int]) -> Segments:
    table = np.zeros((count, len(list(sets))), bool)
    for column, one in enumerate(sets):
        table[list(one), column] = True
    ones, supported = np.ones(count, np.float32), np.array(list(views))
    return Segments(sparse.csr_matrix(table), ones, supported, np.full(len(supported), 10), ones, ones)


def members(segments: Segments, family_node: np.ndarray) -> set[int]:
    return set(np.flatnonzero(family_node[segments.patterns[0]]).tolist())


def test_what_nests_is_a_family_and_what_crosses_loses_to_more_views() -> None:
    segments = segments_of(40, [PART_A, OBJECT, OTHER, range(5, 25)], [8, 7, 6, 3])
    family = nest(segments)
    assert family.node[3] == -1 and (family.node[:3] >= 0).all()
    assert family.parent[family.node[0]] == family.node[1] and family.parent[family.node[1]] == -1
    other_way = nest(segments_of(40, [PART_A, OBJECT, OTHER, range(5, 25)], [3, 4, 2, 9]))
    assert other_way.node[3] >= 0 and other_way.node[1] == other_way.node[0] == -1


def test_ragged_borders_are_trimmed_to_fit() -> None:
    """The object misses one Gaussian of its part and holds one of its neighbor: views that agree decide."""
    segments = segments_of(40, [PART_A, [*range(1, 21)], OTHER], [9, 5, 8])
    family = nest(segments)
    assert members(segments, family.member[family.node[1]]) == set(OBJECT)
    assert members(segments, family.member[family.node[2]]) == set(OTHER)


def test_a_segment_travels_with_the_field(tmp_path: Path) -> None:
    splat = make_splat()
    count = len(splat.gaussians)
    segments = segments_of(count, [range(20), range(30, 90)], [4, 7])
    FeatureField(splat.field.features, splat.field.fingerprint, segments).save(tmp_path / "f.safetensors")
    found = FeatureField.load(tmp_path / "f.safetensors", splat.gaussians).segments
    assert found is not None and np.array_equal(found.inside.toarray(), segments.inside.toarray())
    assert found.confidence.tolist() == pytest.approx([0.4, 0.7])
    splat.field.save(tmp_path / "old.safetensors")
    assert FeatureField.load(tmp_path / "old.safetensors").segments is None, "files of older versions hold none"
    with pytest.raises(SplatsegError, match="segments: expected sets of"):
        FeatureField(splat.field.features, "", segments_of(7, [range(3)], [2]))


def test_every_agreed_segment_is_a_label() -> None:
    """A thing that one mask per photo shows, whose features are no cluster of their own: clustering alone missed it."""
    splat = make_splat(noise=0.05)
    half = (splat.parts == 0).nonzero()[:, 0][:8].tolist()
    segments = segments_of(432, [half, (splat.objects == 1).nonzero()[:, 0].tolist()], [5, 6])
    alone = discretize(FeatureSplat(splat.gaussians, splat.field), ClusterConfig(min_cluster=20, min_gaussians=20))
    field = FeatureField(splat.field.features, splat.field.fingerprint, segments)
    tree = discretize(FeatureSplat(splat.gaussians, field), ClusterConfig(min_cluster=20, min_gaussians=20))
    every = np.ones(2, bool)
    assert recall(tree.labels, segments, every) == 1 > recall(alone.labels, segments, every)
    assert sum(node.count for node in tree.at_level(0)) == len(tree) == 432
    again = discretize(FeatureSplat(splat.gaussians, field), ClusterConfig(min_cluster=20, min_gaussians=20))
    assert np.array_equal(tree.labels, again.labels)


def test_a_level_says_how_many_views_agree_on_it() -> None:
    values = torch.cat([torch.full((20,), 0.95), torch.full((20,), 0.5), torch.full((60,), 0.0)])
    segments = segments_of(100, [range(20)], [6])
    levels = propose_levels(Scores(values), torch.ones(100), segments=segments)
    standing = {round(level.share * 100): level.confidence for level in levels}
    assert standing[20] == pytest.approx(0.6) and standing[40] == 0


def test_few_views_suffice_where_few_see_it() -> None:
    """Two of two views agree on the part that only they see; two of eight on the other are too few."""
    from test_mask_clustering import pool_of

    pools = [
        pool_of([PART_A, OTHER] if view < 2 else [OTHER], visible=range(40) if view < 2 else OTHER) for view in range(8)
    ]
    found = find_segments(pools, 40)
    sets = {frozenset(np.flatnonzero(column).tolist()): k for k, column in enumerate(found.inside.toarray().T)}
    assert set(sets) == {frozenset(PART_A), frozenset(OTHER)}
    assert found.confidence.tolist() == [1.0, 1.0] and found.agreed.tolist() == [1.0] * 10 + [0.0] * 10 + [1.0] * 20
    wide = [pool_of([PART_A, OTHER] if view < 2 else [OTHER]) for view in range(8)]
    assert len(find_segments(wide, 40)) == 1, "six views see the part and have no mask of it"


def test_objects_are_shown_first_not_the_groups_that_hold_them() -> None:
    """A group of objects of two parts each: half of what views agree on lies at or above the objects."""
    splat = make_splat(noise=0.05)
    count = len(splat.gaussians)
    quarter = count // 4
    objects = [range(k * quarter, (k + 1) * quarter) for k in range(4)]
    halves = [part for one in objects for part in (one[: quarter // 2], one[quarter // 2 :])]
    segments = segments_of(count, [range(4 * quarter), *objects, *halves[:4]], [5] * 9)
    field = FeatureField(splat.field.features, splat.gaussians.fingerprint(), segments)
    tree = discretize(FeatureSplat(splat.gaussians, field), ClusterConfig(min_cluster=20, min_gaussians=5))
    shown = tree.labels[:, tree.default_level]
    assert len({int(shown[one[0]]) for one in objects}) == 4
    assert all(len(np.unique(shown[list(one)])) == 1 for one in objects)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_known_of_a_level_is_asked_of_the_angles_that_can_be_meant(seed: int) -> None:
    """Levels and their confidence are those by a table of every pattern at every angle; a second click and other
    weights do not meet what the first one left."""
    rng = np.random.default_rng(seed)
    sets = [np.flatnonzero(rng.random(300) < share) for share in (0.5, 0.2, 0.2, 0.1, 0.05, 0.0)]
    segments = segments_of(300, sets, [5, 4, 3, 0, 4, 2])
    for _ in range(2):
        values = torch.from_numpy(rng.uniform(-1, 0.5, 300).astype(np.float32))
        values[torch.from_numpy(sets[1])] = 0.9
        weights = torch.from_numpy(rng.random(300).astype(np.float32))
        config = LevelConfig(at_least=1, at_most=5)
        levels = propose_levels(Scores(values), weights, config, segments)
        angle = values.double().clamp(-1, 1).acos()
        for level in levels:
            chosen = (angle < np.arccos(level.threshold)).numpy() * weights.double().numpy()
            inside = segments.inside.toarray()[:, segments.views > 0]
            shared = chosen @ inside
            overlap = shared / (weights.double().numpy() @ inside + chosen.sum() - shared)
            wanted = (overlap * (overlap >= config.alike) * segments.confidence[segments.views > 0]).max()
            assert level.confidence == pytest.approx(wanted, abs=0.03)
        everywhere = propose_levels(Scores(values), weights, replace(config, agreed=1e-12), segments)
        assert [(a.threshold, a.confidence) for a in levels] == [
            (pytest.approx(b.threshold), pytest.approx(b.confidence)) for b in everywhere
        ]
        assert any(level.confidence > 0.3 for level in levels), "the click's own segment is found"
