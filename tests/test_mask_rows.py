"""Kernels of the products of masks: bits of the specification, whatever the threads, and inputs that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from test_mask_products import COUNT, MIN_WEIGHT, noisy_view

from splatseg.fit.pixel_pools import PixelPool
from splatseg.ops.mask_products import BlockedEvidence, gather, vote
from splatseg.ops.mask_rows import RowEvidence, can_walk_rows
from splatseg.ops.reference.mask_products import SparseEvidence
from splatseg.ops.sparse_rows import Rows

pytestmark = pytest.mark.skipif(not can_walk_rows(torch.empty(0)), reason="splatseg._C is not built")
OPS = torch.ops.splatseg


@pytest.fixture(scope="module")
def pools() -> list[PixelPool]:
    draw = np.random.default_rng(7)
    return [noisy_view(draw) for _ in range(9)]


def to_scipy(rows: Rows, values: Any) -> sparse.csr_matrix:
    return sparse.csr_matrix((values, rows.columns.numpy(), rows.offsets.numpy()), (len(rows), rows.width))


def specification(found: RowEvidence) -> SparseEvidence:
    """The specification's products on the same tables."""
    assert found.seen.values is not None
    masks = to_scipy(found.masks, np.ones(len(found.masks.columns), bool))
    return SparseEvidence(masks, found.view, to_scipy(found.seen, found.seen.values.numpy()), found.weights)


def test_a_cpu_takes_the_kernels(pools: list[PixelPool]) -> None:
    assert isinstance(gather(pools, COUNT, MIN_WEIGHT), RowEvidence)


def test_what_views_say_has_the_same_bits_as_on_other_devices(pools: list[PixelPool]) -> None:
    found, blocked = (kind.gather(pools, COUNT, MIN_WEIGHT) for kind in (RowEvidence, BlockedEvidence))
    assert torch.equal(found.mean, blocked.mean) and torch.equal(found.mask_view, blocked.mask_view)
    for mine, theirs in ((found.masks, blocked.masks), (found.seen, blocked.seen)):
        assert torch.equal(mine.offsets, theirs.offsets) and torch.equal(mine.columns, theirs.columns)
    assert torch.equal(found.seen.values, blocked.seen.values)


