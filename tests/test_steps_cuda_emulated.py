"""The CUDA kernels of a feature step but the loss, on the host emulator, against the references: no GPU needed."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from cuda_emulator.build import ORDERS, compile_for_host, in_order
from torch import Tensor

from splatseg.ops.adam import AdamConfig
from splatseg.ops.reference import adam as adam_reference
from splatseg.ops.reference import blend as reference

TYPES = {0: (torch.float32, torch.float32), 1: (torch.float32, torch.float16), 2: (torch.float64, torch.float64)}
NO_ROW = torch.iinfo(torch.int64).max
# Channels: one lane each, odd; two, four and eight lanes of 16 bytes; several rounds of them; a last round half empty.
CHANNELS = [1, 3, 4, 8, 16, 24, 32, 40, 64]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    found = compile_for_host("steps_host.cpp", tmp_path_factory.mktemp("emulator"))
    found.half_to_float.restype = ctypes.c_float
    return found


@pytest.fixture(params=ORDERS)
def library(compiled: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[ctypes.CDLL]:
    with in_order(compiled, request.param):
        yield compiled


def pointer(t: Tensor | None) -> ctypes.c_void_p | None:
    assert t is None or t.is_contiguous()
    return None if t is None else ctypes.c_void_p(t.data_ptr())


def pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


def int64s(*values: int) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)


def doubles(*values: float) -> ctypes.Array:
    return (ctypes.c_double * len(values))(*values)


def csr(types: int, rows: int = 40, n: int = 25, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of 0, 1, 31..33 and about 70 entries, with a Gaussian more than once in some."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 9, (rows,), generator=g)
    counts[:6] = torch.tensor([0, 1, 31, 32, 33, 70])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    ids = torch.randint(0, n, (int(offsets[-1]),), generator=g, dtype=torch.int32)
    return offsets, ids, torch.rand(len(ids), generator=g).to(TYPES[types][1])


def call_blend(
    library: ctypes.CDLL, types: int, which: int, inputs: Sequence[Tensor | None], out: Tensor, touched: Tensor | None,
    n: int,
) -> Tensor:  # fmt: skip
    offsets, ids, _, rows, matrix = inputs
    count = len(offsets) - 1 if rows is None else len(rows)
    sizes = int64s(count, len(offsets) - 1, len(ids), n, matrix.shape[1])
    library.blend_any(types, which, sizes, pointers(inputs), pointer(out), pointer(touched))
    return out


def close(found: Tensor, want: Tensor) -> None:
    """Sums of at most 600 products of size 1, in another order."""
    tolerance = 1e-12 if found.dtype == torch.float64 else 2e-5
    torch.testing.assert_close(found, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("d", CHANNELS)
def test_blend(library: ctypes.CDLL, types: int, d: int) -> None:
    offsets, ids, weights = csr(types)
    features = torch.randn(25, d, dtype=TYPES[types][0])
    for rows in (None, torch.tensor([5, 0, 39, 5, 2])):
        count = 40 if rows is None else 5
        out = torch.full((count, d), torch.nan, dtype=features.dtype)
        call_blend(library, types, 0, (offsets, ids, weights, rows, features), out, None, 25)
        close(out, reference.blend(offsets, ids, weights, features, rows))


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("d", CHANNELS)
def test_transpose(library: ctypes.CDLL, types: int, d: int) -> None:
    """Atomic, with a row whose gradient is zero: it adds nothing, but what it shows counts as touched."""
    offsets, ids, weights = csr(types)
    rows = torch.tensor([5, 0, 39, 5, 2, 4])
    grad = torch.randn(6, d, dtype=TYPES[types][0])
    grad[4] = 0
    start = torch.randn(25, d, dtype=grad.dtype)
    out, touched = start.clone(), torch.zeros(25, dtype=torch.uint8)
    call_blend(library, types, 1, (offsets, ids, weights, rows, grad), out, touched, 25)
    close(out, start + reference.blend_transpose(offsets, ids, weights, grad, rows, 25))
    entries, _ = reference.select_rows(offsets, rows)
    assert touched.nonzero()[:, 0].tolist() == ids[entries].unique().tolist()


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("d", [3, 16, 40])
def test_transpose_in_a_fixed_order(compiled: ctypes.CDLL, types: int, d: int) -> None:
    """The same bits whatever the order of the threads, which atomic additions do not give."""
    offsets, ids, weights = csr(types)
    grad = torch.randn(40, d, dtype=TYPES[types][0])
    entries, row = reference.select_rows(offsets, None)
    sorted_ids, place = torch.sort(ids, stable=True)
    results = []
    for order in ORDERS:
        out, touched = torch.zeros(25, d, dtype=grad.dtype), torch.zeros(25, dtype=torch.uint8)
        sizes = int64s(0, 0, len(ids), 25, d)
        inputs = (sorted_ids, entries[place].contiguous(), row[place].contiguous(), weights, grad)
        with in_order(compiled, order):
            compiled.sum_runs_any(types, sizes, pointers(inputs), pointer(out), pointer(touched))
        results.append(out)
        assert touched.nonzero()[:, 0].tolist() == ids.unique().tolist()
    assert all(torch.equal(other, results[0]) for other in results[1:])
    close(results[0], reference.blend_transpose(offsets, ids, weights, grad, None, 25))


def test_out_of_range_is_left_out(library: ctypes.CDLL) -> None:
    """Rows and ids outside must neither be read nor written; -1 is no Python index."""
    offsets, ids, weights = csr(0)
    bad = ids.clone()
    bad[::5] = torch.tensor([-1, 25, 2**31 - 1], dtype=torch.int32).repeat(len(bad))[: len(bad[::5])]
    kept = torch.where(bad == ids, weights, 0)
    features = torch.randn(25, 8)
    rows = torch.tensor([5, -1, 3, 40, 2**40])
    out = call_blend(library, 0, 0, (offsets, bad, weights, rows, features), torch.full((5, 8), torch.nan), None, 25)
    close(out[[0, 2]], reference.blend(offsets, ids, kept, features, rows[[0, 2]]))
    assert not out[[1, 3, 4]].any()
    touched = torch.zeros(25, dtype=torch.uint8)
    grad = torch.randn(5, 8)
    found = call_blend(library, 0, 1, (offsets, bad, weights, rows, grad), torch.zeros(25, 8), touched, 25)
    close(found, reference.blend_transpose(offsets, ids, kept, grad[[0, 2]], rows[[0, 2]], 25))


def test_poison_reaches_only_the_pixels_that_show_it(library: ctypes.CDLL) -> None:
    """Lanes beyond a row's end must not multiply a NaN of Gaussian 0 by a weight of 0."""
    offsets, ids, weights = csr(0)
    features = torch.randn(25, 16)
    features[0] = torch.nan
    out = call_blend(library, 0, 0, (offsets, ids, weights, None, features), torch.zeros(40, 16), None, 25)
    shows = torch.tensor([bool((ids[a:b] == 0).any()) for a, b in pairwise(offsets.tolist())])
    assert torch.equal(out.isnan().any(1), shows) and not shows.all()


