"""splatseg::adam_ against its reference and against torch.optim.Adam: rows, rates per column, the norm term, poison."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from splatseg.ops.adam import NO_ROW, AdamConfig, adam_
from splatseg.ops.extension import compiled

CONFIG = AdamConfig(lr=1.0, eps=1e-15)
N = 5000


def state(n: int, d: int, device: torch.device, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Parameters, both averages and a gradient, (n, d) each."""
    generator = torch.Generator().manual_seed(n + d)
    values = [torch.randn(n, d, generator=generator, dtype=dtype) for _ in range(4)]
    values[2].square_()
    values[0][0] = 0  # no direction to be pulled in
    return [v.to(device) for v in values]


def rates(step: int, config: AdamConfig = CONFIG) -> Tensor:
    return torch.tensor(config.rates(step), dtype=torch.float64)


def by_reference(
    params: Tensor, moments: tuple[Tensor, Tensor], grad: Tensor, *args: object, **options: object
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("splatseg.ops.adam.has_kernel", lambda *_: False)
        adam_(params, moments, grad, *args, **options)


@pytest.mark.parametrize("d", [1, 3, 16, 27, 48])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("clear", [False, True])
def test_matches_reference(device: torch.device, d: int, parts: int, clear: bool) -> None:
    """Every choice of rows, rates per column, the norm term and asking for poison; parts that stay, parts that go."""
    if device.type != "cpu" and parts > 1:
        pytest.skip("CUDA adds to one part")
    for with_rows, with_lr, with_norm, asked in itertools.product([False, True], repeat=4):
        *own, grad = state(N, d, device)
        config = AdamConfig(lr=0.1, eps=1e-12, norm_weight=7.0 * with_norm)
        grad = torch.stack([grad * (part + 1) for part in range(parts)])
        rows = (torch.rand(parts, N, device=device) < 0.4).to(torch.uint8) if with_rows else None
        lr = torch.linspace(0.1, 1.0, d, device=device, dtype=torch.float64) if with_lr else None
        bad = torch.tensor(NO_ROW, device=device) if asked else None
        twins = [t.clone() for t in (*own, grad)]
        marks = None if rows is None else rows.clone()
        options = {"lr": lr, "bad": bad, "clear": clear}
        adam_(own[0], (own[1], own[2]), grad, rates(7, config), config, rows=rows, **options)
        by_reference(twins[0], (twins[1], twins[2]), twins[3], rates(7, config), config, rows=marks, **options)
        for found, want in zip((*own, grad), twins, strict=True):
            torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
        assert rows is None or torch.equal(rows, marks)
        assert bad is None or int(bad) == NO_ROW
        assert bool(grad.any()) != (clear and rows is None)


def test_all_rows_is_torch_adam(device: torch.device) -> None:
    param, _, _, grad = state(100, 4, device, torch.float32)
    twin = torch.nn.Parameter(param.clone())
    adam = torch.optim.Adam([twin], lr=0.01, eps=1e-15)
    moments = (torch.zeros_like(param), torch.zeros_like(param))
    for step in range(1, 6):
        twin.grad = grad * step
        adam.step()
        adam_(param, moments, grad * step, rates(step), CONFIG, lr=torch.full((4,), 0.01, device=device))
    torch.testing.assert_close(param, twin.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clear", [False, True])
def test_other_rows_do_not_move(device: torch.device, clear: bool) -> None:
    tensors = state(2000, 2, device, torch.float32)
    before = [t.clone() for t in tensors]
    param, mean, square, grad = tensors
    none = torch.zeros(2000, dtype=torch.bool, device=device)
    adam_(param, (mean, square), grad, rates(1), CONFIG, rows=none, clear=clear)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("use_kernel", [True, False])
@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("n", [20, 3000])
def test_poison_is_told_and_its_rows_stay(device: torch.device, use_kernel: bool, clear: bool, n: int) -> None:
    """The least row, once more for a lower one and not for a higher one; without ``bad`` as torch's Adam."""
    step = adam_ if use_kernel else by_reference
    param, mean, square, grad = state(n, 13, device, torch.float32)
    start, bad = param.clone(), torch.tensor(NO_ROW, device=device)
    clean = grad.clone()
    for poisoned, least in (([19, 7], 7), ([9], 7), ([3, 9], 3)):
        grad.copy_(clean)
        for row in poisoned:
            grad[row, 12] = torch.nan if row % 2 else torch.inf
            param[row] = start[row]
        step(param, (mean, square), grad, rates(1), CONFIG, bad=bad, clear=clear)
        assert int(bad) == least and torch.equal(param[poisoned], start[poisoned])
        assert bool(param.isfinite().all()) and not torch.equal(param[0], start[0])
        assert bool(grad.isfinite().all()) == clear
    grad.copy_(clean)
    grad[5, 1] = torch.nan
    step(param, (mean, square), grad, rates(1), CONFIG, clear=clear)
    assert param.isnan().nonzero().tolist() == [[5, 1]]


def test_same_bits_for_any_thread_count() -> None:
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            param, mean, square, grad = state(N, 16, torch.device("cpu"), torch.float32)
            adam_(param, (mean, square), grad, rates(3), CONFIG, rows=torch.arange(N) % 3 == 0)
            results.append(param)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    if not compiled():
        pytest.skip("splatseg._C is not built")
    param, mean, square, grad = state(10, 2, device, torch.float32)
    wrong = {
        "lr": {"lr": torch.ones(3, device=device)},
        "rows": {"rows": torch.ones(9, dtype=torch.bool, device=device)},
        "bad": {"bad": torch.zeros((), device=device)},
    }
    for name, options in wrong.items():
        with pytest.raises(ValueError, match=f"{name}: expected"):
            adam_(param, (mean, square), grad, rates(1), CONFIG, **options)
    with pytest.raises(ValueError, match="rates: expected"):
        adam_(param, (mean, square), grad, torch.zeros(2), CONFIG)
    with pytest.raises(ValueError, match="exp_avg"):
        adam_(param, (mean[:5], square), grad, rates(1), CONFIG)


def test_opcheck() -> None:
    if not compiled():
        pytest.skip("splatseg._C is not built")
    for dtype in (torch.float32, torch.float64):
        tensors = [torch.rand(6, 5, dtype=dtype) for _ in range(3)]
        grad, touched = torch.rand(2, 6, 5, dtype=dtype), torch.tensor([[1, 0, 1, 1, 0, 0], [0] * 5 + [1]])
        for rows in (touched.to(torch.uint8), None):
            options = (torch.ones(5, dtype=dtype), rates(1), torch.tensor(NO_ROW), 0.9, 0.999, 1e-8, 1.0, True)
            torch.library.opcheck(torch.ops.splatseg.adam_.default, (*tensors, grad, rows, *options))
