"""What no mask covers is divided by geometry and color, and told from what masks cover."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from splatseg.core.gaussians import SH_C0, Gaussians
from splatseg.core.segments import Segments
from splatseg.fit import regions
from splatseg.fit.neighbor_graph import distinct_pairs, neighbor_edges
from splatseg.fit.regions import RegionConfig, complete, cut, divide, merge_tree
from splatseg.fit.segment_features import segment_features


def table_and_ground() -> tuple[Gaussians, np.ndarray]:
    """A square of noisy gray (0) in the middle of noisy green (1), both flat, and a heap of brown (2) on top."""
    draw = torch.Generator().manual_seed(0)
    flat = torch.rand(900, 2, generator=draw) * 2 - 1
    heap = torch.randn(100, 3, generator=draw) * 0.05 + torch.tensor([0.0, 0.0, 0.15])
    kind = torch.cat([(flat.abs().amax(1) > 0.5).long(), torch.full((100,), 2)])
    means = torch.cat([torch.cat([flat, torch.zeros(900, 1)], dim=1), heap])
    color = torch.tensor([[0.6, 0.6, 0.6], [0.2, 0.5, 0.1], [0.4, 0.2, 0.1]])[kind]
    color = color + 0.05 * torch.randn(1000, 3, generator=draw)
    quats = torch.zeros(1000, 4)
    quats[:, 0] = 1
    sh = ((color - 0.5) / SH_C0)[:, None]
    return Gaussians(
        means, quats, torch.tensor([-3.0, -3.0, -6.0]).repeat(1000, 1), torch.zeros(1000), sh
    ), kind.numpy()


def one_segment(kind: np.ndarray) -> Segments:
    """The heap, confirmed by five of five views; the rest seen and in no mask, but ten Gaussians that no view sees."""
    inside = (kind == 2).astype(np.float32)
    weights = np.ones(len(kind), np.float32)
    weights[:10] = 0
    five = np.array([5])
    return Segments(sparse.csr_matrix(inside[:, None] > 0), weights, five, five, inside, inside)


def test_regions_follow_color() -> None:
    gaussians, kind = table_and_ground()
    flat = np.flatnonzero(kind < 2)
    coarse = divide(gaussians.select(torch.from_numpy(flat)), np.ones(len(flat), np.float32), RegionConfig())[0]
    for region in range(coarse.max() + 1):
        inside = kind[flat][coarse == region]
        assert max(np.mean(inside == 0), np.mean(inside == 1)) > 0.95


def test_divisions_nest() -> None:
    gaussians, _ = table_and_ground()
    divisions = divide(gaussians, np.ones(1000, np.float32), RegionConfig())
    assert len(divisions) == 3 and divisions[-1].max() > divisions[0].max()
    for coarse, fine in itertools.pairwise(divisions):
        assert all(len(np.unique(coarse[fine == region])) == 1 for region in range(fine.max() + 1))


def test_what_falls_apart_is_joined_in_the_end() -> None:
    """Two heaps that are no neighbors of each other: the last merge joins them."""
    means = np.concatenate(
        [np.random.default_rng(0).normal(size=(20, 3)), np.random.default_rng(1).normal(size=(20, 3)) + 100]
    )
    merges, heights = merge_tree(means.copy(), np.ones(40), neighbor_edges(means, 4), means.copy())
    assert len(merges) == 39 and (np.diff(heights) >= 0).all()
    two = cut(merges, 40, 2)
    assert len(np.unique(two[:20])) == len(np.unique(two[20:])) == 1 and two[0] != two[20]


def test_every_gaussian_gets_a_feature_and_what_masks_cover_is_told_from_the_rest() -> None:
    """Before, 900 of these features stayed the noise they began as."""
    gaussians, kind = table_and_ground()
    found = one_segment(kind)
    segments = complete(found, gaussians)
    assert segments.views[0] == 5 and not segments.views[1:].any() and not segments.confidence[1:].any()
    assert np.array_equal(segments.inside[:, 0].toarray().ravel(), kind == 2), "an agreed segment stays what it was"
    features = segment_features(segments, 16)
    assert bool((features.norm(dim=1) > 0.99).all())
    cosines = features[torch.from_numpy(np.flatnonzero(kind == 2))[0]] @ features.T
    assert float(cosines[kind == 2].min()) > float(cosines[kind < 2].max())
    table = features[torch.from_numpy((kind == 0) & (found.weights > 0))]
    grass = features[torch.from_numpy((kind == 1) & (found.weights > 0))]
    assert float((table @ table.T).mean()) > float((table @ grass.T).mean()) + 0.1


def test_what_masks_cover_unconfirmed_is_left_to_the_loss() -> None:
    gaussians, kind = table_and_ground()
    covered = replace(one_segment(kind), covered=np.ones(1000, np.float32))
    segments = complete(covered, gaussians)
    assert len(segments) == 1
    assert len(complete(one_segment(kind), gaussians, RegionConfig(most=0))) == 1, "0 turns regions off"


@pytest.mark.parametrize("seed", range(4))
def test_pairs_that_choose_each_other(seed: int) -> None:
    """Of costs with many ties: the first of equal ones, as by sorting them all; without pairs there are none."""
    draw = np.random.default_rng(seed)
    edges = distinct_pairs(np.sort(draw.integers(0, 60, (300, 2)), axis=1), 60)
    wanted = np.unique(edges[edges[:, 0] < edges[:, 1]], axis=0)
    assert np.array_equal(edges, wanted)
    cost = draw.integers(0, 6, len(edges)).astype(float)
    rank = np.argsort(np.argsort(cost, kind="stable"))
    best = np.array([rank[(edges == k).any(1)].min(initial=len(cost)) for k in range(60)])
    found = regions._mutual(cost, edges, 60)
    assert found.any() and np.array_equal(found, (best[edges] == rank[:, None]).all(1))
    assert len(distinct_pairs(edges[:0], 60)) == 0
