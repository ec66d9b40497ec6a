"""Pools by Gaussian: nothing is lost, held Gaussians are left out, and a step over them is the step over pixels."""

from __future__ import annotations

import pytest
import torch
from columns_cases import LENGTHS, SCHEDULE, VIEW_ROWS, contributions, some_columns, some_step, views
from torch import Tensor

from splatseg.ops.columns import BLOCK_ENTRIES, WARP_ENTRIES, PoolColumns, column_bytes
from splatseg.ops.reference.blend import select_rows


def triples(*values: Tensor) -> set[tuple[float, ...]]:
    return set(zip(*(v.tolist() for v in values), strict=True))


@pytest.mark.parametrize("weights", [torch.float16, torch.float32])
def test_every_entry_is_in_its_view_at_its_position(weights: torch.dtype) -> None:
    c, (start, shuffled), columns = contributions(weights), views(), some_columns(weights)
    assert columns.weights.dtype == weights
    for view in range(len(VIEW_ROWS)):
        entries, position = select_rows(c.offsets, shuffled[start[view] : start[view + 1]])
        want = triples(c.ids[entries], position, c.weights[entries])
        first, *_, last = columns.view_columns[view].tolist()
        own, column = select_rows(columns.offsets, torch.arange(first, last))
        ids = columns.ids[first:last]
        assert len(ids.unique()) == len(ids)
        assert triples(ids[column], columns.positions[own], columns.weights[own]) == want
        assert len(own) == len(entries)
        rising = columns.positions[own].diff() > 0
        assert bool((rising | (column.diff() != 0)).all()), "positions rise within a column"
    assert columns.offsets[-1] == len(columns.positions) == len(c.ids)


def test_long_columns_come_first() -> None:
    columns = some_columns(torch.float32)
    counts = columns.offsets.diff()
    for a, b, c, d in columns.view_columns.tolist():
        assert bool((counts[a:b] > BLOCK_ENTRIES).all())
        assert bool((counts[b:c] > WARP_ENTRIES).all()) and bool((counts[b:c] <= BLOCK_ENTRIES).all())
        assert bool((counts[c:d] <= WARP_ENTRIES).all()) and bool((counts[c:d] > 0).all())
        assert a <= b <= c <= d
    starts, ends = columns.view_columns[:, 0], columns.view_columns[:, 3]
    assert starts.tolist() == [0, *ends[:-1].tolist()] and int(ends[-1]) == len(columns.ids)
    kinds = columns.view_columns.diff(dim=1)
    assert columns.most == tuple(kinds.amax(dim=0).tolist()) and columns.most[0] == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("half", [False, True])
def test_a_step_is_the_transpose_and_adam(dtype: torch.dtype, half: bool) -> None:
    weights = torch.float16 if half else dtype
    one, other = (some_step(some_columns(weights), 5, dtype) for _ in "ab")
    for at in range(len(SCHEDULE)):
        for s in (one, other):
            s.next(at)
            if at == 1:
                s.grad[5, 2] = torch.nan
        one.move()
        other.by_rows(at, weights)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-11  # sums of up to 300 products, in another order
        for a, b in zip(one.state, other.state, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        assert int(one.bad) == int(other.bad)
    assert int(one.bad) < len(one.state[0])


def test_held_gaussians_are_in_no_column() -> None:
    """The others' columns stay as they are; where all are held none is left, and a step does nothing."""
    whole = some_columns(torch.float32)
    held = torch.zeros(200, dtype=torch.bool)
    held[[3, 9, 12]] = True
    rest = some_columns(torch.float32, held)
    kept = ~held[whole.ids.long()]
    assert not bool(kept.all())
    assert torch.equal(rest.ids, whole.ids[kept]) and torch.equal(rest.offsets.diff(), whole.offsets.diff()[kept])
    own, _ = select_rows(whole.offsets, kept.nonzero()[:, 0])
    assert torch.equal(rest.positions, whole.positions[own]) and torch.equal(rest.weights, whole.weights[own])
    none = some_step(some_columns(torch.float32, torch.ones(200, dtype=torch.bool)), 4, torch.float32)
    assert none.columns.most == (0, 0, 0) and len(none.columns.ids) == 0
    before = [t.clone() for t in none.state]
    for at in range(len(SCHEDULE)):
        none.next(at)
        none.move()
    assert all(torch.equal(a, b) for a, b in zip(none.state, before, strict=True))


def test_bytes_are_bounded_from_the_pool_alone() -> None:
    c, (start, shuffled) = contributions(torch.float16), views()
    a, b = start[:2].tolist()
    columns = PoolColumns.of(c, start[:2], shuffled[a:b])
    assert columns.nbytes == 4 * 8 + 8 + 12 * len(LENGTHS) + 6 * sum(LENGTHS)
    assert columns.nbytes - 40 <= column_bytes(c) <= 12 * 58 + 6 * len(c.ids)
