"""The CUDA kernels of the loss, compiled by g++ against the host emulator, against the reference: no GPU needed."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from cuda_emulator.build import ORDERS, compile_for_host, in_order
from loss_cases import LossCase, case, nested_masks, random_case
from torch import Tensor

from splatseg.ops.loss import hierarchical_contrastive_loss_and_grad
from splatseg.ops.loss_config import LossConfig
from splatseg.ops.reference import loss as reference

ANY = replace(LossConfig.gs(), min_pixels=1, weight=1.0)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_for_host("loss_host.cpp", tmp_path_factory.mktemp("emulator"))


@pytest.fixture(params=ORDERS)
def library(compiled: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[ctypes.CDLL]:
    with in_order(compiled, request.param):
        yield compiled


def emulated(
    library: ctypes.CDLL,
    c: LossCase,
    config: LossConfig,
    by: str = "votes",
    deterministic: bool = True,
    with_grad: bool = True,
) -> tuple[Tensor, Tensor]:
    """Value and gradient by the emulated kernels, which compile to the same operations as on the device."""
    features, patch = c.features.contiguous(), c.patch.int().contiguous()
    votes = c.votes.int().contiguous() if by == "votes" else None
    membership = c.membership.contiguous() if by == "membership" else None
    words = 0 if membership is None else membership.shape[1]
    sizes = (ctypes.c_int * 6)(*features.shape, len(c.votes), words, config.min_pixels, int(deterministic))
    scalars = (ctypes.c_double * 5)(config.phi_min, config.phi_max, config.phi_scale, config.level_decay, config.weight)
    loss, grad = features.new_full((), math.nan), torch.full_like(features, math.nan)  # every value must be written
    function = library.loss_double if features.dtype == torch.float64 else library.loss_float
    pointers = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in (features, patch, votes, membership)]
    function(
        *pointers,
        sizes,
        scalars,
        ctypes.c_void_p(loss.data_ptr()),
        ctypes.c_void_p(grad.data_ptr()) if with_grad else None,
    )
    return loss, grad


def expected(c: LossCase, config: LossConfig) -> tuple[Tensor, Tensor]:
    features = c.features.double().requires_grad_()
    loss = reference.hierarchical_contrastive_loss(features, c.patch, c.votes, None, config)
    return loss.detach(), torch.autograd.grad(loss, features)[0]


def check(found: Sequence[Tensor], want: Sequence[Tensor], tolerance: float) -> None:
    for a, b in zip(found, want, strict=True):
        assert float((a.double() - b).norm()) <= tolerance * max(float(b.norm()), 1e-3)


@pytest.mark.parametrize("d", [3, 4, 8, 16, 24, 32, 64])
@pytest.mark.parametrize("deterministic", [True, False])
def test_float64_matches_reference(library: ctypes.CDLL, d: int, deterministic: bool) -> None:
    """Deterministic sums have steps of 2^-36 = 1.5e-11; the other mode is exact to rounding."""
    c = random_case(p=14, n=260, d=d, seed=d, dtype=torch.float64)
    check(emulated(library, c, ANY, deterministic=deterministic), expected(c, ANY), 1e-8 if deterministic else 1e-12)


@pytest.mark.parametrize("by", ["votes", "membership"])
@pytest.mark.parametrize("config", [ANY, LossConfig.gs(), replace(ANY, phi_min=1e-3, phi_max=2e-2), LossConfig.basic()])
def test_float32_matches_reference(library: ctypes.CDLL, config: LossConfig, by: str) -> None:
    """Sharp logits reach 1000, where one unit in the last place of a float32 is 6e-5: relative 2e-4 there."""
    c = random_case(p=14, n=300, seed=2)
    check(emulated(library, c, config, by), expected(c, config), 2e-4 if config.phi_max < 0.1 else 5e-6)


def test_more_patches_than_a_chunk(library: ctypes.CDLL) -> None:
    """70 patches are two chunks of 64, and one mask over all of them makes a level that long."""
    contains = torch.cat([nested_masks(71, masks=5), torch.ones(71, 1, dtype=torch.bool)], 1)
    c = case(contains, torch.arange(1, 71).repeat(2), d=4, dtype=torch.float64)
    check(emulated(library, c, ANY), expected(c, ANY), 1e-8)


def skewed_case(p: int, d: int, n: int, dtype: torch.dtype = torch.float64) -> LossCase:
    """One patch has 40 % of the samples, as on real scenes; the others share the rest, at least one each.

    A mask over all patches and nested ones over their first third, half and so on: anchors have levels that begin, end
    and find their running max in different chunks of 64 patches.
    """
    generator = torch.Generator().manual_seed(p)
    rest = torch.cat([torch.arange(1, p), torch.randint(1, p, (n * 6 // 10 - p + 1,), generator=generator)])
    patch = torch.cat([torch.full((n - len(rest),), p // 2), rest])[torch.randperm(n, generator=generator)]
    nested = torch.arange(p)[:, None] < torch.tensor([p, p * 9 // 10, p // 2, p // 3])
    contains = torch.cat([nested_masks(p, masks=6), nested], 1)
    contains[0] = False
    return case(contains, patch, d, dtype=dtype)


@pytest.mark.parametrize(
    ("p", "d", "deterministic"),
    [(20, 24, True), (20, 64, False), (71, 24, False), (71, 4, True), (131, 3, False), (71, 64, True), (260, 4, False)],
)
def test_skewed_patches(library: ctypes.CDLL, p: int, d: int, deterministic: bool) -> None:
    """Samples of one patch fill several tiles; patches are not a multiple of 64, up to five chunks of them: with means
    that are all held, that are more than can be held (260), and of more than one slice of channels (64)."""
    c = skewed_case(p, d, n=max(250, 2 * p))
    found = emulated(library, c, ANY, deterministic=deterministic)
    check(found, expected(c, ANY), 1e-8 if deterministic else 1e-12)
    on_cpu = hierarchical_contrastive_loss_and_grad(c.features, c.patch, membership=c.membership, config=ANY)
    check(found, on_cpu, 1e-8 if deterministic else 1e-12)


def test_skewed_patches_in_float32(library: ctypes.CDLL) -> None:
    c = skewed_case(71, 24, n=250, dtype=torch.float32)
    check(emulated(library, c, ANY, "membership", deterministic=False), expected(c, ANY), 5e-6)


def test_value_alone(library: ctypes.CDLL) -> None:
    c = skewed_case(71, 8, n=160)
    loss, grad = emulated(library, c, ANY, with_grad=False)
    check((loss,), expected(c, ANY)[:1], 1e-12)
    assert grad.isnan().all()  # not written


def test_order_does_not_matter_across_chunks(compiled: ctypes.CDLL) -> None:
    """Terms that fall to a patch of an earlier chunk are added up across blocks as well."""
    c = skewed_case(71, 8, n=160, dtype=torch.float32)
    found = []
    for order in ORDERS:
        with in_order(compiled, order):
            found.append(emulated(compiled, c, ANY))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("count", [63, 64, 65])
def test_exactly_min_pixels(library: ctypes.CDLL, count: int) -> None:
    """Patches 1 and 2 are just kept, 3 misses by one and its rows have no gradient; one tile is 64 samples."""
    contains = torch.arange(4) < torch.arange(5)[:, None]
    c = case(
        contains, torch.tensor([1] * count + [2] * count + [3] * (count - 1) + [4] * 130), d=24, dtype=torch.float64
    )
    config = replace(ANY, min_pixels=count)
    loss, grad = emulated(library, c, config)
    check((loss, grad), expected(c, config), 1e-8)
    assert not grad[c.patch == 3].any() and grad[c.patch == 2].any(1).all()


def test_more_ids_than_shared_memory_holds(library: ctypes.CDLL) -> None:
    """Ids up to 5000, of which twelve occur: each chunk's places are then counted in global memory."""
    few = random_case(p=14, n=700, d=4, dtype=torch.float64)
    membership = torch.zeros(5001, few.membership.shape[1], dtype=torch.int64)
    ids = torch.arange(14) * 384
    membership[ids] = few.membership
    many = replace(few, patch=ids[few.patch], votes=torch.zeros(5001, 1), membership=membership)
    check(emulated(library, many, ANY, "membership"), expected(few, ANY), 1e-8)


