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
from splatseg.ops.extension import compiled
from splatseg.ops.reference import spanning_tree as reference
from splatseg.ops.spanning_tree import reachability_tree


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
        (torch.full((5, 2), torch.nan, dtype=torch.float64), 1, "points: expected coordinates within 1e"),
        (torch.full((5, 2), 1e200, dtype=torch.float64), 1, "points: expected coordinates within 1e"),
    ],
)
def test_what_has_no_tree_is_refused(points: Tensor, min_samples: int, message: str) -> None:
    for _ in range(2):
        with pytest.raises(SplatsegError, match=message):
            reachability_tree(points, min_samples)


def heaps(count: int, channels: int) -> Tensor:
    """Thirty dense heaps and loose points between them: components grow at once in many places, and then far apart."""
    centers = 3 * draw(30, channels, seed=1)
    close = centers[torch.arange(count) % 30] + 0.05 * draw(count, channels, seed=2)
    return torch.cat([close, 3 * draw(count // 10, channels, seed=3)])


DISTINCT = {
    "two": draw(2),
    "one block": draw(16),
    "one more than a block": draw(17),
    "grid": grid(),
    "heaps": heaps(900, 8),
    "one channel": draw(300, 1),
    "sixteen": draw(700, 16),
    "line with gaps": torch.arange(400.0, dtype=torch.float64)[:, None] ** 1.5,
    "squares too small for a number": 1e-170 * draw(40),
}


@pytest.mark.skipif(not compiled(), reason="splatseg._C is not built")
@pytest.mark.parametrize("points", DISTINCT.values(), ids=DISTINCT.keys())
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_kernel_finds_the_tree_of_the_specification(points: Tensor, threads: int) -> None:
    """Bit by bit and edge by edge, whatever the number of threads: of equal edges the first is taken, by points in
    rising order."""
    points = points.unique(dim=0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for min_samples in {1, min(5, len(points) - 1), min(40, len(points) - 1)}:
            edges, lengths = reachability_tree(points, min_samples)
            expected, expected_lengths = reference.reachability_tree(points, min_samples)
            assert torch.equal(lengths, expected_lengths)
            assert torch.equal(edges.sort(dim=1).values, expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not compiled(), reason="splatseg._C is not built")
def test_the_kernel_and_other_devices_find_one_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where distances are exact, with copies of every number and with ties everywhere."""
    points = grid().repeat_interleave(torch.arange(216) % 9 + 1, dim=0)
    found = reachability_tree(points, 5)
    monkeypatch.setattr(spanning_tree, "has_kernel", lambda op, tensor: False)
    again = reachability_tree(points, 5)
    assert torch.equal(found[0], again[0]) and torch.equal(found[1], again[1])


@pytest.mark.skipif(not compiled(), reason="splatseg._C is not built")
def test_the_kernel_refuses_what_would_leave_its_buffers() -> None:
    op, points, copies = torch.ops.splatseg.reachability_edges, draw(5), torch.ones(5, dtype=torch.int64)
    for given, message in (
        ((points / 0, copies, 1), "points: expected coordinates"),
        ((points.float(), copies, 1), "points: expected"),
        ((points[:0], copies[:0], 1), "points: expected"),
        ((points, copies[:4], 1), "copies: expected"),
        ((points, 0 * copies, 1), "copies: expected"),
        ((points, copies, 5), "min_samples: expected 1..4"),
        ((points, copies, 0), "min_samples"),
    ):
        with pytest.raises(ValueError, match=message):
            op(*given)
    torch.library.opcheck(op.default, (points, copies, 2))
