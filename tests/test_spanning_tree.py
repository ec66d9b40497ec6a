"""The tree of mutual reachability: as short as Prim's, edge by edge, with copies, ties and on every device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.ops import spanning_tree
from splatseg.ops.reference import spanning_tree as reference
from splatseg.ops.spanning_tree import all_pairs_pay, reachability_tree


def draw(count: int, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_copies() -> Tensor:
    """150 points of which ten come 1, 2, .. 10 times more, in random order: fewer and more than min_samples."""
    points = torch.cat([draw(150), draw(150)[:10].repeat_interleave(torch.arange(1, 11), dim=0)])
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(1))]


def grid() -> Tensor:
    """Nearly all distances are ties."""
    return torch.cartesian_prod(*[torch.arange(6.0, dtype=torch.float64)] * 3)


CASES = {
    "random": draw(200),
    "copies": with_copies(),
    "grid": grid(),
    "all equal": torch.ones(20, 4, dtype=torch.float64),
    "two heaps": torch.tensor([0.0, 1.0], dtype=torch.float64).repeat_interleave(9)[:, None],
    "as few as can be": draw(6),
    "near copies": draw(40).repeat(3, 1) + 1e-9 * draw(120, seed=2),
}


@pytest.mark.parametrize("points", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("min_samples", [1, 5])
def test_lengths_are_those_of_the_shortest_tree(
    points: Tensor, min_samples: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All shortest trees have the same lengths; each length is its edge's; the edges connect everything."""
    monkeypatch.setattr(spanning_tree, "BLOCK_PAIRS", 1000)
    edges, lengths = reachability_tree(points.to(device), min_samples)
    _, expected = reference.reachability_tree(points, min_samples)
    torch.testing.assert_close(lengths, expected, rtol=1e-12, atol=1e-15)
    assert edges.shape == (len(points) - 1, 2) and bool((lengths.diff() >= 0).all())
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    core = distances.sort(dim=1).values[:, min_samples]
    a, b = edges.T
    torch.testing.assert_close(lengths, distances[a, b].maximum(core[a]).maximum(core[b]), rtol=1e-12, atol=1e-15)
    graph = coo_matrix((np.ones(len(edges)), (a.numpy(), b.numpy())), shape=(len(points), len(points)))
    assert connected_components(graph, directed=False)[0] == 1


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reachability_tree(grid(), 5)
    monkeypatch.setattr(spanning_tree, "BLOCK_PAIRS", 1)  # a row at a time
    again = reachability_tree(grid(), 5)
    assert torch.equal(whole[0], again[0]) and torch.equal(whole[1], again[1])


def test_copies_hang_on_their_first() -> None:
    """Seven at 0 and seven at 1, taking turns: each copy's edge leads to points 0 and 1, of length 0."""
    edges, lengths = reachability_tree(torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(7)[:, None], 5)
    assert lengths.tolist() == [0.0] * 12 + [1.0]
    assert edges[:12].tolist() == [[0, k] for k in range(2, 14, 2)] + [[1, k] for k in range(3, 14, 2)]
    assert sorted(edges[12].tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("points", "min_samples", "message"),
    [
        (torch.zeros(5, 2), 1, "points: expected float64"),
        (torch.zeros(5, 2, dtype=torch.float64), 5, r"min_samples: expected 1\.\.4"),
        (torch.zeros(5, 2, dtype=torch.float64), 0, "min_samples"),
        (torch.zeros(5, dtype=torch.float64), 1, "points"),
    ],
)
def test_what_has_no_tree_is_refused(points: Tensor, min_samples: int, message: str) -> None:
    with pytest.raises(SplatsegError, match=message):
        reachability_tree(points, min_samples)


def test_all_pairs_pay_for_few_points_or_beside_the_host() -> None:
    assert all_pairs_pay(100, torch.device("cpu")) and not all_pairs_pay(10**5, torch.device("cpu"))
    assert all_pairs_pay(10**5, torch.device("cuda"))
