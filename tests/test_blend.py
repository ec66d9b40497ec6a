"""blend: the sparse product of blending weights and features, its transpose, and the Contributions it takes."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from torch import Tensor

from splatseg import ops
from splatseg.core.errors import SplatsegError
from splatseg.ops import Contributions
from splatseg.ops.extension import compiled
from splatseg.ops.reference import blend as reference

DIMS = [1, 3, 8, 13, 16, 20, 24, 32, 56]


def random_contributions(
    m: int, n: int, longest: int = 40, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Contributions:
    """m rows of 0..longest entries over n Gaussians (every third row empty), weights summing to at most 1."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, longest + 1, (m,), generator=generator)
    counts[1::3] = 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    entries = int(offsets[-1])
    return Contributions(
        pixels=torch.randint(0, 100, (m, 2), generator=generator, dtype=torch.int32),
        order=torch.randperm(m, generator=generator),
        offsets=offsets,
        ids=torch.randint(0, n, (entries,), generator=generator, dtype=torch.int32),
        weights=torch.rand(entries, generator=generator, dtype=torch.float64).to(dtype) / longest,
    )


def test_extension_is_built() -> None:
    assert compiled(), "the tests below compare the compiled ops with their references: build splatseg._C"


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("weights", [torch.float16, torch.float32, torch.float64])
def test_forward_and_gradient_match_the_reference(d: int, weights: torch.dtype) -> None:
    """Every channel-block path (32, 16, 8, tail) and weight type; rows out of order, repeated and empty."""
    c = random_contributions(300, 150, dtype=weights)
    features = torch.randn(150, d, dtype=torch.float64 if weights == torch.float64 else torch.float32)
    rows = torch.randint(0, 300, (500,))
    grad = torch.randn(500, d, dtype=features.dtype)
    features.requires_grad_()
    out = ops.blend(c, features, rows)
    out.backward(grad)
    wide = features.detach().double().requires_grad_()
    expected = reference.blend(c.offsets, c.ids, c.weights.double(), wide, rows)
    expected.backward(grad.double())
    assert features.grad is not None and wide.grad is not None
    # A sum of k products has a relative rounding error of at most k eps against the sum of absolute values.
    eps = torch.finfo(features.dtype).eps
    size = reference.blend(c.offsets, c.ids, c.weights.double(), wide.detach().abs(), rows)
    assert ((out - expected).abs() <= 42 * eps * size + 1e-300).all()
    size = reference.blend_transpose(c.offsets, c.ids, c.weights.double(), grad.double().abs(), rows, 150)
    entries, _ = reference.select_rows(c.offsets, rows)
    counts = c.ids[entries].bincount(minlength=150)
    assert ((features.grad - wide.grad).abs() <= (counts[:, None] + 2) * eps * size + 1e-300).all()


def test_gradcheck_and_opcheck() -> None:
    """Double precision against finite differences, first and second order; schema, fake, autograd registration."""
    c = random_contributions(12, 7, longest=5, dtype=torch.float64)
    features = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([0, 5, 2, 2, 11, 1])
    assert torch.autograd.gradcheck(lambda f: ops.blend(c, f, rows), features)
    assert torch.autograd.gradgradcheck(lambda f: ops.blend(c, f, rows), features)
    for given in (rows, None):
        args = (c.offsets, c.ids, c.weights, features, given)
        torch.library.opcheck(torch.ops.splatseg.blend.default, args)
        grad = torch.randn(12 if given is None else 6, 3, dtype=torch.float64, requires_grad=True)
        torch.library.opcheck(torch.ops.splatseg.blend_transpose.default, (*args[:3], grad, given, 7))
        sums, touched = torch.zeros(2, 7, 3, dtype=torch.float64), torch.zeros(2, 7, dtype=torch.uint8)
        torch.library.opcheck(
            torch.ops.splatseg.blend_transpose_.default, (*args[:3], grad.detach(), given, sums, touched)
        )


def test_transpose_is_the_adjoint() -> None:
    """<blend(f), g> = <f, transpose(g)> for any f and g."""
    c = random_contributions(200, 90, dtype=torch.float64)
    f, g = torch.randn(90, 16, dtype=torch.float64), torch.randn(200, 16, dtype=torch.float64)
    transposed = torch.ops.splatseg.blend_transpose(c.offsets, c.ids, c.weights, g, None, 90)
    assert torch.allclose((ops.blend(c, f) * g).sum(), (f * transposed).sum(), rtol=1e-12)


@pytest.mark.parametrize("d", [16, 20])
def test_same_bits_for_any_thread_count(d: int) -> None:
    """Each Gaussian adds up its pixels in row order whoever does it; ids go beyond one share block."""
    c = random_contributions(3000, 1000)
    features, grad = torch.randn(1000, d), torch.randn(3000, d)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            out = ops.blend(c, features)
            results.append((out, torch.ops.splatseg.blend_transpose(c.offsets, c.ids, c.weights, grad, None, 1000)))
    finally:
        torch.set_num_threads(before)
    for out, transposed in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(transposed, results[0][1])


def test_row_longer_than_a_segment() -> None:
    """A pixel with 2000 contributions spans several segments of the transpose, each a share's own choice of entries."""
    n = 2000
    c = Contributions(
        pixels=torch.zeros(1, 2, dtype=torch.int32),
        order=torch.zeros(1, dtype=torch.int64),
        offsets=torch.tensor([0, n]),
        ids=torch.randperm(n).to(torch.int32),
        weights=torch.rand(n),
    )
    got = torch.ops.splatseg.blend_transpose(c.offsets, c.ids, c.weights, torch.ones(1, 8), None, n)
    expected = torch.zeros(n).scatter_(0, c.ids.long(), c.weights)
    assert torch.equal(got, expected[:, None].expand(n, 8))


