"""The loss as a PyTorch op: gradcheck, opcheck, torch.compile."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from loss_cases import LossCase, detached_loss, random_case
from torch import Tensor

import splatseg.ops.levels  # noqa: F401  registers its fake kernels
from splatseg.ops.extension import compiled
from splatseg.ops.loss import hierarchical_contrastive_loss
from splatseg.ops.loss_config import LossConfig
from splatseg.ops.reference import loss as reference

pytestmark = pytest.mark.skipif(not compiled(), reason="splatseg._C is not built")


def small_case(seed: int = 0) -> LossCase:
    return random_case(p=7, n=40, d=3, seed=seed, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_gradcheck(device: torch.device, seed: int) -> None:
    """Numeric differences see the norm and phi, which the definition detaches. So phi is clipped to one value, and the
    features move only across themselves, which leaves their norm alone to first order. Deterministic, as gradcheck also
    asks for the same bits twice, which atomic additions on CUDA do not give."""
    case = small_case(seed).to(device)
    config = replace(
        LossConfig.gs(), phi_min=0.7, phi_max=0.7, min_pixels=2, weight=1.0, level_decay=0.6, deterministic=True
    )
    unit = case.features / case.features.norm(dim=1, keepdim=True)
    basis = torch.linalg.svd(unit[:, None, :].cpu()).Vh[:, 1:].to(device)  # (n, 2, 3) directions across each feature
    steps = torch.zeros(len(unit), 2, dtype=torch.float64, device=device, requires_grad=True)

    def loss(steps: Tensor) -> Tensor:
        moved = unit + torch.einsum("nk,nkd->nd", steps, basis)
        return hierarchical_contrastive_loss(moved, case.patch, case.votes, config=config)

    # a step of 1e-6 across changes the norm by 5e-13: the detached norm is invisible to first order
    assert torch.autograd.gradcheck(loss, (steps,), eps=1e-6, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_gradcheck_data_reach_the_running_max(seed: int) -> None:
    """The cases above do override terms: without the gradient of the running max they would fail."""
    case = small_case(seed)
    config = replace(LossConfig.gs(), min_pixels=2, level_decay=0.6)
    features = case.features.requires_grad_()
    full = reference.hierarchical_contrastive_loss(features, case.patch, case.votes, None, config)
    (grad,) = torch.autograd.grad(full, features)
    (other,) = torch.autograd.grad(detached_loss(features, case, config), features)
    assert (grad - other).norm() > 0.01 * grad.norm()


@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("by", ["votes", "membership"])
def test_opcheck(device: torch.device, with_grad: bool, by: str) -> None:
    case = small_case().to(device)
    features = case.features.requires_grad_(with_grad)
    tables = (case.votes, None) if by == "votes" else (None, case.membership)
    arguments = (features, case.patch, *tables, 0.5, 1.0, 10.0, 0.2, 2, 1e-3, True, with_grad)
    torch.library.opcheck(torch.ops.splatseg.hierarchical_contrastive_loss.default, arguments)


def test_opcheck_levels() -> None:
    case = small_case()
    torch.library.opcheck(torch.ops.splatseg.votes.default, (case.membership, torch.arange(7)))
    torch.library.opcheck(torch.ops.splatseg.levels.default, (case.votes,))


def test_compiled_training_step(device: torch.device) -> None:
    """A step of gradient descent on a linear model, whole graph compiled, equals the eager one."""
    case = random_case().to(device)
    model = torch.nn.Linear(16, 8, device=device)

    def step(weight: Tensor) -> tuple[Tensor, Tensor]:
        loss = hierarchical_contrastive_loss(torch.nn.functional.linear(case.features, weight), case.patch, case.votes)
        (grad,) = torch.autograd.grad(loss, weight)
        return loss.detach(), weight.detach() - 0.1 * grad

    eager = step(model.weight)
    compiled_step = torch.compile(
        lambda w: hierarchical_contrastive_loss(torch.nn.functional.linear(case.features, w), case.patch, case.votes),
        fullgraph=True,
        backend="aot_eager",
    )
    loss = compiled_step(model.weight)
    (grad,) = torch.autograd.grad(loss, model.weight)
    torch.testing.assert_close(loss.detach(), eager[0])
    torch.testing.assert_close(model.weight.detach() - 0.1 * grad, eager[1])
