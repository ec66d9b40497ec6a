"""Small steps made many times: captured on CUDA, called elsewhere, with the same result."""

from __future__ import annotations

import pytest
import torch

from splatseg.fit.segment_features import WEIGHT_POWER, SegmentFeatureConfig, fit_nested_features
from splatseg.ops.repeated import StepNumbers, repeat


@pytest.mark.parametrize("count", [0, 1, 3, 4, 20])
def test_every_step_is_made_once_with_its_own_numbers(device: torch.device, count: int) -> None:
    for _ in range(2):
        seen = torch.zeros(max(count, 1), device=device)
        numbers = StepNumbers(torch.arange(2.0 * count).reshape(count, 2), device)
        place = torch.zeros(1, dtype=torch.int64, device=device)

        def step(numbers: StepNumbers = numbers, seen: torch.Tensor = seen, place: torch.Tensor = place) -> None:
            first, second = numbers.next().unbind()
            seen.index_add_(0, place, (first + second)[None])
            place.add_(1)

        repeat(step, count, seen)
        assert seen[:count].tolist() == [4.0 * k + 1 for k in range(count)]


def test_codes_agree_with_torch_adam(device: torch.device) -> None:
    """The codes of nested segments, against the same loss under ``torch.optim.Adam`` in float32 on the CPU."""
    leaves = torch.arange(12)
    inside = torch.cat([torch.nn.functional.one_hot(leaves // size) for size in (6, 2, 1)], dim=1).bool()
    weights = torch.arange(1.0, 13)
    config = SegmentFeatureConfig(steps=40)
    found = fit_nested_features(inside.to(device), weights.to(device), 8, config, seed=3)
    assert found.device.type == device.type
    torch.testing.assert_close(found.cpu(), by_torch_adam(inside, weights, config), rtol=0, atol=2e-3)


def by_torch_adam(inside: torch.Tensor, weights: torch.Tensor, config: SegmentFeatureConfig) -> torch.Tensor:
    codes = torch.randn(inside.shape[1], 8, generator=torch.Generator().manual_seed(3)).requires_grad_()
    share = weights**WEIGHT_POWER
    total = sum(float(share[a]) for a, _ in inside.nonzero().tolist())
    optimizer = torch.optim.Adam([codes], config.lr)
    for step in range(config.steps):
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / config.steps, dtype=torch.float64)))
        optimizer.param_groups[0]["lr"] = config.lr * (0.02 + float(cosine))
        unit = torch.nn.functional.normalize(inside.float() @ codes, dim=1)
        loss = torch.zeros(())
        for anchor, segment in inside.nonzero().tolist():
            cosines = config.sharpness * (unit @ unit[anchor])
            lowest = -torch.logsumexp(-cosines[inside[:, segment]], 0)
            highest = torch.logsumexp(cosines[~inside[:, segment]], 0)
            wish = torch.nn.functional.softplus(highest - lowest + config.sharpness * config.margin)
            loss = loss + share[anchor] / total * wish / config.sharpness
        (codes.grad,) = torch.autograd.grad(loss, codes)
        optimizer.step()
    return codes.detach()
