"""Pools by Gaussian: nothing is lost, held Gaussians are left out, and a step over them is the step over pixels."""

from __future__ import annotations

import pytest
import torch
from columns_cases import LENGTHS, ROWS, SCHEDULE, batch_start, contributions, some_columns, some_step
from torch import Tensor

from splatseg.ops import columns as columns_module
from splatseg.ops.columns import BLOCK_ENTRIES, WARP_ENTRIES, PoolColumns, column_bytes, groups
from splatseg.ops.reference.blend import select_rows


def triples(*values: Tensor) -> set[tuple[float, ...]]:
    return set(zip(*(v.tolist() for v in values), strict=True))


def entries_of(columns: PoolColumns, batch: int) -> tuple[Tensor, Tensor]:
    """Entries of a batch, and the column that each is of, counted from the batch's first."""
    first, *_, last = columns.batch_columns[batch].tolist()
    entries, column = select_rows(columns.offsets[first + batch : last + batch + 1].long(), None)
    return entries + columns.batch_entries[batch], column


@pytest.mark.parametrize("weights", [torch.float16, torch.float32])
@pytest.mark.parametrize("at_once", [1, 4_000_000])
def test_every_entry_is_in_its_batch_at_its_position(
    weights: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many batches are sorted together."""
    monkeypatch.setattr(columns_module, "AT_ONCE", at_once)
    c, start, columns = contributions(weights), batch_start(), some_columns(weights)
    assert columns.weights.dtype == weights
    for batch in range(len(ROWS)):
        entries, position = select_rows(c.offsets, torch.arange(int(start[batch]), int(start[batch + 1])))
        want = triples(c.ids[entries], position, c.weights[entries])
        first, *_, last = columns.batch_columns[batch].tolist()
        own, column = entries_of(columns, batch)
        ids = columns.ids[first:last]
        assert len(ids.unique()) == len(ids)
        assert triples(ids[column], columns.positions[own], columns.weights[own]) == want
        assert len(own) == len(entries) and sorted(set(column.tolist())) == list(range(last - first))
        rising = columns.positions[own].diff() > 0
        assert bool((rising | (column.diff() != 0)).all()), "positions rise within a column"
    assert len(columns.positions) == len(c.ids)
    assert len(columns.offsets) == len(columns.ids) + len(ROWS)


def test_batches_are_grouped_without_gap() -> None:
    ends = [0, 5, 6, 6, 30, 31, 33]
    for at_once in (1, 5, 7, 100):
        found = list(groups(ends, at_once))
        assert [a for a, _ in found] == [0, *(b for _, b in found[:-1])] and found[-1][1] == 6
        assert all(ends[b] - ends[a] <= at_once or b == a + 1 for a, b in found)
    assert list(groups(ends, 100)) == [(0, 6)] and list(groups(ends, 7)) == [(0, 3), (3, 4), (4, 6)]


def test_long_columns_come_first() -> None:
    columns = some_columns(torch.float32)
    for batch, (a, b, c, d) in enumerate(columns.batch_columns.tolist()):
        counts = columns.offsets[a + batch : d + batch + 1].diff()
        blocks, warps, groups_ = counts[: b - a], counts[b - a : c - a], counts[c - a :]
        assert bool((blocks > BLOCK_ENTRIES).all()) and bool((groups_ > 0).all())
        assert bool((warps > WARP_ENTRIES).all()) and bool((warps <= BLOCK_ENTRIES).all())
        assert bool((groups_ <= WARP_ENTRIES).all())
        classes = (counts + columns_module.CLASS - 1) // columns_module.CLASS
        assert bool((classes.diff() <= 0).all()), "equally long ones side by side"
        assert a <= b <= c <= d
    starts, ends = columns.batch_columns[:, 0], columns.batch_columns[:, 3]
    assert starts.tolist() == [0, *ends[:-1].tolist()] and int(ends[-1]) == len(columns.ids)
    kinds = columns.batch_columns.diff(dim=1)
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
    assert torch.equal(rest.ids, whole.ids[kept])
    for batch in range(len(ROWS)):
        own, column = entries_of(whole, batch)
        own = own[kept[whole.batch_columns[batch, 0] + column]]
        now, _ = entries_of(rest, batch)
        assert torch.equal(rest.positions[now], whole.positions[own]) and torch.equal(
            rest.weights[now], whole.weights[own]
        )
    none = some_step(some_columns(torch.float32, torch.ones(200, dtype=torch.bool)), 4, torch.float32)
    assert none.columns.most == (0, 0, 0) and len(none.columns.ids) == 0
    before = [t.clone() for t in none.state]
    for at in range(len(SCHEDULE)):
        none.next(at)
        none.move()
    assert all(torch.equal(a, b) for a, b in zip(none.state, before, strict=True))


def test_bytes_are_bounded_from_the_pool_alone() -> None:
    c, start = contributions(torch.float16), batch_start()
    columns = PoolColumns.of(c, start[:2])
    assert columns.nbytes == 4 * 8 + 8 + 4 + 8 * len(LENGTHS) + 6 * sum(LENGTHS)
    assert columns.nbytes - 44 <= column_bytes(c) <= 8 * 58 + 6 * len(c.ids)
