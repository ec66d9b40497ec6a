"""Whole-scene discretization and the label tree it ends in."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hdbscan import HDBSCAN
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from tiny_splat import TinySplat, make_gaussians, make_splat

from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.label_tree import LabelTree, build_nodes, tree_from_leaves
from splatseg.core.splat import FeatureSplat
from splatseg.segment.discretize import ClusterConfig, cut_levels, discretize, leaf_clusters, principal
from splatseg.segment.neighbors import absorb_small, box_gaps, fair_sample, nearest_neighbors, split_components

discretize_module = sys.modules["splatseg.segment.discretize"]  # the package's name of it is the function
SMALL = ClusterConfig(min_cluster=20, min_gaussians=20)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a, b]), axis=1)
    return pairs.shape[1] == len(np.unique(a)) == len(np.unique(b))


def test_parts_and_objects_are_found() -> None:
    splat = make_splat(noise=0.05)
    tree = discretize(FeatureSplat(splat.gaussians, splat.field), SMALL)
    levels = [tree.labels[:, level] for level in range(tree.levels)]
    assert same_partition(levels[-1], splat.parts.numpy())
    assert any(same_partition(level, splat.objects.numpy()) for level in levels)
    assert sum(node.count for node in tree.at_level(0)) == len(tree) == 432


def test_same_seed_same_labels() -> None:
    splat = make_splat(noise=0.3)
    config = ClusterConfig(samples=200, min_cluster=10, min_gaussians=20, seed=7)
    first, second = (
        discretize(FeatureSplat(splat.gaussians, splat.field), config),
        discretize(FeatureSplat(splat.gaussians, splat.field), config),
    )
    assert np.array_equal(first.labels, second.labels) and first.nodes == second.nodes


def test_wide_features_are_clustered_in_few_channels() -> None:
    """The same features turned into 40 channels, and a little noise in all of them: the parts are the same."""
    splat = make_splat(noise=0.05)
    draw = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(40, splat.field.dim, generator=draw)).Q
    wide = splat.field.features @ axes.T + 0.01 * torch.randn(432, 40, generator=draw)
    tree = discretize(FeatureSplat(splat.gaussians, FeatureField(wide, splat.gaussians.fingerprint())), SMALL)
    assert same_partition(tree.labels[:, -1], splat.parts.numpy())


def test_principal_channels_keep_distances_where_they_suffice() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(50, 3)) @ draw.normal(size=(3, 8)) + 5
    found = principal(x, 4)
    assert found.shape == (50, 4)
    assert np.allclose(np.linalg.norm(found[:, None] - found, axis=2), np.linalg.norm(x[:, None] - x, axis=2))
    assert principal(x, 8) is x


def test_copies_of_a_feature_are_one_cluster() -> None:
    """Three codes with 400 copies each, and sixty loose features: a cluster a code, whole; hdbscan's own tree cut such
    heaps in pieces and called the rest of them noise."""
    draw = np.random.default_rng(0)
    unit = np.concatenate([np.eye(8)[:3].repeat(400, axis=0), draw.normal(size=(60, 8))]).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    order = draw.permutation(len(unit))
    labels, weights = leaf_clusters(unit[order], ClusterConfig(channels=4), torch.device("cpu"))
    for code in range(3):
        members = (order >= 400 * code) & (order < 400 * (code + 1))
        assert len(set(labels[members].tolist())) == 1 and labels[members].min() >= 0 and weights[members].min() == 1


def test_distinct_features_are_clustered_as_by_hdbscan_alone() -> None:
    """Without copies the exact tree and hdbscan's own give the same clusters, but for a few points at their borders:
    many distances are one and the same core distance, and which of equal edges a tree has decides there."""
    draw = np.random.default_rng(3)
    unit = (np.eye(8)[draw.integers(0, 8, 1500)] + 0.2 * draw.normal(size=(1500, 8))).astype(np.float32)
    exact = leaf_clusters(unit, ClusterConfig(), torch.device("cpu"))
    searched = HDBSCAN(10, 5, cluster_selection_method="leaf", algorithm="boruvka_kdtree", core_dist_n_jobs=1).fit(unit)
    assert exact[0].max() == searched.labels_.max() > 3
    assert adjusted_rand_score(exact[0], searched.labels_) > 0.97


def test_alike_objects_far_apart_are_two() -> None:
    """Two copies of one object (never seen together, they may share a feature): a label each, as parts and as
    objects."""
    splat = make_splat()
    means = torch.cat([splat.gaussians.means, splat.gaussians.means + torch.tensor([0.0, 30.0, 0.0])])
    gaussians = make_gaussians(means)
    field = FeatureField(splat.field.features.repeat(2, 1), gaussians.fingerprint())
    tree = discretize(FeatureSplat(gaussians, field), SMALL)
    leaves = tree.labels[:, -1]
    assert not set(leaves[:432].tolist()) & set(leaves[432:].tolist())
    objects = torch.cat([splat.objects, splat.objects + 3]).numpy()
    assert any(same_partition(tree.labels[:, level], objects) for level in range(tree.levels))


def flat_field(n: int, value: float = 1.0) -> tuple[TinySplat, FeatureField]:
    splat = make_splat()
    gaussians = splat.gaussians.select(torch.arange(n))
    tiny = TinySplat(gaussians, splat.field, splat.objects[:n], splat.parts[:n], splat.camera)
    return tiny, FeatureField(torch.full((n, 4), value), gaussians.fingerprint())


@pytest.mark.parametrize("n", [1, 2, 5, 60])  # one Gaussian, fewer than neighbors, fewer than a cluster
@pytest.mark.parametrize("value", [1.0, 0.0])  # one feature, no feature
def test_poor_scenes_are_one_label(n: int, value: float) -> None:
    splat, field = flat_field(n, value)
    tree = discretize(FeatureSplat(splat.gaussians, field))
    assert tree.labels.shape[0] == n and np.unique(tree.labels[:, 0]).tolist() == [1]


def test_all_transparent_scenes_are_labeled_too() -> None:
    splat = make_splat()
    gaussians = make_gaussians(splat.gaussians.means, opacity=0.01)
    tree = discretize(FeatureSplat(gaussians, FeatureField(splat.field.features, gaussians.fingerprint())), SMALL)
    assert (tree.labels > 0).all()


def test_coinciding_gaussians_are_neighbors() -> None:
    ids, distances = nearest_neighbors(np.zeros((12, 3), np.float32), 4)
    assert ids.shape == (12, 4) and (distances == 0).all()
    assert (ids != np.arange(12)[:, None]).all()


def test_report_can_stop_the_work() -> None:
    splat = make_splat()
    steps: list[float] = []

    def stop(step: str, share: float) -> None:
        steps.append(share)
        if step == "assigning":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        discretize(FeatureSplat(splat.gaussians, splat.field), SMALL, report=stop)
    assert steps == sorted(steps)


def test_wrong_field_and_settings() -> None:
    few, field = flat_field(5)
    with pytest.raises(SplatsegError, match="one feature for each of 432 Gaussians, found 5"):
        discretize(FeatureSplat(make_splat().gaussians, field))
    none = few.gaussians.select(torch.zeros(5, dtype=torch.bool))
    with pytest.raises(SplatsegError, match="expected Gaussians, found none"):
        discretize(FeatureSplat(none, FeatureField(field.features[:0], none.fingerprint())))
    with pytest.raises(SplatsegError, match=r"clusters\.min_cluster: expected at least 2, found 1"):
        ClusterConfig(min_cluster=1)


# Steps -------------------------------------------------------------------------------------------------------------


def test_sample_is_fair_to_space_not_to_density() -> None:
    rng = np.random.default_rng(0)
    sparse = rng.uniform(0, 1, (100, 3)) + np.array([1, 0, 0])
    means = np.concatenate([rng.uniform(0, 1, (9900, 3)), sparse]).astype(np.float32)
    sample = fair_sample(means, np.arange(10000), 500, np.random.default_rng(1))
    assert len(np.unique(sample)) == 500 and (np.diff(sample) > 0).all()
    assert (sample >= 9900).sum() > 60  # 1 % of the Gaussians, half of the space
    few = fair_sample(means, np.arange(10), 500, rng)
    assert few.tolist() == list(range(10))


def test_pieces_follow_labels_and_gaps() -> None:
    means = np.array([[x, 0, 0] for x in (0, 1, 2, 10, 11, 12)], np.float32)
    ids, distances = nearest_neighbors(means, 2)
    one_label = np.zeros(6, np.int64)
    assert len(np.unique(split_components(one_label, ids, distances, longest=3))) == 2
    labels = np.array([0, 0, 1, 0, 0, 0])
    pieces = split_components(labels, ids, distances, longest=3)
    assert same_partition(pieces, np.array([0, 0, 1, 2, 2, 2]))


def test_crumbs_go_to_what_surrounds_them() -> None:
    means = np.array([[x, 0, 0] for x in range(9)], np.float32)
    ids, distances = nearest_neighbors(means, 2)
    labels = np.array([0, 0, 0, 0, 1, 0, 2, 2, 2])
    pieces = split_components(labels, ids, distances, longest=3)
    absorbed = absorb_small(pieces, labels, ids, smallest=3)
    assert same_partition(absorbed, np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])) or absorbed[5] == absorbed[6]
    assert absorbed[4] == absorbed[3] or absorbed[4] == absorbed[5]
    assert len(np.unique(absorb_small(pieces, labels, ids, smallest=100))) == 1  # nothing is large: the largest wins


def test_box_gaps() -> None:
    means = np.array([[0, 0, 0], [1, 1, 1], [4, 5, 0], [5, 6, 1], [0.5, 0.5, 0.5]], np.float32)
    gaps = box_gaps(means, np.array([0, 0, 1, 1, 2]))
    assert gaps[0, 1] == pytest.approx(np.hypot(4.05 - 0.95, 5.05 - 0.95)) and gaps[0, 2] == 0
    assert np.array_equal(gaps, gaps.T)


def test_levels_are_cut_where_the_tree_is_stable() -> None:
    """Twelve leaves in six pairs in three groups: both steps of the hierarchy are among the levels."""
    pairs, groups = np.arange(12) // 2, np.arange(12) // 4
    distances = np.where(groups[:, None] != groups, 1.0, np.where(pairs[:, None] != pairs, 0.3, 0.05))
    distances += np.random.default_rng(0).uniform(0, 0.01, (12, 12))
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    cuts, default = cut_levels(distances, 4)
    assert any(same_partition(cut, groups) for cut in cuts) and any(same_partition(cut, pairs) for cut in cuts)
    assert np.array_equal(cuts[-1], np.arange(12))
    assert len(cuts) == 4 and default == 1, "the middle level, of two the coarser"
    assert [len(np.unique(cut)) for cut in cuts] == sorted(len(np.unique(cut)) for cut in cuts)


# Tree --------------------------------------------------------------------------------------------------------------


def small_tree() -> LabelTree:
    """Leaves 0..4 in groups {0, 1, 2} and {3, 4}; leaf 5 stands alone."""
    leaves = np.array([0, 0, 1, 2, 3, 4, 4, 5, -1])
    return tree_from_leaves(leaves, [np.array([0, 0, 0, 1, 1, 2]), np.arange(6)], 0)


def test_tree_of_leaves() -> None:
    tree = small_tree()
    assert tree.labels[-1].tolist() == [0, 0]  # unlabeled stays so
    top = tree.children(0)
    assert [node.count for node in top] == [4, 3, 1]  # larger labels first
    assert [len(tree.children(node.id)) for node in top] == [3, 2, 0]  # what does not divide keeps its id
    assert tree.labels[7, 0] == tree.labels[7, 1] == top[2].id
    assert len({node.color for node in tree.nodes}) == len(tree.nodes)
    assert tree.node(tree.labels[2, 1]).name.startswith("1.")
    for node in tree.nodes:
        assert len(tree.selection(node.id)) == node.count


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 40), st.integers(1, 4))
def test_tree_laws(seed: int, n: int, depth: int) -> None:
    """Any nested labels make a valid tree: children sum up to their parent wherever it divides."""
    rng = np.random.default_rng(seed)
    leaves = rng.integers(0, 6, n)
    leaves = np.unique(leaves, return_inverse=True)[1]
    groups = [np.arange(int(leaves.max()) + 1)]
    for _ in range(depth - 1):
        groups.insert(0, groups[0] // 2)
    tree = tree_from_leaves(leaves, groups, depth - 1)
    assert same_partition(tree.labels[:, -1], leaves)
    for node in tree.nodes:
        children = tree.children(node.id)
        assert not children or (len(children) > 1 and sum(child.count for child in children) == node.count)


def test_merge_split_rename_recolor() -> None:
    tree = small_tree()
    first, second, third = (node.id for node in tree.children(0))
    merged = tree.merge(first, third)
    assert {node.id for node in merged.children(0)} == {first, second}
    assert merged.node(first).count == 5 and merged.node(first).color == tree.node(first).color
    with pytest.raises(SplatsegError, match="one parent"):
        tree.merge(first, tree.children(first)[0].id)
    with pytest.raises(SplatsegError, match="one parent"):
        tree.merge(first, first)
    split = merged.split(first, np.array([0, 0, 1, 1, 0]))
    assert split.node(first).count == 3 and len(split.nodes) == len(merged.nodes) + 1
    with pytest.raises(SplatsegError, match="split: expected a label without parts"):
        tree.split(first, np.zeros(4, np.int64))
    with pytest.raises(SplatsegError, match="split: expected parts"):
        tree.split(third, np.zeros(4, np.int64))
    changed = tree.renamed(first, "chair").recolored(first, (1, 2, 3))
    assert (changed.node(first).name, changed.node(first).color) == ("chair", (1, 2, 3))
    assert changed.colors(0)[0].tolist() == [1, 2, 3] and changed.colors(0)[-1].tolist() == [128, 128, 128]
    with pytest.raises(SplatsegError, match="label: expected an id of the tree"):
        tree.renamed(99, "x")


def test_broken_trees_are_refused() -> None:
    labels = np.array([[1, 3], [2, 3]], np.int32)  # label 3 in two parents
    with pytest.raises(SplatsegError, match="nested levels, found label 3 in two parents"):
        LabelTree(labels, build_nodes(labels))
    good = np.array([[1, 2], [1, 3]], np.int32)
    with pytest.raises(SplatsegError, match="ids of the tree's nodes, found 3"):
        LabelTree(good, build_nodes(good)[:2])
    with pytest.raises(SplatsegError, match=r"default_level: expected 0\.\.1, found 2"):
        LabelTree(good, build_nodes(good), 2)
    with pytest.raises(SplatsegError, match=r"labels: expected shape \(n, K\)"):
        LabelTree(good[:, 0], ())


def test_thousands_of_pieces_become_as_many_as_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every two pieces are compared later on: 120,000 of them asked for 300 GB. The largest stay, nothing is lost."""
    monkeypatch.setattr("splatseg.segment.neighbors.MOST_PIECES", 3)
    pieces = np.repeat(np.arange(6), (9, 4, 8, 5, 7, 6))
    around = np.stack([np.roll(np.arange(len(pieces)), shift) for shift in (-1, 1)], axis=1).astype(np.int32)
    found = absorb_small(pieces, np.zeros_like(pieces), around, 2)
    assert set(found.tolist()) == {0, 2, 4}
    kept = np.arange(6) == 1
    assert set(absorb_small(pieces, np.zeros_like(pieces), around, 2, kept).tolist()) == {0, 1, 2, 4}
    monkeypatch.setattr("splatseg.segment.neighbors.MOST_PIECES", 6)
    assert np.array_equal(absorb_small(pieces, np.zeros_like(pieces), around, 2), pieces)


