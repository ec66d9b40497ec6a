"""What masks disagree on goes by color, normal and company; what they agree on stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import SH_C0, Gaussians
from splatseg.fit.neighbor_graph import looks
from splatseg.fit.segment_borders import BorderConfig, settle

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]
COUNT = 1500
ONES = np.ones(COUNT, np.float32)


def plane(seed: int, painted: bool = True) -> tuple[Gaussians, Doubles]:
    """A flat square of noisy green, its middle gray where ``painted``; and how deep each lies in the middle."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.cat([torch.rand(COUNT, 2, generator=draw) * 2 - 1, torch.zeros(COUNT, 1)], dim=1)
    depth = 0.5 - means[:, :2].abs().amax(1)
    color = torch.tensor([[0.2, 0.5, 0.1], [0.6, 0.6, 0.6]])[((depth > 0) & painted).long()]
    color = color + 0.03 * torch.randn(COUNT, 3, generator=draw)
    quats = torch.zeros(COUNT, 4)
    quats[:, 0] = 1
    scales = torch.tensor([-3.0, -3.0, -6.0]).repeat(COUNT, 1)
    gaussians = Gaussians(means, quats, scales, torch.zeros(COUNT), ((color - 0.5) / SH_C0)[:, None])
    return gaussians, depth.double().numpy()


def ragged(depth: Doubles, seed: int, reach: float = 0.1) -> Doubles:
    """Shares of the votes of masks whose borders lie off by ``reach``, as ten views have them."""
    draw = np.random.default_rng(seed).normal(0, reach, (10, 8))
    angle = np.arange(COUNT) % 8  # neighbors along a border are off alike: here they are not, which is harder
    return np.asarray((depth > draw[:, angle]).mean(axis=0))


def table(*columns: Doubles, doubt: float = BorderConfig().doubt) -> sparse.csr_matrix:
    shares = np.stack(columns, axis=1).astype(np.float32)
    return sparse.csr_matrix(np.where(shares > doubt, shares, 0))


def iou(one: Bools, other: Bools) -> float:
    return float((one & other).sum() / (one | other).sum())


# By looks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_border_moves_to_the_edge(seed: int) -> None:
    gaussians, depth = plane(seed)
    shares = ragged(depth, seed)
    settled = settle(table(shares), gaussians, ONES).toarray()[:, 0] > 0
    assert 1 - iou(settled, depth > 0) < 0.5 * (1 - iou(shares > 0.5, depth > 0)), "half of what is wrong is mended"


def test_what_masks_agree_on_does_not_move_whatever_lies_there() -> None:
    """A sharp border across the paint, and one where nothing is painted."""
    for painted in (True, False):
        gaussians, depth = plane(0, painted)
        moved = depth > 0.13
        shares = np.where(moved, 0.95, 0.05)
        assert np.array_equal(settle(table(shares), gaussians, ONES).toarray()[:, 0] > 0, moved)


def plain(shares: Doubles, gaussians: Gaussians, weights: Doubles, config: BorderConfig) -> Doubles:
    """By looks, the definition, a vote at a time."""
    means = gaussians.means.double().numpy()
    apart = np.linalg.norm(means[:, None] - means[None], axis=2)
    near = np.argsort(apart, axis=1, kind="stable")[:, : config.neighbors + 1]
    pairs = np.stack([np.repeat(np.arange(COUNT), config.neighbors + 1), near.ravel()], axis=1)
    found = looks(gaussians, pairs[pairs[:, 0] != pairs[:, 1]])
    doubtful = (shares > config.doubt) & (shares < 1 - config.doubt)
    known = np.where(shares > config.doubt, shares, 0)
    settled = known.copy()
    for _ in range(config.rounds):
        before = settled.copy()
        for g in np.flatnonzero(doubtful):
            others = near[g][near[g] != g]
            alike = np.exp(-((found[g] - found[others]) ** 2).sum(1) / 2 / config.contrast**2) * weights[others]
            pulled = config.pull * (alike @ before[others])
            settled[g] = (weights[g] * shares[g] + pulled) / (weights[g] + config.pull * alike.sum())
    return settled


@pytest.mark.parametrize("config", [BorderConfig(), BorderConfig(doubt=0.25, rounds=3, pull=2.0, neighbors=4)])
def test_it_is_what_the_definition_says(config: BorderConfig) -> None:
    gaussians, depth = plane(4)
    weights = np.random.default_rng(4).random(COUNT).astype(np.float32) + 0.05
    shares = ragged(depth, 4)
    found = settle(table(shares, doubt=config.doubt), gaussians, weights, config).toarray()[:, 0] > 0
    wanted = plain(shares, gaussians, weights.astype(np.float64), config)
    assert np.array_equal(found, wanted > 0.5) and not np.array_equal(found, shares > 0.5)


