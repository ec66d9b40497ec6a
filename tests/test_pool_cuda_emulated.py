"""A replayed step up to its gradient: the CUDA kernels on the host emulator against the reference."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from cuda_emulator.build import ORDERS, compile_for_host, in_order
from pool_cases import CONFIG, SCHEDULE, Steps, pool
from torch import Tensor

from splatseg.fit.pixel_pools import PixelPool

TYPES = {0: (torch.float32, torch.float32), 1: (torch.float32, torch.float16), 2: (torch.float64, torch.float64)}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    found = compile_for_host("pool_host.cpp", tmp_path_factory.mktemp("emulator"))
    found.table_bytes.restype = ctypes.c_int64
    return found


@pytest.fixture(params=ORDERS)
def library(compiled: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[ctypes.CDLL]:
    with in_order(compiled, request.param):
        yield compiled


def int64s(*values: int) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)


def pointer(t: Tensor) -> ctypes.c_void_p:
    assert t.is_contiguous()
    return ctypes.c_void_p(t.data_ptr())


def pointers(tensors: Sequence[Tensor]) -> ctypes.Array:
    assert all(t.is_contiguous() for t in tensors)
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


def emulated(library: ctypes.CDLL, steps: Steps, types: int, prepared: bool = True) -> None:
    """Make the next step; tables are made before it or, as a fallback, by it."""
    s, config = steps.stack, steps.config
    *inputs, features = steps.inputs()
    of_batches = (len(steps.grad), *s.membership.shape[1:], config.min_pixels, len(s.view), len(s.membership))
    rows, entries = len(s.contributions), len(s.contributions.ids)
    sizes = int64s(*of_batches, len(SCHEDULE), rows, entries, *features.shape, int(prepared), int(config.deterministic))
    bytes_ = library.table_bytes(sizes)
    # uint8 tensors of torch start at multiples of 64, and bytes_ is one of 256.
    tables = torch.full((len(s.view) if prepared else 1, bytes_), 255, dtype=torch.uint8)
    starts = s.batch_start.tolist()
    for batch in range(len(s.view) if prepared else 0):
        patch, masks = s.patch[starts[batch] : starts[batch + 1]].clone(), s.membership[int(s.view[batch])].clone()
        library.make_tables(
            sizes, ctypes.c_int64(len(patch)), pointer(patch), pointer(masks),
            ctypes.c_double(config.level_decay), pointer(tables[batch]),
        )  # fmt: skip
    scalars = (config.phi_min, config.phi_max, config.phi_scale, config.level_decay, config.weight)
    before = tables.clone()
    library.pooled_loss_any(
        types, sizes, pointers([*inputs, features]), pointer(tables), (ctypes.c_double * 5)(*scalars),
        pointer(steps.cells), pointer(steps.grad), pointer(steps.losses),
    )  # fmt: skip
    assert not prepared or torch.equal(tables, before), "steps leave the tables as they are"


def assert_steps(library: ctypes.CDLL, types: int, d: int, pools: Sequence[PixelPool], prepared: bool = True) -> None:
    """All steps and one beyond the last, each from what the one before left in the buffers."""
    wide = TYPES[types][0] == torch.float64
    config = replace(CONFIG, deterministic=d % 3 == 0)
    found, want = (Steps.of(TYPES[types][0], d, pools, 150, config) for _ in "ab")
    assert len(found.stack.view) >= len(SCHEDULE)
    for step in range(len(SCHEDULE)):
        for s in (found, want):
            s.grad.fill_(torch.nan)
        emulated(library, found, types, prepared)
        want.make()
        assert found.cells.tolist() == want.cells.tolist() == [step + 1, step, SCHEDULE[step]]
        tolerance = (1e-8 if config.deterministic else 1e-12) if wide else 2e-5
        scale = float(want.grad[want.grad.isfinite()].abs().max())
        torch.testing.assert_close(found.grad, want.grad, rtol=0, atol=tolerance * scale, equal_nan=True)
        torch.testing.assert_close(found.losses[step], want.losses[step], rtol=tolerance, atol=0)
    for s in (found, want):
        s.grad.zero_()
    before = found.losses.clone()
    emulated(library, found, types, prepared)
    want.make()
    assert found.cells.tolist() == want.cells.tolist() == [4, 4, -1]
    assert torch.equal(found.losses, before) and not found.grad.any()


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("d", [3, 8, 16, 40])
def test_steps(library: ctypes.CDLL, types: int, d: int) -> None:
    """Two views of several batches, of one size each; patches with too few pixels; rows in no mask; longer rows than a
    warp; two rounds of channels."""
    weights = TYPES[types][1]
    assert_steps(library, types, d, [pool(303, 12, 0, weights), pool(270, 9, 1, weights)])


@pytest.mark.parametrize("types", [1, 2])
def test_one_patch_of_many_tiles(library: ctypes.CDLL, types: int) -> None:
    """40 % of a batch in one patch, and more patches than a block treats at a time."""
    weights = TYPES[types][1]
    pools = [pool(153, 80, 0, weights, 0.6), pool(80, 70, 1, weights), pool(203, 5, 2, weights, 0.9)]
    assert_steps(library, types, 16, pools)


@pytest.mark.parametrize("d", [16, 3])
def test_tables_made_in_every_step(library: ctypes.CDLL, d: int) -> None:
    weights = TYPES[0][1]
    assert_steps(library, 0, d, [pool(303, 12, 0, weights), pool(270, 9, 1, weights)], prepared=False)


@pytest.mark.parametrize("min_pixels", [90, 1000])
def test_nothing_to_learn(library: ctypes.CDLL, min_pixels: int) -> None:
    """No patch has enough pixels, or none could: loss and gradient are 0, and the step is over."""
    config = replace(CONFIG, min_pixels=min_pixels)
    s = Steps.of(torch.float32, 8, [pool(303, 12, 0, torch.float32), pool(70, 9, 1, torch.float32)], 100, config)
    for step in range(2):
        s.grad.fill_(torch.nan)
        emulated(library, s, 0)
        size = int(s.stack.batch_start.diff()[SCHEDULE[step]])
        assert not s.grad[:size].any() and s.grad[size:].isnan().all()
        assert float(s.losses[step]) == 0 and s.cells.tolist() == [step + 1, step, SCHEDULE[step]]


def test_poison_is_never_silent(library: ctypes.CDLL) -> None:
    """A feature that is not finite spoils its own step and no later one."""
    s = Steps.of(torch.float32, 8, [pool(303, 12, 0, torch.float32), pool(270, 9, 1, torch.float32)], 150)
    kept = s.features.clone()
    s.features[5, 2] = torch.nan
    emulated(library, s, 0)
    assert s.losses[0].isnan() and s.grad[0].isnan().all()
    s.features.copy_(kept)
    emulated(library, s, 0)
    assert s.losses[1].isfinite() and s.grad[: int(s.stack.batch_start.diff()[SCHEDULE[1]])].isfinite().all()


def test_the_same_bits_in_every_order(compiled: ctypes.CDLL) -> None:
    results = []
    for order in ORDERS:
        s = Steps.of(torch.float32, 16, [pool(303, 80, 0, torch.float16, 0.4), pool(150, 9, 1, torch.float16)], 150)
        s.config = replace(CONFIG, deterministic=True)
        with in_order(compiled, order):
            for _ in range(2):
                emulated(compiled, s, 1)
        results.append((s.grad, s.losses[:2]))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