def test_half_weights_are_read_exactly(compiled: ctypes.CDLL) -> None:
    """All 65536, subnormal and infinite ones too."""
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    want = every.view(torch.float16).float()
    found = torch.tensor([compiled.half_to_float(k) for k in range(65536)])
    assert torch.equal(found.nan_to_num(7, 8, 9), want.nan_to_num(7, 8, 9))


def adam_state(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    g = torch.Generator().manual_seed(seed)
    state = [torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype) for _ in range(4)]
    state[2].square_()
    touched = (torch.rand(n, generator=g) < 0.4).to(torch.uint8)
    touched[32:64] = 0  # a warp with nothing to do
    touched[64:96] = 1  # and one with every row
    state[0][0] = 0  # a feature of norm 0 has no direction to be pulled in
    touched[0] = 1
    state[3] *= touched[:, None]
    return state, touched


def emulated_adam(
    library: ctypes.CDLL, state: list[Tensor], rows: Tensor | None, lr: Tensor | None, bad: Tensor | None,
    settings: tuple[float, ...], clear: bool, on_device: bool,
) -> None:  # fmt: skip
    """``settings``: the step's two rates, betas, eps and the weight of the norm term."""
    n, d = state[0].shape
    rates, rest = settings[:2], (*settings[2:5], 2 * settings[5] / n)
    library.adam_any(
        int(state[0].dtype == torch.float64), int64s(n, d, clear), pointers(state), pointer(rows), pointer(lr),
        doubles(*((0, 0) if on_device else rates), *rest), doubles(*rates) if on_device else None, pointer(bad),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", CHANNELS)
@pytest.mark.parametrize("on_device", [False, True])
def test_adam_of_touched_rows(library: ctypes.CDLL, dtype: torch.dtype, d: int, on_device: bool) -> None:
    """Scalars from the launch or from memory; the last warp is not full; two gradients are not finite."""
    config = AdamConfig(lr=0.01, norm_weight=5.0)
    for with_lr in (False, True):
        state, touched = adam_state(300, d, dtype)
        for row in (70, 65):
            state[3][row, d - 1] = math.nan if row == 70 else math.inf
        twins, marks = [t.clone() for t in state], touched.clone()
        lr = torch.linspace(0.1, 1, d, dtype=dtype) if with_lr else None
        bad, least, rates = torch.tensor(NO_ROW), torch.tensor(NO_ROW), config.rates(7)
        settings = (*config.betas, config.eps, config.norm_weight)
        emulated_adam(library, state, touched, lr, bad, (*rates, *settings), True, on_device)
        there = torch.tensor(rates, dtype=torch.float64)
        adam_reference.adam_(*twins[:3], twins[3][None], marks[None], lr, there, least, *settings, True)
        assert int(bad) == int(least) == 65 and not touched.any()
        tolerance = 1e-12 if dtype == torch.float64 else 3e-6
        for found, want in zip(state, twins, strict=True):
            torch.testing.assert_close(found, want, rtol=tolerance, atol=tolerance)
        assert not state[3].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 3, 27, 48])
@pytest.mark.parametrize("with_rows", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_adam_in_place(library: ctypes.CDLL, dtype: torch.dtype, d: int, with_rows: bool, asked: bool) -> None:
    """A gradient that stays, as the geometry's: a thread per value, or whole rows where poison is asked for."""
    state, _ = adam_state(200, d, dtype)
    state[3] = torch.randn(200, d, dtype=dtype)
    lr = torch.linspace(0.1, 1, d, dtype=dtype)
    rows = (torch.arange(200) % 3 == 0).to(torch.uint8) if with_rows else None
    twins = [t.clone() for t in state]
    bad, settings = (torch.tensor(NO_ROW) if asked else None), (0.9, 0.999, 1e-15, 0.0)
    rates = AdamConfig(lr=1.0).rates(7)
    for on_device in (False, True):
        emulated_adam(library, state, rows, lr, bad, (*rates, *settings), False, on_device)
        marks, there = (None if rows is None else rows[None]), torch.tensor(rates, dtype=torch.float64)
        adam_reference.adam_(*twins[:3], twins[3][None], marks, lr, there, bad, *settings, False)
    assert bad is None or int(bad) == NO_ROW
    for found, want in zip(state, twins, strict=True):
        torch.testing.assert_close(found, want, rtol=2e-5 if dtype == torch.float32 else 1e-12, atol=1e-6)