def test_what_no_view_sees_counts_for_nothing() -> None:
    gaussians, depth = plane(5)
    shares, weights = ragged(depth, 5), ONES.copy()
    weights[::3] = 0
    seen = np.flatnonzero(weights)
    found = settle(table(np.where(weights > 0, shares, 0)), gaussians, weights).toarray()
    alone = settle(table(shares)[seen], gaussians.select(torch.from_numpy(seen)), weights[seen]).toarray()
    assert not found[::3].any() and np.array_equal(found[seen], alone)


# By company ----------------------------------------------------------------------------------------------------------


def block_on_a_table(share: float) -> sparse.csr_matrix:
    """100 Gaussians: a table, 20 of them a block too, of which the table's masks hold ``share`` of the votes; of every
    second one a little less, so that the majority would cut the block in two where ``share`` is about a half."""
    block, desk = np.zeros(100), np.full(100, 0.95)
    block[:20] = 0.9
    desk[:20] = share
    desk[1:20:2] -= 0.06
    return table(block, desk)


def lone(count: int) -> Gaussians:
    """Far apart and of all colors, so that looks move nothing."""
    draw = torch.Generator().manual_seed(0)
    means, quats = torch.randn(count, 3, generator=draw), torch.randn(count, 4, generator=draw)
    color = torch.randn(count, 1, 3, generator=draw) * 20
    return Gaussians(means, quats, torch.zeros(count, 3), torch.zeros(count), color)


@pytest.mark.parametrize(("share", "on"), [(0.53, 0), (0.49, 0), (0.6, 20), (0.3, 0)])
def test_a_small_thing_is_in_a_large_one_or_it_is_not(share: float, on: int) -> None:
    """At 0.53 every second Gaussian of the block is the table's by the votes, a tie: the block is not its own."""
    config = BorderConfig(pull=0)
    found = settle(block_on_a_table(share), lone(100), np.ones(100, np.float32), config).toarray() > 0
    assert found[:20, 0].all() and not found[20:, 0].any() and found[20:, 1].all()
    assert found[:20, 1].sum() == on, "all of the block or nothing"


def test_votes_that_are_sure_outvote_company() -> None:
    shares = block_on_a_table(0.3).tolil()
    shares[0, 1] = 0.95
    found = settle(sparse.csr_matrix(shares), lone(100), np.ones(100, np.float32), BorderConfig(pull=0)).toarray() > 0
    assert found[0, 1] and not found[1:20, 1].any()


def test_a_chain_of_larger_things_is_settled_from_the_largest() -> None:
    """A part of a thing, and a wall behind them: as the thing is not the wall's, its part is not, though by the part
    alone it would be."""
    part, thing, wall = np.zeros(200), np.zeros(200), np.full(200, 0.95)
    part[:10], thing[:40] = 0.9, 0.9
    wall[:10], wall[10:40] = 0.6, 0.3
    found = settle(table(part, thing, wall), lone(200), np.ones(200, np.float32), BorderConfig(pull=0)).toarray() > 0
    assert found[:40, 1].all() and not found[:40, 2].any() and found[40:, 2].all()


def test_relabeled_segments_and_gaussians_give_the_same_sets() -> None:
    gaussians, depth = plane(6)
    columns = [ragged(depth - step, 6 + k) for k, step in enumerate((0.0, 0.2, -0.3))]
    weights = np.random.default_rng(6).random(COUNT).astype(np.float32) + 0.1
    found = settle(table(*columns), gaussians, weights).toarray()
    order = np.random.default_rng(7).permutation(COUNT)
    shuffled = settle(table(*columns[::-1])[order], gaussians.select(torch.from_numpy(order)), weights[order]).toarray()
    assert np.array_equal(shuffled[:, ::-1], found[order])


def test_nothing_to_settle() -> None:
    gaussians, depth = plane(0)
    shares = table(ragged(depth, 0), doubt=0.5)
    assert np.array_equal(settle(shares, gaussians, ONES, BorderConfig(doubt=0.5)).toarray() > 0, shares.toarray() > 0)
    assert settle(shares[:, :0], gaussians, ONES).shape == (COUNT, 0)
    assert settle(table(np.zeros(COUNT)), gaussians, np.zeros(COUNT, np.float32)).nnz == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"doubt": 0.0},
        {"doubt": 0.6},
        {"rounds": -1},
        {"neighbors": 0},
        {"pull": -0.1},
        {"contrast": 0.0},
        {"pull": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SplatsegError, match="borders"):
        BorderConfig(**settings)