def test_float16_weights_are_read_exactly() -> None:
    """Every finite non-negative float16, denormals too, is converted without F16C to the float32 it stands for."""
    weights = torch.arange(0x7C00, dtype=torch.int16).view(torch.float16)
    m = weights.numel()
    c = Contributions(
        pixels=torch.zeros(m, 2, dtype=torch.int32),
        order=torch.arange(m),
        offsets=torch.arange(m + 1),
        ids=torch.zeros(m, dtype=torch.int32),
        weights=weights,
    )
    assert torch.equal(ops.blend(c, torch.ones(1, 1))[:, 0], weights.float())


@pytest.mark.parametrize("m, rows", [(0, None), (5, torch.zeros(0, dtype=torch.int64)), (5, None)])
def test_nothing_to_blend(m: int, rows: Tensor | None) -> None:
    """No pixels, no rows asked for, and pixels that all show nothing."""
    c = random_contributions(max(m, 1), 4)
    c = Contributions(c.pixels[:m], torch.arange(m), torch.zeros(m + 1, dtype=torch.int64), c.ids[:0], c.weights[:0])
    features = torch.randn(4, 16, requires_grad=True)
    out = ops.blend(c, features, rows)
    assert out.shape == (m if rows is None else 0, 16) and not out.any()
    out.sum().backward()
    assert features.grad is not None and not features.grad.any()


def test_strided_features_and_gradient() -> None:
    """Inputs that are not contiguous (a transposed view, an expanded gradient) give what their copies give."""
    c = random_contributions(30, 20)
    features = torch.randn(16, 20).T.requires_grad_()
    out = ops.blend(c, features)
    assert torch.equal(out, ops.blend(c, features.detach().clone(memory_format=torch.contiguous_format)))
    (grad,) = torch.autograd.grad(out.sum(), features)
    assert torch.equal(
        grad, torch.ops.splatseg.blend_transpose(c.offsets, c.ids, c.weights, torch.ones(30, 16), None, 20)
    )


def test_nan_features_reach_only_pixels_that_show_them() -> None:
    c = random_contributions(60, 20, longest=6)
    features = torch.ones(20, 16)
    features[3] = float("nan")
    shows = torch.zeros(60).index_add_(0, c.entry_rows(), (c.ids == 3).float()) > 0
    assert torch.equal(ops.blend(c, features).isnan().all(1), shows) and shows.any() and not shows.all()


@pytest.mark.parametrize("use_extension", [True, False])
def test_bad_input_is_named(use_extension: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and ids out of range never read foreign memory: one line, from kernels and reference alike."""
    if not use_extension:
        monkeypatch.setattr(
            sys.modules["splatseg.ops.blend"], "has_kernel", lambda *_: False
        )  # the name is the function too
    c = random_contributions(30, 20)
    features = torch.randn(20, 16)
    cases = [
        (c, features, torch.tensor([30]), "rows in 0..29"),
        (c, features, torch.tensor([-1]), "rows in 0..29"),
        (c, features[:5], None, "ids in 0..4"),
        (dataclasses.replace(c, ids=-1 - c.ids), features, None, "ids in 0..19"),
        (c, features.half(), None, "features: expected float32 or float64"),
        (c, features[0], None, "features: expected shape"),
        (c, features, torch.tensor([0.5]), "rows: expected int64"),
    ]
    for contributions, f, rows, message in cases:
        with pytest.raises(SplatsegError, match=message):
            ops.blend(contributions, f, rows)


def test_offsets_out_of_range_are_caught_by_the_kernels() -> None:
    c = random_contributions(30, 20)
    for offsets in (c.offsets + 1, c.offsets.flip(0), c.offsets - 1):
        with pytest.raises(SplatsegError, match="contributions"):
            ops.blend(dataclasses.replace(c, offsets=offsets), torch.randn(20, 16))
        with pytest.raises(IndexError, match="contributions"):
            torch.ops.splatseg.blend_transpose(offsets, c.ids, c.weights, torch.ones(30, 16), None, 20)


def test_contributions_check_themselves() -> None:
    c = random_contributions(30, 20)
    bad = {
        "pixels": c.pixels.long(),
        "order": c.order[:-1],
        "offsets": c.offsets[:-1],
        "ids": c.ids.long(),
        "weights": c.weights.clone().requires_grad_(),
    }
    for name, value in bad.items():
        with pytest.raises(SplatsegError, match=f"contributions.{name}"):
            dataclasses.replace(c, **{name: value})


def test_contributions_rows_invert_order() -> None:
    """rows(i) is the row of input pixel i; alpha is the sum of a row; half() takes two bytes less an entry."""
    c = random_contributions(30, 20)
    index = torch.tensor([7, 0, 7, 29])
    assert torch.equal(c.order[c.rows(index)], index)
    assert torch.allclose(c.alpha, ops.blend(c, torch.ones(20, 1))[:, 0], atol=1e-6)
    assert c.half().nbytes == c.nbytes - 2 * c.ids.numel() and len(c) == 30
    with pytest.raises(SplatsegError, match=r"index: expected input pixels 0\.\.29"):
        c.rows(torch.tensor([30]))