def test_a_sample_is_weighted_by_the_voxels_that_hold_as_many() -> None:
    """As by listing all voxels at each resolution; more points than are looked at at a time."""
    draw = np.random.default_rng(4)
    means = np.concatenate([draw.random((9000, 3)), 0.02 * draw.random((3000, 3))]).astype(np.float32)
    points = means.astype(np.float64)
    low, high = np.percentile(points, (1, 99), axis=0)
    unit = np.clip(((points - low) / float((high - low).max()) + 1) / 3, 0, 1)
    coarse, fine = 1.0, 4096.0
    for _ in range(12):
        middle = (coarse * fine) ** 0.5
        few = len(np.unique((unit * middle).astype(np.int64), axis=0)) < 0.25 * 800
        coarse, fine = (middle, fine) if few else (coarse, middle)
    _, voxel, held = np.unique((unit * fine).astype(np.int64), axis=0, return_inverse=True, return_counts=True)
    keys = np.log(np.random.default_rng(1).random(len(points))) * held[voxel.ravel()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("splatseg.segment.neighbors.SCANNED", 500)
        found = fair_sample(means, np.arange(len(means)), 800, np.random.default_rng(1))
    assert np.array_equal(found, np.sort(np.argpartition(-keys, 800)[:800]))


def test_labels_are_those_that_most_alike_neighbors_offer() -> None:
    """Each Gaussian asked in full: those among their own, too, which are not asked."""
    draw = np.random.default_rng(6)
    centers = np.linalg.qr(draw.standard_normal((6, 6)))[0][:4].astype(np.float32)
    side = np.arange(500) // 125
    unit = centers[side] + 0.6 * draw.standard_normal((500, 6)).astype(np.float32)
    neighbors = np.clip(np.arange(500)[:, None] + [-3, -2, -1, 1, 2, 3], 0, 499).astype(np.int32)
    wanted = (unit @ centers.T).argmax(1)
    for _ in range(2):
        offers = np.concatenate([wanted[:, None], wanted[neighbors]], axis=1)
        shares = (offers[:, :, None] == offers[:, None, 1:]).mean(2)
        worth = np.take_along_axis(unit @ centers.T, offers, 1) + 0.5 * shares
        wanted = np.take_along_axis(offers, worth.argmax(1)[:, None], 1)[:, 0]
    found = discretize_module.assign(unit, centers, neighbors, 0.5)
    alone = (found[neighbors] == found[:, None]).all(1)
    assert np.array_equal(found, wanted) and 50 < alone.sum() < 500


def test_sums_of_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaf without Gaussians, in parts of seven."""
    monkeypatch.setattr(discretize_module, "CHUNK", 7)
    draw = np.random.default_rng(8)
    unit, leaves = draw.random((50, 3)).astype(np.float32), draw.choice([0, 1, 3], 50)
    wanted = np.stack([np.bincount(leaves, unit[:, k], 4) for k in range(3)], axis=1)
    assert np.array_equal(discretize_module._sums(unit, leaves, 4), wanted)


def test_gaps_have_the_bits_of_norms_of_all_axes_at_once() -> None:
    draw = np.random.default_rng(4)
    means, pieces = (5 * draw.normal(size=(4000, 3))).astype(np.float32), np.arange(4000) % 60
    means += 20 * draw.normal(size=(60, 3)).astype(np.float32)[pieces]
    boxes = np.stack([np.percentile(means[pieces == piece], (5, 95), axis=0) for piece in range(60)])
    low, high = boxes[:, 0], boxes[:, 1]
    apart = np.maximum(np.maximum(low[:, None] - high[None], low[None] - high[:, None]), 0)
    expected = np.linalg.norm(apart, axis=2)
    assert np.array_equal(box_gaps(means, pieces), expected) and (expected > 0).any()