def dense(found: Any) -> Any:
    return found.toarray() if sparse.issparse(found) else found


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_products_have_the_bits_of_the_specification(pools: list[PixelPool], threads: int) -> None:
    """Of all Gaussians, and of some of them; five threads for less work than a thread takes at a time."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        everything = RowEvidence.gather(pools, COUNT, MIN_WEIGHT)
        for found in (everything, everything.rows(np.arange(3, COUNT, 2))):
            wanted, owner = specification(found), np.random.default_rng(0).integers(-1, 12, len(found.view))
            sets = vote(wanted, owner)
            assert sets.nnz > 100 and np.array_equal(dense(vote(found, owner)), dense(sets))
            assert np.array_equal(dense(found.shares(owner, 0.15)), dense(wanted.shares(owner, 0.15)))
            assert np.array_equal(found.mutual(sets), wanted.mutual(sets))
            assert np.array_equal(found.shown(sets), wanted.shown(sets))
            assert np.array_equal(found.shown(), wanted.shown())
            assert np.array_equal(found.agreed(owner, sets), wanted.agreed(owner, sets))
            pairs = found.agreement(0.5)
            assert pairs.nnz > 100 and np.array_equal(dense(pairs), dense(wanted.agreement(0.5)))
            for mine, theirs in zip(found.matches(sets, 0.1), wanted.matches(sets, 0.1), strict=True):
                assert np.array_equal(dense(mine), dense(theirs))
    finally:
        torch.set_num_threads(before)


def test_a_view_that_shows_nothing_and_a_splat_of_one() -> None:
    """A row without entries first, in the middle and last; a Gaussian that no pool shows."""
    draw = np.random.default_rng(2)
    pool = noisy_view(draw)
    dim = PixelPool(pool.contributions, pool.rows, pool.patch, pool.membership)
    seen_by_none = RowEvidence.gather([pool, dim], COUNT + 3, 1e9)
    assert not seen_by_none.weights.any() and len(seen_by_none.masks.columns) == 0
    assert not seen_by_none.shown().any() and seen_by_none.agreement(0.5).nnz == 0
    wider = RowEvidence.gather([pool], COUNT + 3, MIN_WEIGHT)
    assert not wider.weights[COUNT:].any() and wider.weights[:COUNT].any()


def test_schemas(pools: list[PixelPool]) -> None:
    found = RowEvidence.gather(pools[:2], COUNT, MIN_WEIGHT)
    masks, seen = (found.masks.offsets, found.masks.columns), (found.seen.offsets, found.seen.columns)
    owner = torch.arange(len(found.mask_view)) % 4 - 1
    by_mask, shown = OPS.transpose_rows(*masks, found.masks.width), torch.from_numpy(found.shown())
    *sets, _ = OPS.mask_votes(*masks, *seen, found.seen.values, found.mask_view, owner, 2, 3, 0.5)
    own = shown.gather(1, found.mask_view[:, None])[:, 0]
    c, patches = pools[0].contributions, len(pools[0].membership)
    bits = torch.arange(patches + 1), torch.zeros(patches, dtype=torch.int32)
    opcheck = torch.library.opcheck
    opcheck(OPS.observe_masks, (c.offsets, c.ids, c.weights.float(), pools[0].patch, *bits, 1, COUNT))
    opcheck(OPS.transpose_rows, (*masks, found.masks.width))
    opcheck(OPS.shared_weights, (*by_mask, *seen, found.mean, 2))
    opcheck(OPS.mask_agreement, (*by_mask, *masks, found.mean, found.mask_view, shown, 0.5))
    opcheck(OPS.mask_matches, (*by_mask, *sets, found.mean, found.mask_view, own, shown[:3].contiguous(), 0.5))
    opcheck(OPS.mask_votes, (*masks, *seen, found.seen.values, found.mask_view, owner, 2, 3, 0.5))
    opcheck(OPS.masks_agreed, (*masks, found.mask_view, owner, *sets, 3))
    room = torch.zeros(4, dtype=torch.int32), torch.tensor([0, 2])
    part = torch.tensor([1, 0], dtype=torch.int32), torch.tensor([0, 1, 3]), torch.tensor([5, 6, 7], dtype=torch.int32)
    opcheck(OPS.place_rows_, (*room, *part, 10))
    OPS.place_rows_(*room, *part, 10)
    assert room[0].tolist() == [16, 17, 15, 0] and room[1].tolist() == [2, 3]


OFFSETS, COLUMNS = torch.tensor([0, 1, 3]), torch.tensor([1, 0, 1], dtype=torch.int32)


@pytest.mark.parametrize(
    ("offsets", "columns", "message"),
    [
        (torch.tensor([0, 2, 1, 3]), COLUMNS, "ascend"),
        (torch.tensor([1, 1, 3]), COLUMNS, "ascend"),
        (torch.tensor([0, 1, 4]), COLUMNS, "ascend"),
        (OFFSETS, COLUMNS.long(), "contiguous Int"),
        (OFFSETS.int(), COLUMNS, "contiguous Long"),
        (OFFSETS, torch.tensor([1, -1, 0], dtype=torch.int32), r"columns in 0\.\.1"),
        (OFFSETS, torch.tensor([1, 2, 0], dtype=torch.int32), r"columns in 0\.\.1"),
        (torch.zeros(0, dtype=torch.int64), COLUMNS, "offsets"),
    ],
)
def test_rows_that_would_leave_their_tables_are_refused(
    offsets: torch.Tensor, columns: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        OPS.transpose_rows(offsets, columns, 2)


def test_numbers_that_would_leave_their_tables_are_refused() -> None:
    two, weights = torch.zeros(2, dtype=torch.int64), torch.ones(2)
    with pytest.raises(ValueError, match=r"owner: expected -1\.\.0, found 1 at index 1"):
        OPS.masks_agreed(OFFSETS, COLUMNS, two, torch.tensor([0, 1]), OFFSETS, torch.zeros_like(COLUMNS), 1)
    with pytest.raises(ValueError, match=r"view: expected 0\.\.0, found 3 at index 0"):
        OPS.mask_votes(OFFSETS, COLUMNS, OFFSETS, COLUMNS * 0, torch.ones(3), two + 3, two, 1, 1, 0.5)
    with pytest.raises(ValueError, match="left_rows"):
        OPS.shared_weights(OFFSETS, COLUMNS + 1, OFFSETS, COLUMNS, weights, 2)
    with pytest.raises(ValueError, match="cursor: expected room for 2 entries within 4"):
        room = torch.zeros(4, dtype=torch.int32), torch.tensor([0, 3])
        OPS.place_rows_(*room, torch.tensor([0, 1], dtype=torch.int32), OFFSETS, COLUMNS, 0)
    with pytest.raises(ValueError, match=r"patch: expected 0\.\.0, found 2"):
        OPS.observe_masks(OFFSETS, COLUMNS, torch.ones(3), two + 2, torch.tensor([0, 0]), COLUMNS[:0], 0, 2)
