"""SparseFeatureAdam: the training step of the feature fit without autograd."""

from __future__ import annotations

import pytest
import torch

from splatseg import ops
from splatseg.core.errors import SplatsegError
from splatseg.ops import AdamConfig, SparseFeatureAdam
from splatseg.ops.reference import adam as reference
from tests.test_blend import random_contributions


def one_row_each(n: int, dtype: torch.dtype = torch.float32) -> ops.Contributions:
    """n pixels, pixel i shows Gaussian i with weight 1: blend is the identity and every row is touched."""
    return ops.Contributions(
        torch.zeros(n, 2, dtype=torch.int32),
        torch.arange(n),
        torch.arange(n + 1),
        torch.arange(n, dtype=torch.int32),
        torch.ones(n, dtype=dtype),
    )


@pytest.mark.parametrize("d", [3, 8, 16, 20, 24, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [40, 3000])
def test_equals_torch_adam_where_all_is_touched(d: int, dtype: torch.dtype, n: int) -> None:
    """With every row touched every step, the steps are torch.optim.Adam's; n on both sides of the parallel path."""
    torch.manual_seed(0)
    c = one_row_each(n, dtype)
    features = torch.randn(n, d, dtype=dtype)
    expected = features.clone().requires_grad_()
    config = AdamConfig(lr=0.05, eps=1e-7)
    sparse = SparseFeatureAdam(features, config)
    dense = torch.optim.Adam([expected], lr=0.05, betas=config.betas, eps=config.eps)
    for step in range(5):
        grad = torch.randn(n, d, dtype=dtype)
        sparse.accumulate(c, grad)
        lr = 0.05 / (1 + step)
        dense.param_groups[0]["lr"] = lr
        expected.grad = grad.clone()
        sparse.step(lr)
        dense.step()
    # An Adam step is about lr whatever the gradient; its few operations lose some eps of that and of the parameter.
    assert torch.allclose(
        features, expected.detach(), rtol=20 * torch.finfo(dtype).eps, atol=20 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("norm_weight", [0.0, 100.0])
def test_matches_the_reference_on_sparse_rows(norm_weight: float) -> None:
    """Rows that no chosen pixel shows keep parameters and averages bit for bit; the others follow the reference."""
    torch.manual_seed(0)
    n, d = 2500, 16
    c = random_contributions(60, n)
    rows = torch.arange(0, 40)
    features = torch.randn(n, d)
    features[c.ids[0]] = 0  # a zero feature has no direction to be pulled in
    state = [t.double() for t in (features, torch.zeros(n, d), torch.zeros(n, d))]
    sparse = SparseFeatureAdam(features, AdamConfig(lr=0.01, norm_weight=norm_weight))
    start = features.clone()
    shown = torch.zeros(n, dtype=torch.uint8)
    shown[c.ids[: c.offsets[40]].long()] = 1
    for step in (1, 2, 3):
        grad = torch.randn(40, d)
        sparse.accumulate(c, grad, rows)
        sparse.step()
        full = torch.ops.splatseg.blend_transpose(c.offsets, c.ids, c.weights.double(), grad.double(), rows, n)
        rates = torch.tensor(AdamConfig(lr=0.01).rates(step), dtype=torch.float64)
        settings = (0.9, 0.999, 1e-8, norm_weight, True)
        reference.adam_(*state, full[None], shown[None].clone(), None, rates, None, *settings)
    assert torch.equal(features[shown == 0], start[shown == 0])
    assert not sparse.exp_avg[shown == 0].any() and 0 < int(shown.sum()) < n
    # m / sqrt(v) amplifies rounding where m nearly cancels: float32 against float64, within 1e-3 of a step.
    assert (features - state[0]).abs().max() < 3 * 0.01 * 1e-3


def test_norm_gradient_is_that_of_the_norm_term() -> None:
    """With zero gradients, one step moves as torch.optim.Adam does on norm_weight * mean (|f| - 1)^2."""
    torch.manual_seed(0)
    features = torch.randn(50, 16, dtype=torch.float64)
    expected = features.clone().requires_grad_()
    dense = torch.optim.Adam([expected], lr=0.01)
    sparse = SparseFeatureAdam(features, AdamConfig(lr=0.01, norm_weight=10.0))
    for _ in range(3):
        dense.zero_grad()
        (10.0 * (expected.norm(dim=1) - 1).square().mean()).backward()
        dense.step()
        sparse.accumulate(one_row_each(50, torch.float64), torch.zeros(50, 16, dtype=torch.float64))
        sparse.step()
    assert torch.allclose(features, expected.detach(), rtol=1e-12)


def test_accumulates_several_views_before_a_step() -> None:
    """Two accumulated batches step as their summed gradient; the next step starts from zero."""
    torch.manual_seed(0)
    a, b = random_contributions(50, 90, seed=1), random_contributions(70, 90, seed=2)
    features = torch.randn(90, 8, dtype=torch.float64)
    both, apart = features.clone(), features.clone().requires_grad_()
    ga, gb = torch.randn(50, 8, dtype=torch.float64), torch.randn(70, 8, dtype=torch.float64)
    sparse = SparseFeatureAdam(both, AdamConfig(lr=0.1))
    sparse.accumulate(a, ga)
    sparse.accumulate(b, gb)
    sparse.step()
    ((ops.blend(a, apart) * ga).sum() + (ops.blend(b, apart) * gb).sum()).backward()
    torch.optim.Adam([apart], lr=0.1).step()
    assert torch.allclose(both, apart.detach(), rtol=1e-10, atol=1e-12)
    before = both.clone()
    sparse.step()
    assert torch.equal(both, before), "a step without gradients moves nothing"


def test_dense_gradients_touch_their_nonzero_rows() -> None:
    """The gradient of a whole render steps as the same gradient accumulated through blend; zero rows stay."""
    c = random_contributions(50, 2000, seed=1)
    start, grad = torch.randn(2000, 8, dtype=torch.float64), torch.randn(50, 8, dtype=torch.float64)
    sparse, dense = start.clone(), start.clone()
    one, other = SparseFeatureAdam(sparse), SparseFeatureAdam(dense)
    one.accumulate(c, grad)
    entries = (c.offsets, c.ids, c.weights.double())
    halves = torch.arange(50).split(25)  # a batch's two halves of rows are added up apart
    full = sum(torch.ops.splatseg.blend_transpose(*entries, grad[rows], rows, 2000) for rows in halves)
    other.accumulate_dense(full)
    one.step()
    other.step()
    assert torch.equal(sparse, dense)
    untouched = ~(full != 0).any(1)
    assert untouched.any() and torch.equal(dense[untouched], start[untouched])


@pytest.mark.parametrize("replayed", [False, True])
def test_frozen_rows_stay_and_others_step_as_ever(replayed: bool) -> None:
    c = random_contributions(50, 90, seed=1)
    start, grad = torch.randn(90, 8), torch.randn(50, 8)
    free, held = start.clone(), start.clone()
    one, other = SparseFeatureAdam(free), SparseFeatureAdam(held)
    rows = torch.arange(90) % 3 == 0
    other.accumulate(c, grad)
    other.freeze(rows)  # what came before is forgotten
    for _ in range(3):
        for optimizer in (one, other):
            optimizer.accumulate(c, grad)
            if replayed:
                optimizer.steps += 1
                optimizer.step_at(torch.tensor(optimizer.config.rates(optimizer.steps), dtype=torch.float64))
            else:
                optimizer.step()
    moved = (free != start).any(1)
    assert bool((moved & rows).any()) and bool((moved & ~rows).any())
    assert torch.equal(held[rows], start[rows]) and torch.equal(held[~rows], free[~rows])
    with pytest.raises(SplatsegError, match="rows"):
        other.freeze(rows[:5])


def test_same_bits_for_any_thread_count() -> None:
    c = random_contributions(3000, 5000)
    grad, start = torch.randn(3000, 16), torch.randn(5000, 16)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            features = start.clone()
            optimizer = SparseFeatureAdam(features, AdamConfig(norm_weight=1.0))
            for _ in range(2):
                optimizer.accumulate(c, grad)
                optimizer.step()
            results.append(features)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("use_extension", [True, False])
def test_poisoned_gradient_is_an_error_and_spreads_no_further(
    use_extension: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Gaussian is named, its row keeps its values, the others are updated, and the next step is clean."""
    if not use_extension:
        monkeypatch.setattr("splatseg.ops.adam.has_kernel", lambda *_: False)
    for poison in (float("nan"), float("inf")):
        features = torch.ones(20, 13)
        optimizer = SparseFeatureAdam(features)
        grad = torch.ones(20, 13)
        grad[7, 12] = poison
        optimizer.accumulate(one_row_each(20), grad)
        with pytest.raises(SplatsegError, match=r"feature gradient: .* row 7 \(step 1\)"):
            optimizer.step()
        assert torch.equal(features[7], torch.ones(13)) and (features[:7] < 1).all() and (features[8:] < 1).all()
        optimizer.accumulate(one_row_each(20), torch.ones(20, 13))
        optimizer.step()
        assert features.isfinite().all() and (features[7] < 1).all()


def test_extension_and_reference_agree_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extension the same class gives the same fit, to rounding."""
    c = random_contributions(100, 80)
    start, grads = torch.randn(80, 16), torch.randn(4, 100, 16)

    def fit() -> torch.Tensor:
        features = start.clone()
        optimizer = SparseFeatureAdam(features, AdamConfig(lr=0.01, norm_weight=1.0))
        for grad in grads:
            optimizer.accumulate(c, grad)
            optimizer.step()
        return features

    fast = fit()
    monkeypatch.setattr("splatseg.ops.adam.has_kernel", lambda *_: False)
    assert (fast - fit()).abs().max() < 4 * 0.01 * 1e-3


def test_resumes_from_its_state() -> None:
    c = random_contributions(100, 80)
    grads = torch.randn(6, 100, 8)
    whole = torch.ones(80, 8)
    optimizer = SparseFeatureAdam(whole)
    for index, grad in enumerate(grads):
        if index == 3:
            saved = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}
            resumed = whole.clone()
        optimizer.accumulate(c, grad)
        optimizer.step()
    second = SparseFeatureAdam(resumed)
    second.load_state_dict(saved)
    for grad in grads[3:]:
        second.accumulate(c, grad)
        second.step()
    assert torch.equal(whole, resumed)


def test_bad_settings_and_inputs_are_named() -> None:
    for settings in ({"lr": 0.0}, {"lr": float("nan")}, {"betas": (0.9, 1.0)}, {"eps": -1.0}, {"norm_weight": -1.0}):
        with pytest.raises(SplatsegError, match=f"adam.{next(iter(settings))}"):
            AdamConfig(**settings)
    c = random_contributions(10, 5)
    optimizer = SparseFeatureAdam(torch.zeros(5, 4))
    with pytest.raises(SplatsegError, match="grad: expected shape"):
        optimizer.accumulate(c, torch.zeros(9, 4))
    with pytest.raises(SplatsegError, match=r"grad: expected torch\.float32"):
        optimizer.accumulate(c, torch.zeros(10, 4, dtype=torch.float64))
    with pytest.raises(SplatsegError, match=r"ids in 0\.\.1"):
        SparseFeatureAdam(torch.zeros(2, 4)).accumulate(c, torch.zeros(10, 4))
    with pytest.raises(SplatsegError, match="requires no gradient"):
        SparseFeatureAdam(torch.zeros(2, 4, requires_grad=True))
    with pytest.raises(SplatsegError, match="contiguous"):
        SparseFeatureAdam(torch.zeros(4, 2).T)
    with pytest.raises(SplatsegError, match="expected entry 'exp_avg_sq'"):
        optimizer.load_state_dict({"exp_avg": torch.zeros(5, 4), "steps": torch.tensor(1)})