@pytest.mark.parametrize("depth", [1, 20, 33])
def test_depths_of_hierarchy(library: ctypes.CDLL, depth: int) -> None:
    contains = torch.arange(depth) < torch.arange(depth + 1)[:, None]
    c = case(contains, torch.arange(1, depth + 1).repeat(2), d=4, dtype=torch.float64)
    check(emulated(library, c, replace(ANY, level_decay=0.9)), expected(c, replace(ANY, level_decay=0.9)), 1e-8)


@pytest.mark.parametrize("count", [1, 31, 32, 33])
def test_sizes_around_a_warp(library: ctypes.CDLL, count: int) -> None:
    contains = torch.arange(3) < torch.arange(4)[:, None]
    c = case(contains, torch.tensor([1] * count + [2] * 5 + [3] * 40), d=4, dtype=torch.float64)
    check(emulated(library, c, ANY), expected(c, ANY), 1e-8)


def test_more_samples_than_a_sorting_chunk(library: ctypes.CDLL) -> None:
    """Chunks of 512 samples are counted apart; the order of a patch's samples must survive."""
    c = random_case(p=5, n=1100, d=4, dtype=torch.float64)
    check(emulated(library, c, ANY), expected(c, ANY), 1e-8)


@pytest.mark.parametrize("patch", [[], [0, 0, 0], [1, 1, 2, 2], [1] * 30])
def test_nothing_to_learn(library: ctypes.CDLL, patch: list[int]) -> None:
    """No sample, id 0 everywhere, none left after min_pixels, one patch only: 0 and a gradient of 0."""
    c = case(torch.eye(4, dtype=torch.bool), torch.tensor(patch, dtype=torch.long), d=4)
    loss, grad = emulated(library, c, replace(ANY, min_pixels=3))
    assert float(loss) == 0 and not grad.any()


