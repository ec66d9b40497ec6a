"""splatseg::visible_adam_ against its reference and against torch.optim.Adam."""

from __future__ import annotations

import pytest
import torch

from splatseg.ops.reference import visible_adam as reference
from splatseg.ops.visible_adam import visible_adam_


def state(n: int, k: int, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n + k)
    values = [torch.randn(n, k, generator=generator, dtype=dtype) for _ in range(4)]
    values[3].square_()
    return [v.to(device) for v in values]


@pytest.mark.parametrize("k", [1, 3, 27, 48])
@pytest.mark.parametrize("with_mask", [False, True])
def test_matches_reference(device: torch.device, k: int, with_mask: bool) -> None:
    param, grad, mean, square = state(5000, k, device, torch.float64)
    lr = torch.linspace(0.1, 1.0, k, device=device, dtype=torch.float64)
    visible = torch.arange(5000, device=device) % 3 == 0 if with_mask else None
    expected = [t.clone() for t in (param, mean, square)]
    visible_adam_(param, grad, (mean, square), lr, visible, 7)
    reference.visible_adam_(expected[0], grad, (expected[1], expected[2]), lr, visible, 7)
    for found, want in zip((param, mean, square), expected, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def test_all_visible_is_torch_adam(device: torch.device) -> None:
    param, grad, *_ = state(100, 4, device, torch.float32)
    twin = torch.nn.Parameter(param.clone())
    adam = torch.optim.Adam([twin], lr=0.01, eps=1e-15)
    moments = (torch.zeros_like(param), torch.zeros_like(param))
    for step in range(1, 6):
        twin.grad = grad * step
        adam.step()
        visible_adam_(param, grad * step, moments, torch.full((4,), 0.01, device=device), None, step)
    torch.testing.assert_close(param, twin.detach(), rtol=1e-5, atol=1e-6)


def test_invisible_rows_do_not_move(device: torch.device) -> None:
    tensors = state(10, 2, device, torch.float32)
    before = [t.clone() for t in tensors]
    param, grad, mean, square = tensors
    visible_adam_(
        param, grad, (mean, square), torch.ones(2, device=device), torch.zeros(10, dtype=torch.bool, device=device), 1
    )
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_wrong_shape_is_refused(device: torch.device) -> None:
    param, grad, mean, square = state(10, 2, device, torch.float32)
    with pytest.raises(RuntimeError, match="lr"):
        visible_adam_(param, grad, (mean, square), torch.ones(3, device=device), None, 1)
