"""The CUDA kernels of trace_tiles, compiled by g++ against the host emulator, against the reference: no GPU needed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from cuda_emulator.build import ORDERS, compile_for_host, in_order
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.ops.reference import trace_tiles as reference
from splatseg.ops.trace_tiles import TileLists, trace_tiles

WIDTH, HEIGHT = 41, 35  # 3 x 3 tiles, the last of each row and column cut off
COLUMNS = 3


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    found = compile_for_host("trace_host.cpp", tmp_path_factory.mktemp("emulator"))
    found.trace_count.restype = ctypes.c_int64
    return found


@pytest.fixture(params=ORDERS)
def library(compiled: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[ctypes.CDLL]:
    with in_order(compiled, request.param):
        yield compiled


@dataclass(frozen=True)
class Problem:
    lists: TileLists
    pixels: Tensor


def problem(n: int, seed: int = 0, spread: float = 9.0) -> Problem:
    """Tile lists of every length, the middle tile's empty; opaque and faint Gaussians; pixels with repeats."""
    g = torch.Generator().manual_seed(seed)
    means = torch.rand(n, 2, generator=g) * torch.tensor([WIDTH, HEIGHT])
    root = torch.randn(n, 2, 2, generator=g) * spread
    conics = torch.linalg.inv(root @ root.mT + 0.3 * torch.eye(2))
    opacities = torch.rand(n, generator=g)
    opacities[::7] = 0.9999
    tiles = [torch.randperm(n, generator=g)[: n * (t % 4) // 3] if t != 4 else torch.zeros(0) for t in range(9)]
    offsets = torch.tensor([0, *[len(t) for t in tiles]]).cumsum(0)[:-1].int()
    pixels = torch.stack([torch.randint(0, s, (200,), generator=g) for s in (WIDTH, HEIGHT)], 1).int()
    columns = torch.stack([conics[:, 0, 0], conics[:, 0, 1], conics[:, 1, 1]], 1)
    return Problem(TileLists(means, columns.contiguous(), opacities, offsets, torch.cat(tiles).int()), pixels)


def emulated(library: ctypes.CDLL, p: Problem, min_weight: float) -> tuple[Tensor, ...]:
    floats = [p.lists.means2d, p.lists.conics, p.lists.opacities]
    ints = [p.lists.offsets, p.lists.list, p.pixels]
    pointers = [(ctypes.c_void_p * 3)(*(t.data_ptr() for t in group)) for group in (floats, ints)]
    sizes = (ctypes.c_int * 5)(len(p.pixels), COLUMNS, len(p.lists.offsets), len(p.lists.list), len(p.lists.means2d))
    arguments = (*pointers, sizes, ctypes.c_double(min_weight))
    offsets = torch.zeros(len(p.pixels) + 1, dtype=torch.int64)
    count = library.trace_count(*arguments, ctypes.c_void_p(offsets.data_ptr()))
    ids, weights = torch.full((count,), -1, dtype=torch.int32), torch.full((count,), torch.nan)
    library.trace_fill(*arguments, *(ctypes.c_void_p(t.data_ptr()) for t in (offsets, ids, weights)))
    return offsets, ids, weights


def expected(p: Problem, min_weight: float) -> tuple[Tensor, ...]:
    tensors = (p.lists.means2d, p.lists.conics, p.lists.opacities, p.lists.offsets, p.lists.list)
    return reference.trace_tiles(*tensors, p.pixels, COLUMNS, min_weight)


@pytest.mark.parametrize("n", [1, 30, 33, 300])
@pytest.mark.parametrize("min_weight", [0.0, 1e-3, 0.2])
def test_matches_reference(library: ctypes.CDLL, n: int, min_weight: float) -> None:
    """Lists shorter than a warp, of more than one, and pixels that end before their list does."""
    p = problem(n)
    offsets, ids, weights = emulated(library, p, min_weight)
    want = expected(p, min_weight)
    assert torch.equal(offsets, want[0]) and torch.equal(ids, want[1])
    # The reference multiplies transmittance in float64: 300 factors in float32 are off by at most 300 x 6e-8.
    torch.testing.assert_close(weights, want[2], rtol=4e-5, atol=1e-7)
    empty = (p.pixels // 16 == 1).all(1)
    assert empty.any() and not offsets.diff()[empty].any()


def test_pixels_end_at_transmittance_1e_4(library: ctypes.CDLL) -> None:
    """Wide opaque Gaussians: the third would take the transmittance below 1e-4 and is left out, with all behind."""
    n = 40
    lists = TileLists(
        torch.full((n, 2), 8.0),
        torch.tensor([1e-9, 0, 1e-9]).repeat(n, 1),
        torch.full((n,), 0.97),
        torch.zeros(9, dtype=torch.int32),
        torch.arange(n, dtype=torch.int32),
    )
    p = Problem(lists, torch.tensor([[40, 34]], dtype=torch.int32))  # in the last tile, which owns the list
    _, ids, weights = emulated(library, p, 0.0)
    assert ids.tolist() == [0, 1]
    torch.testing.assert_close(weights, torch.tensor([0.97, 0.97 * 0.03]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("bad", [-1, 30, 2**30])
def test_ids_out_of_range_are_left_out(library: ctypes.CDLL, bad: int) -> None:
    """A list that does not belong to these Gaussians must not be followed out of them."""
    p = problem(30)
    members = p.lists.list.clone()
    members[members == 11] = bad
    opacities = p.lists.opacities.clone()
    opacities[11] = 0
    without = TileLists(p.lists.means2d, p.lists.conics, opacities, p.lists.offsets, p.lists.list)
    broken = TileLists(p.lists.means2d, p.lists.conics, p.lists.opacities, p.lists.offsets, members)
    found, want = (emulated(library, Problem(lists, p.pixels), 0.0) for lists in (broken, without))
    for a, b in zip(found, want, strict=True):
        assert torch.equal(a, b)


def test_order_of_threads_does_not_matter(compiled: ctypes.CDLL) -> None:
    p = problem(300)
    found = []
    for order in ORDERS:
        with in_order(compiled, order):
            found.append(emulated(compiled, p, 1e-3))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


def test_rows_are_sorted_by_tile_and_order_leads_back() -> None:
    """The public op around the kernel, here with the reference."""
    p = problem(30)
    c = trace_tiles(p.lists, (WIDTH, HEIGHT), p.pixels, 0.0)
    assert torch.equal(c.pixels, p.pixels[c.order])
    tiles = c.pixels[:, 1] // 16 * COLUMNS + c.pixels[:, 0] // 16
    assert (tiles.diff() >= 0).all()
    with pytest.raises(SplatsegError, match="offsets: expected 4x3 tiles, found 9"):
        trace_tiles(p.lists, (49, HEIGHT), p.pixels)
