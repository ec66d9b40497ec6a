"""Connected pieces on all cores: those of scipy, number by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.ops.extension import compiled
from splatseg.ops.nearest import nearest_others
from splatseg.ops.pieces import connected_pieces
from splatseg.ops.reference import pieces as reference


def graph(count: int, labels: int, k: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    draw = np.random.default_rng(count)
    ids, distances = nearest_others(draw.random((count, 3)).astype(np.float32), k)
    return torch.from_numpy(draw.integers(0, labels, count)), torch.from_numpy(ids), torch.from_numpy(distances)


def chain(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """One piece in which each knows the next one of a random order alone: the longest way to a root."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    after = torch.empty(count, dtype=torch.int64)
    after[order] = order.roll(-1)
    return torch.zeros(count, dtype=torch.int64), after.int()[:, None], torch.zeros(count, 1)


CASES = {
    "nobody": (torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.int32), torch.zeros(0, 3)),
    "no neighbors": (torch.zeros(5, dtype=torch.int64), torch.zeros(5, 0, dtype=torch.int32), torch.zeros(5, 0)),
    "alone with itself": (torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1)),
    "many small": graph(20000, 6),
    "few large": graph(20000, 1, 8),
    "a chain": chain(20000),
    "no number": (
        torch.zeros(3, dtype=torch.int64),
        torch.tensor([[1], [2], [0]]).int(),
        torch.full((3, 1), torch.nan),
    ),
}


@pytest.mark.skipif(not compiled(), reason="splatseg._C is not built")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_pieces_of_the_specification_whatever_the_threads(case: tuple[Tensor, Tensor, Tensor], threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for longest in (0.02, float("inf")):
            assert torch.equal(connected_pieces(*case, longest), reference.connected_pieces(*case, longest))
    finally:
        torch.set_num_threads(before)


def test_the_longest_edge_is_compared_as_float32() -> None:
    """0.1 as float64 is less than as float32: an edge of that length stays."""
    labels, ids = torch.zeros(2, dtype=torch.int64), torch.tensor([[1], [0]], dtype=torch.int32)
    assert connected_pieces(labels, ids, torch.full((2, 1), 0.1), 0.1).tolist() == [0, 0]
    assert connected_pieces(labels, ids, torch.full((2, 1), 0.1), 0.0999).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(4, dtype=torch.int32)}, "labels: expected torch.int64"),
        ({0: torch.zeros(3, dtype=torch.int64)}, "neighbors: expected shape"),
        ({1: torch.full((4, 2), 4, dtype=torch.int32)}, r"neighbors: expected 0\.\.3, found 4\.\.4"),
        ({1: torch.full((4, 2), -1, dtype=torch.int32)}, r"neighbors: expected 0\.\.3, found -1"),
        ({2: torch.zeros(4, 2, dtype=torch.float64)}, "distances: expected torch.float32"),
        ({2: torch.zeros(4, 3)}, "distances: expected shape"),
    ],
)
def test_what_is_no_graph_is_refused(change: dict[int, Tensor], message: str) -> None:
    given = [torch.zeros(4, dtype=torch.int64), torch.zeros(4, 2, dtype=torch.int32), torch.zeros(4, 2)]
    for number, tensor in change.items():
        given[number] = tensor
    for _ in range(2):
        with pytest.raises(SplatsegError, match=message):
            connected_pieces(*given, 1.0)
    if compiled():
        with pytest.raises(ValueError, match=message.split(":")[0]):
            torch.ops.splatseg.connected_pieces(*given, 1.0)


@pytest.mark.skipif(not compiled(), reason="splatseg._C is not built")
def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.splatseg.connected_pieces.default, (*graph(50, 2), 0.5))
