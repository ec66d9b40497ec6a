"""Votes and levels: exact counts, ranks of distinct positive votes."""

from __future__ import annotations

import pytest
import torch
from loss_cases import nested_masks, pack

from splatseg.core.errors import SplatsegError
from splatseg.ops import levels as ops
from splatseg.ops.extension import compiled
from splatseg.ops.reference import levels as reference

pytestmark = pytest.mark.skipif(not compiled(), reason="splatseg._C is not built")


@pytest.mark.parametrize("masks", [0, 1, 63, 64, 65, 128, 200, 300])
@pytest.mark.parametrize("density", [0.6, 0.008])
def test_votes_count_common_masks(device: torch.device, masks: int, density: float) -> None:
    """Word boundaries; patches with many and with few words that are not zero; bit 63 is the sign of a word."""
    contains = torch.rand(50, masks, generator=torch.Generator().manual_seed(masks)) < density
    membership = pack(contains).to(device)
    want = (contains.double() @ contains.double().T).to(torch.int32)
    assert torch.equal(ops.votes(membership).cpu(), want)
    ids = torch.tensor([3, 49, 3, 0], device=device)
    assert torch.equal(ops.votes(membership, ids).cpu(), want[ids.cpu()][:, ids.cpu()])
    assert torch.equal(reference.votes(membership.cpu(), ids.cpu()), want[ids.cpu()][:, ids.cpu()])


def test_votes_above_255_do_not_wrap(device: torch.device) -> None:
    membership = torch.full((2, 5), -1, dtype=torch.int64, device=device)
    assert ops.votes(membership).tolist() == [[320, 320], [320, 320]]


def test_levels_by_hand(device: torch.device) -> None:
    votes = torch.tensor([[5, 2, 0, 5], [2, 2, 1, 2], [0, 1, 0, 9], [-1, 0, 0, 0]], device=device)
    want = [[0, 1, -1, 0], [0, 0, 1, 0], [-1, 1, -1, 0], [-1, -1, -1, -1]]
    assert ops.levels(votes).tolist() == want
    assert reference.levels(votes.cpu()).tolist() == want


@pytest.mark.parametrize("k", [0, 1, 17, 130])
@pytest.mark.parametrize("factor", [1, 1000])
def test_levels_match_reference(device: torch.device, k: int, factor: int) -> None:
    contains = nested_masks(k + 1)[1:]
    votes = (contains.double() @ contains.double().T).to(torch.int32) * factor
    assert torch.equal(ops.levels(votes.to(device)).cpu(), reference.levels(votes))


def test_bad_input_is_named() -> None:
    membership = torch.zeros(4, 1, dtype=torch.int64)
    for call, message in (
        (lambda: ops.votes(membership.int()), "membership: expected int64"),
        (lambda: ops.votes(membership[0]), "membership: expected shape"),
        (lambda: ops.votes(membership, torch.tensor([4])), r"ids: expected 0\.\.3, found 4\.\.4"),
        (lambda: ops.votes(membership, torch.tensor([0.0])), "ids: expected int32 or int64"),
        (lambda: ops.levels(torch.zeros(2, 3, dtype=torch.int32)), "votes: expected shape"),
        (lambda: ops.levels(torch.zeros(2, 2)), "votes: expected int32 or int64"),
    ):
        with pytest.raises(SplatsegError, match=message):
            call()