def test_patch_in_no_mask(library: ctypes.CDLL) -> None:
    contains = torch.eye(4, dtype=torch.bool)
    contains[3] = False
    c = case(contains, torch.tensor([1] * 9 + [2] * 9 + [3] * 9), d=4, dtype=torch.float64)
    check(emulated(library, c, ANY), expected(c, ANY), 1e-8)


def test_ties_go_to_the_first(library: ctypes.CDLL) -> None:
    """Patches 2 and 3 have equal features, so they tie from every anchor; different warps find them."""
    contains = torch.zeros(6, 8, dtype=torch.bool)
    contains[1:, 0] = True
    contains[1:4, 1] = True
    contains[torch.arange(1, 6), torch.arange(2, 7)] = True
    c = case(contains, torch.arange(1, 6).repeat_interleave(11), d=4, dtype=torch.float64)
    features = c.features.clone()
    features[22:33] = features[11:22]
    features[33:44] = features[0:11]
    tied = replace(c, features=features)
    check(emulated(library, tied, ANY), expected(tied, ANY), 1e-8)


def test_votes_above_255(library: ctypes.CDLL) -> None:
    c = random_case(p=14, n=200, d=4, dtype=torch.float64)
    many = replace(c, votes=c.votes * 2000)
    for a, b in zip(emulated(library, many, ANY), emulated(library, c, ANY), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("deterministic", [True, False])
def test_order_of_threads_and_blocks(compiled: ctypes.CDLL, deterministic: bool) -> None:
    """In every order the deterministic mode gives the same bits, which a missing barrier or a sum in order of arrival
    would not; the fast mode differs by rounding alone."""
    c = random_case(p=14, n=300)
    found = []
    for order in ORDERS:
        with in_order(compiled, order):
            found.append(emulated(compiled, c, ANY, deterministic=deterministic))
    for other in found[1:]:
        assert torch.equal(other[0], found[0][0])
        if deterministic:
            assert torch.equal(other[1], found[0][1])
        else:
            check(other, (found[0][0].double(), found[0][1].double()), 2e-6)


def test_poison_is_never_silent(library: ctypes.CDLL) -> None:
    c = random_case(p=14, n=200, d=4)
    features = c.features.clone()
    features[int((c.patch > 0).nonzero()[0]), 2] = math.nan
    loss, grad = emulated(library, replace(c, features=features), ANY)
    assert loss.isnan()
    assert grad[c.patch > 0].isnan().all() and not grad[c.patch == 0].any()


def test_ids_out_of_range_are_left_out(library: ctypes.CDLL) -> None:
    """The CPU op raises; CUDA would have to wait for the device to do so, and must not read outside its tables."""
    c = random_case(p=14, n=200, d=4, dtype=torch.float64)
    dropped = c.patch == 5
    bad = replace(c, patch=torch.where(dropped, torch.arange(200) * 1000 - 90_000, c.patch).where(c.patch > 0, -1))
    clean = replace(c, patch=c.patch.where(~dropped, 0))
    check(emulated(library, bad, ANY), expected(clean, ANY), 1e-8)
