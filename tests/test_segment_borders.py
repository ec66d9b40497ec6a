"""Borders of segments move to where color or normal change, stay where nothing does, and keep what nests nested."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import SH_C0, Gaussians
from splatseg.core.segments import Segments
from splatseg.fit.neighbor_graph import appearance, neighbor_edges
from splatseg.fit.regions import RegionConfig, complete
from splatseg.fit.segment_borders import BorderConfig, settle

Bools = NDArray[np.bool_]
COUNT = 1500


def plane(seed: int, painted: bool = True) -> tuple[Gaussians, Bools, NDArray[np.float64]]:
    """A flat square of noisy green, its middle (the second result) gray where ``painted``; and the distance of each
    Gaussian from the middle's border, positive inside."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.cat([torch.rand(COUNT, 2, generator=draw) * 2 - 1, torch.zeros(COUNT, 1)], dim=1)
    depth = 0.5 - means[:, :2].abs().amax(1)
    middle = depth > 0
    color = torch.tensor([[0.2, 0.5, 0.1], [0.6, 0.6, 0.6]])[(middle & painted).long()]
    color = color + 0.03 * torch.randn(COUNT, 3, generator=draw)
    quats = torch.zeros(COUNT, 4)
    quats[:, 0] = 1
    scales = torch.tensor([-3.0, -3.0, -6.0]).repeat(COUNT, 1)
    gaussians = Gaussians(means, quats, scales, torch.zeros(COUNT), ((color - 0.5) / SH_C0)[:, None])
    return gaussians, middle.numpy(), depth.double().numpy()


def column(*sets: Bools) -> sparse.csr_matrix:
    return sparse.csr_matrix(np.stack(sets, axis=1))


def iou(one: Bools, other: Bools) -> float:
    return float((one & other).sum() / (one | other).sum())


def ragged(depth: NDArray[np.float64], seed: int) -> Bools:
    """The middle as masks have it whose borders lie off: a third of what is near the border is on the wrong side."""
    wrong = (abs(depth) < 0.08) & (np.random.default_rng(seed).random(COUNT) < 0.33)
    return (depth > 0) ^ wrong


@pytest.mark.parametrize("seed", range(3))
def test_a_ragged_border_moves_to_the_edge(seed: int) -> None:
    gaussians, middle, depth = plane(seed)
    rough = ragged(depth, seed)
    settled = settle(column(rough), gaussians, np.ones(COUNT, np.float32)).toarray()[:, 0]
    assert 1 - iou(settled, middle) < 0.5 * (1 - iou(rough, middle)), "at least half of what is wrong is mended"


@pytest.mark.parametrize("seed", range(3))
def test_a_border_without_an_edge_stays(seed: int) -> None:
    gaussians, middle, _ = plane(seed, painted=False)
    settled = settle(column(middle), gaussians, np.ones(COUNT, np.float32)).toarray()[:, 0]
    assert iou(settled, middle) > 0.97


def test_exact_borders_on_an_edge_do_not_move() -> None:
    gaussians, middle, _ = plane(0)
    sets = column(middle, ~middle, np.ones(COUNT, bool), np.zeros(COUNT, bool))
    assert np.array_equal(settle(sets, gaussians, np.ones(COUNT, np.float32)).toarray(), sets.toarray())


@pytest.mark.parametrize("pull", [0.3, 3.0])
def test_what_is_nested_stays_nested(pull: float) -> None:
    draw = np.random.default_rng(2)
    gaussians, _, depth = plane(2)
    outer = (depth > -0.1) ^ (draw.random(COUNT) < 0.2)
    inner = outer & ((depth > 0.1) ^ (draw.random(COUNT) < 0.2))
    weights = draw.random(COUNT).astype(np.float32) + 0.1
    one, other = settle(column(inner, outer), gaussians, weights, BorderConfig(pull=pull)).toarray().T
    assert not (one & ~other).any()
    assert one.any() and not np.array_equal(one, inner) and not np.array_equal(other, outer)


