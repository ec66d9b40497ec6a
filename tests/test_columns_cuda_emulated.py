"""The transpose of blend with Adam over a batch's columns: the CUDA kernel on the host emulator and the reference."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import pytest
import torch
from columns_cases import SCHEDULE, Step, some_columns, some_step
from cuda_emulator.build import ORDERS, compile_for_host, in_order
from torch import Tensor

from splatseg.ops.columns import BLOCK_ENTRIES, WARP_ENTRIES

TYPES = {0: (torch.float32, torch.float32), 1: (torch.float32, torch.float16), 2: (torch.float64, torch.float64)}
NO_ROW = torch.iinfo(torch.int64).max
# Channels: one lane each, odd; two, four and eight lanes of 16 bytes; several rounds of them; a last round half empty.
CHANNELS = [1, 3, 4, 8, 16, 24, 32, 40, 64]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_for_host("columns_host.cpp", tmp_path_factory.mktemp("emulator"))


def pointers(tensors: Sequence[Tensor]) -> ctypes.Array:
    assert all(t.is_contiguous() for t in tensors)
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


def emulated(library: ctypes.CDLL, types: int, s: Step, order: str = "forward") -> None:
    """Make the step in place."""
    c = s.columns
    sizes = (len(s.grad), len(s.rates), len(c.batch_columns), len(c.ids), len(c.positions), *s.state[0].shape, *c.most)
    *tables, _ = c.arguments
    inputs = (s.cells, *tables, s.grad, s.rates)
    *settings, norm_weight = s.settings
    arguments = (
        types, (ctypes.c_int64 * 10)(*sizes), pointers(inputs), pointers(s.state), ctypes.c_void_p(s.bad.data_ptr()),
        (ctypes.c_double * 4)(*settings, 2 * norm_weight / len(s.state[0])),
    )  # fmt: skip
    with in_order(library, order):
        library.move_columns_any(*arguments)


def assert_same(found: Step, want: Step) -> None:
    """Sums of up to 600 products of size 1, in another order; Adam's quotient magnifies where the sum is near 0."""
    wide = found.grad.dtype == torch.float64
    for name, a, b in zip(("params", "exp_avg", "exp_avg_sq"), found.state, want.state, strict=True):
        tolerance = 1e-10 if wide else 1e-4
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
    assert int(found.bad) == int(want.bad)


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("d", CHANNELS)
@pytest.mark.parametrize("order", ORDERS)
def test_steps(library: ctypes.CDLL, types: int, d: int, order: str) -> None:
    """Columns of all three kinds in one batch, batches of several sizes, one without columns; two gradients that are
    not finite in one of the steps."""
    dtype, weights = TYPES[types]
    found, want = (some_step(some_columns(weights), d, dtype) for _ in "ab")
    assert min(found.columns.most) > 0
    for at in range(len(SCHEDULE)):
        for s in (found, want):
            s.next(at)
            if at == 1:
                s.grad[5, d - 1], s.grad[17, 0] = math.nan, math.inf
        before = [t.clone() for t in found.state]
        emulated(library, types, found, order)
        want.move()
        assert_same(found, want)
        moved = (found.state[1] != before[1]).any(dim=1)
        assert bool(moved.any()) == (SCHEDULE[at] != 2) and not moved.all()
    assert int(found.bad) < NO_ROW


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("d", [3, 16, 40])
def test_the_same_bits_in_every_order(library: ctypes.CDLL, types: int, d: int) -> None:
    dtype, weights = TYPES[types]
    results = []
    for order in ORDERS:
        s = some_step(some_columns(weights), d, dtype)
        for at in range(len(SCHEDULE)):
            s.next(at)
            emulated(library, types, s, order)
        results.append(s)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0].state, other.state, strict=True))


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_shown_moves_without_a_gradient(library: ctypes.CDLL, order: str) -> None:
    """A Gaussian of the batch whose gradient is zero counts as touched: its averages decay. Others stay bit by bit."""
    s = some_step(some_columns(torch.float16), 16, torch.float32)
    s.next(0)
    s.grad.zero_()
    before = [t.clone() for t in s.state]
    emulated(library, 1, s, order)
    shown = s.shown(0)
    assert shown.any() and not shown.all()
    assert torch.equal((s.state[1] != before[1]).any(dim=1), shown)
    for now, then in zip(s.state, before, strict=True):
        assert torch.equal(now[~shown], then[~shown])


@pytest.mark.parametrize("order", ORDERS)
def test_nothing_beyond_the_schedule_or_out_of_range(library: ctypes.CDLL, order: str) -> None:
    """Steps before the first and after the last, no batch, ids of no Gaussian, rows beyond the gradient."""
    for step, batch in ((-1, 0), (len(SCHEDULE), 0), (0, -1), (0, 4)):
        s = some_step(some_columns(torch.float32), 8, torch.float32)
        s.next(0)
        s.cells[1:] = torch.tensor([step, batch])
        before = [t.clone() for t in s.state]
        emulated(library, 0, s, order)
        assert all(torch.equal(a, b) for a, b in zip(s.state, before, strict=True))
    found, want = (some_step(some_columns(torch.float32), 8, torch.float32) for _ in "ab")
    found.next(0)
    want.next(0)
    bad = found.columns.ids.clone()
    lost = [0, 5, len(bad) // 2]
    lost_ids = bad[lost].long()
    bad[lost] = torch.tensor([-1, len(found.state[0]), 2**31 - 1], dtype=torch.int32)
    found.columns.ids.copy_(bad)
    emulated(library, 0, found, order)
    keep = [t[lost_ids].clone() for t in want.state]
    want.move()
    first, *_, last = want.columns.batch_columns[SCHEDULE[0]].tolist()
    inside = torch.tensor([first <= k < last for k in lost])
    assert inside.any()
    for t, then in zip(want.state, keep, strict=True):
        t[lost_ids[inside]] = then[inside]
    assert_same(found, want)
    short = some_step(some_columns(torch.float32), 8, torch.float32)
    short.next(0)
    short.grad[300:] = 0
    want = some_step(some_columns(torch.float32), 8, torch.float32)
    want.next(0)
    want.grad[300:] = 0
    short.grad = short.grad[:300].clone()
    emulated(library, 0, short, order)
    want.move()
    assert_same(short, want)


def test_cases_reach_every_kind_of_column() -> None:
    """Also the lengths at which a column goes from one to the other, and a window that misses some columns."""
    c = some_columns(torch.float32)
    counts = set(c.offsets.diff().tolist())  # differences across batches are negative
    assert {1, 4, 5, WARP_ENTRIES, WARP_ENTRIES + 1, BLOCK_ENTRIES, BLOCK_ENTRIES + 1, 600} <= counts
