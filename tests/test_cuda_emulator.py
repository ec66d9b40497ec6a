"""The host emulator finds what it promises to: small kernels wrong in one way each, beside their mended twins."""

from __future__ import annotations

import ctypes
import re

import pytest
import torch
from cuda_emulator.build import ORDERS, compile_for_host, in_order
from torch import Tensor

SEEDS = range(2, 22)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_for_host("wrong_host.cpp", tmp_path_factory.mktemp("emulator"))


def run(library: ctypes.CDLL, name: str, mended: bool, order: int) -> tuple[Tensor, str]:
    """What the kernel leaves in 64 floats that were 0, and what the emulator says."""
    library.set_order(ctypes.c_int64(order))
    data = torch.zeros(64)
    assert data.data_ptr() % 16 == 0
    library.wrong(name.encode(), int(mended), ctypes.c_void_p(data.data_ptr()))
    return data, library.failure().decode()


# Kernel: the result that is right, and the fixed orders in which the wrong kernel gives another one.
RACES = {
    "read_before_barrier": (torch.tensor([1.0]), set()),
    "read_before_syncwarp": (torch.arange(1.0, 33) % 32, {"forward", "reverse"}),
    "count_blocks": (torch.tensor([9.0]), set()),
    "wait_for_no_block": (torch.tensor([0.0, 1]), set()),
}


@pytest.mark.parametrize("name", RACES)
def test_an_order_finds_a_race(compiled: ctypes.CDLL, name: str) -> None:
    """Most are right in both fixed orders and found by some of 20 shuffled ones alone; mended, every order is right."""
    want, fixed = RACES[name]
    for order in [*ORDERS.values(), *SEEDS]:
        data, failure = run(compiled, name, True, order)
        assert torch.equal(data[: len(want)], want) and not failure
    part = slice(1, 2) if name == "wait_for_no_block" else slice(0, len(want))
    want = want[part] if name == "wait_for_no_block" else want
    right = {order: torch.equal(run(compiled, name, False, order)[0][part], want) for order in [0, 1, *SEEDS]}
    assert {name for name in ("forward", "reverse") if not right[ORDERS[name]]} == fixed
    assert sum(not right[seed] for seed in SEEDS) >= 3, "found by chance alone"


def test_a_seed_is_one_order(compiled: ctypes.CDLL) -> None:
    """The same failure comes again with the same seed, however often."""
    for seed in SEEDS:
        assert torch.equal(*(run(compiled, "count_blocks", False, seed)[0] for _ in range(2)))
    assert len({float(run(compiled, "count_blocks", False, seed)[0][0]) for seed in SEEDS}) > 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "load_four",
            r"misaligned access at wrong_host.cpp:\d+: .*multiple of 16 bytes, found an address 4 beyond one",
        ),
        ("store_four", r"misaligned access at .*: expected a multiple of 16 bytes, found an address 8 beyond one"),
        ("divergent_barrier", r"deadlock: threads wait at different barriers"),
        ("write_beyond_shared", r"a write beyond the dynamic shared memory \(block \d, thread 0\)"),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_faults_are_told(compiled: ctypes.CDLL, name: str, message: str, order: str) -> None:
    """In words, without an end of the process; and the next launch is clean again."""
    for _ in range(2):
        assert not run(compiled, name, True, ORDERS[order])[1]
        failure = run(compiled, name, False, ORDERS[order])[1]
        assert re.match(message, failure), failure


@pytest.mark.parametrize("order", ORDERS)
def test_a_lane_that_takes_no_part_has_no_value(compiled: ctypes.CDLL, order: str) -> None:
    assert run(compiled, "partial_mask", True, ORDERS[order])[0][0] == 32
    assert run(compiled, "partial_mask", False, ORDERS[order])[0][0].isnan()


def test_a_fault_fails_the_test_that_meets_it(compiled: ctypes.CDLL) -> None:
    """Through in_order, which every emulated test uses; what follows the fault is not launched."""
    data = torch.zeros(64)
    with pytest.raises(AssertionError, match="misaligned"), in_order(compiled, "reverse"):
        for name in (b"load_four", b"count_blocks"):
            compiled.wrong(name, 0, ctypes.c_void_p(data.data_ptr()))
    assert not data.any()