def plain(member: Bools, gaussians: Gaussians, weights: NDArray[np.float64], config: BorderConfig) -> Bools:
    """The definition, on full tables and of all Gaussians."""
    edges = neighbor_edges(gaussians.means.double().numpy(), config.neighbors)
    looks = appearance(gaussians, edges, 0.0)
    touch, alike = np.zeros((COUNT, COUNT), bool), np.zeros((COUNT, COUNT))
    for a, b in edges:
        touch[a, b] = touch[b, a] = True
        alike[a, b] = alike[b, a] = np.exp(-np.sum((looks[a] - looks[b]) ** 2) / 2 / config.contrast**2)
    near = (touch & (member[:, None] != member[None])).any(1)
    for _ in range(config.hops):
        near = near | touch[:, near].any(1)
    counts = config.pull * alike * weights
    share = member.astype(float)
    for _ in range(config.rounds):
        mean = (weights * member + counts @ share) / (weights + counts.sum(1))
        share = np.where(near, mean, share)
    found: Bools = share > 0.5
    return found


@pytest.mark.parametrize(
    "config", [BorderConfig(), BorderConfig(rounds=3, pull=2.0, contrast=1.0, hops=1, neighbors=4)]
)
def test_it_is_what_the_definition_says(config: BorderConfig) -> None:
    gaussians, _, depth = plane(4)
    weights = np.random.default_rng(4).random(COUNT).astype(np.float32) + 0.05
    rough = ragged(depth, 4)
    found = settle(column(rough), gaussians, weights, config).toarray()[:, 0]
    wanted = plain(rough, gaussians, weights.astype(np.float64), config)
    assert np.array_equal(found, wanted) and not np.array_equal(found, rough)


def test_what_no_view_sees_stays_and_counts_for_nothing() -> None:
    gaussians, _, depth = plane(5)
    rough = ragged(depth, 5)
    weights = np.ones(COUNT, np.float32)
    weights[::3] = 0
    found = settle(column(rough), gaussians, weights).toarray()[:, 0]
    assert np.array_equal(found[::3], rough[::3])
    seen = np.flatnonzero(weights)
    alone = settle(column(rough[seen]), gaussians.select(torch.from_numpy(seen)), weights[seen]).toarray()[:, 0]
    assert np.array_equal(found[seen], alone) and not np.array_equal(alone, rough[seen])


def test_nothing_to_settle() -> None:
    gaussians, _, depth = plane(0)
    weights = np.ones(COUNT, np.float32)
    rough = column(ragged(depth, 0))
    assert (settle(rough, gaussians, weights, BorderConfig(rounds=0)) != rough).nnz == 0
    assert (settle(rough, gaussians, np.zeros(COUNT, np.float32)) != rough).nnz == 0
    assert (settle(rough, gaussians, weights, BorderConfig(max_gaussians=COUNT - 1)) != rough).nnz == 0
    assert (settle(rough, gaussians, weights, BorderConfig(max_gaussians=COUNT)) != rough).nnz > 0
    assert settle(rough[:, :0], gaussians, weights).shape == (COUNT, 0)


def test_segments_are_completed_with_settled_borders() -> None:
    gaussians, middle, depth = plane(1)
    views, share = np.array([5]), np.ones(COUNT, np.float32)
    found = Segments(column(ragged(depth, 1)), share, views, views, share, share)
    rough = complete(found, gaussians, RegionConfig(borders=BorderConfig(rounds=0))).inside.toarray()[:, 0]
    assert np.array_equal(rough, ragged(depth, 1))
    for config in (RegionConfig(), RegionConfig(most=0)):
        settled = complete(found, gaussians, config).inside.toarray()[:, 0]
        assert 1 - iou(settled, middle) < 0.5 * (1 - iou(rough, middle))


@pytest.mark.parametrize(
    "settings",
    [{"rounds": -1}, {"hops": 0}, {"neighbors": 0}, {"pull": -0.1}, {"contrast": 0.0}, {"pull": float("nan")}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SplatsegError, match="borders"):
        BorderConfig(**settings)
