"""The hierarchical contrastive loss: against its reference, against published values, and the laws it obeys."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from loss_cases import LossCase, detached_loss, random_case
from torch import Tensor

from splatseg.ops.extension import compiled
from splatseg.ops.loss import hierarchical_contrastive_loss, hierarchical_contrastive_loss_and_grad
from splatseg.ops.loss_config import LossConfig
from splatseg.ops.reference import loss as reference

pytestmark = pytest.mark.skipif(not compiled(), reason="splatseg._C is not built")

CONFIGS = {
    "gs": LossConfig.gs(),
    "paper": LossConfig.paper(),
    "basic": LossConfig.basic(),
    "sharp": replace(LossConfig.gs(), phi_min=1e-3, phi_max=2e-2),  # logits of hundreds: exp needs the running max
    "all": replace(LossConfig.gs(), min_pixels=1, level_decay=1.0),
}


def op(case: LossCase, config: LossConfig) -> tuple[Tensor, Tensor]:
    return hierarchical_contrastive_loss_and_grad(case.features, case.patch, case.votes, config=config)


def expected(case: LossCase, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Value and gradient of the reference in float64, on the CPU."""
    features = case.features.detach().cpu().double().requires_grad_()
    loss = reference.hierarchical_contrastive_loss(features, case.patch.cpu(), case.votes.cpu(), None, config)
    return loss.detach(), torch.autograd.grad(loss, features)[0]


def relative(found: Tensor, want: Tensor) -> float:
    return float((found.cpu().double() - want).norm() / want.norm())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("d", [1, 3, 4, 8, 16, 19, 24, 32, 64, 100])
def test_float64_matches_reference(device: torch.device, config: LossConfig, d: int) -> None:
    case = random_case(d=d, seed=d, dtype=torch.float64).to(device)
    (loss, grad), (want_loss, want_grad) = op(case, config), expected(case, config)
    assert relative(loss, want_loss) < 1e-12
    # CUDA in deterministic mode sums in fixed point of 2^-36; elsewhere the order of summation differs.
    assert relative(grad, want_grad) < 1e-10


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("d", [3, 4, 8, 16, 19, 24, 32, 64])
def test_float32_is_as_accurate_as_torch(device: torch.device, config: LossConfig, d: int) -> None:
    """Against float64; allowed is ten times what the reference itself loses in float32, and no less than 2e-6."""
    case = random_case(d=d, seed=d).to(device)
    (loss, grad), (want_loss, want_grad) = op(case, config), expected(case, config)
    features = case.features.cpu().requires_grad_()
    torch_loss = reference.hierarchical_contrastive_loss(features, case.patch.cpu(), case.votes.cpu(), None, config)
    (torch_grad,) = torch.autograd.grad(torch_loss, features)
    assert relative(loss, want_loss) < max(2e-6, 10 * relative(torch_loss.detach(), want_loss))
    assert relative(grad, want_grad) < max(2e-6, 10 * relative(torch_grad, want_grad))


def test_autograd_returns_the_gradient_times_upstream(device: torch.device) -> None:
    case = random_case().to(device)
    features = case.features.clone().requires_grad_()
    loss = hierarchical_contrastive_loss(features, case.patch, case.votes)
    (3 * loss).backward()
    want_loss, want_grad = op(case, LossConfig.gs())
    assert torch.equal(loss.detach(), want_loss)
    torch.testing.assert_close(features.grad, 3 * want_grad)


def test_without_grad_mode_the_value_is_the_same(device: torch.device) -> None:
    case = random_case().to(device)
    features = case.features.clone().requires_grad_()
    with torch.no_grad():
        value = hierarchical_contrastive_loss(features, case.patch, case.votes)
    assert not value.requires_grad
    assert torch.equal(value, hierarchical_contrastive_loss(features, case.patch, case.votes).detach())


def test_gradient_flows_through_the_running_max(device: torch.device) -> None:
    """Detaching the running max is a visibly different gradient: the test data would notice."""
    case = random_case(dtype=torch.float64).to(device)
    config = replace(LossConfig.gs(), level_decay=0.9)
    _, grad = op(case, config)
    features = case.features.cpu().requires_grad_()
    detached = detached_loss(features, case.to(torch.device("cpu")), config)
    torch.testing.assert_close(op(case, config)[0].cpu(), detached.detach(), rtol=1e-12, atol=0)
    (other,) = torch.autograd.grad(detached, features)
    assert relative(grad, other) > 0.02


COINCIDE = ["nested", "tiny", "dim4", "dim32", "typical"]


def published(vectors_dir: Path, name: str) -> tuple[LossCase, float, Tensor]:
    z = np.load(vectors_dir / f"{name}.npz")
    features, patch, votes = (torch.from_numpy(z[key]) for key in ("features", "sample_patch", "votes"))
    return LossCase(features, patch, votes, torch.empty(0)), float(z["loss"]), torch.from_numpy(z["grad"])


@pytest.mark.parametrize("name", [*COINCIDE, "wide"])
def test_published_values(device: torch.device, vectors_dir: Path, name: str) -> None:
    """The two definitions coincide here: every anchor has some sampled patch with 0 common masks, so the smallest
    distinct vote, which the published code always drops, is the 0 that we never count.

    The published log(sum + 1e-6) shifts L by at most 1e-6 / sum, and sum is at least k exp(-1 / phi_min) = 0.13 k: for
    k >= 7 below 1.1e-6, far inside the tolerance.
    """
    case, want_loss, want_grad = published(vectors_dir, name)
    loss, grad = op(case.to(device), LossConfig.gs())
    assert abs(float(loss) / want_loss - 1) < 1e-5
    assert relative(grad, want_grad.double()) < 1e-5


def test_published_values_that_differ(device: torch.device, vectors_dir: Path) -> None:
    """`covered`: one mask covers the picture, so the smallest distinct vote of every anchor is 1, not 0.

    The published code drops that level as if it were 0; ours keeps it. Lowering all votes by one makes it the 0 that
    both drop, and then both agree.
    """
    case, want_loss, want_grad = published(vectors_dir, "covered")
    loss, _ = op(case.to(device), LossConfig.gs())
    assert int(case.votes[1:, 1:].min()) == 1
    assert 1.1 < float(loss) / want_loss < 1.3  # one level more: the loss is larger
    lowered = replace(case, votes=case.votes - 1)
    loss, grad = op(lowered.to(device), LossConfig.gs())
    assert abs(float(loss) / want_loss - 1) < 1e-5
    assert relative(grad, want_grad.double()) < 1e-5


def test_min_pixels_of_gs_is_more_than_twenty(device: torch.device, vectors_dir: Path) -> None:
    """`dim4` has a patch with exactly 20 samples, which the published variant leaves out."""
    case, want_loss, _ = published(vectors_dir, "dim4")
    assert 20 in torch.bincount(case.patch)[1:]
    assert LossConfig.gs().min_pixels == 21
    loss, _ = op(case.to(device), replace(LossConfig.gs(), min_pixels=20))
    assert abs(float(loss) / want_loss - 1) > 1e-2


def test_order_of_samples_does_not_matter(device: torch.device) -> None:
    case = random_case(dtype=torch.float64).to(device)
    order = torch.randperm(len(case.patch), generator=torch.Generator().manual_seed(5)).to(device)
    shuffled = replace(case, features=case.features[order], patch=case.patch[order])
    (loss, grad), (loss2, grad2) = op(case, LossConfig.gs()), op(shuffled, LossConfig.gs())
    torch.testing.assert_close(loss2, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad2, grad[order], rtol=1e-9, atol=1e-12)


def test_names_of_patches_do_not_matter(device: torch.device) -> None:
    case = random_case(dtype=torch.float64).to(device)
    p = len(case.votes)
    name = torch.cat(
        [torch.zeros(1, dtype=torch.long), 1 + torch.randperm(p - 1, generator=torch.Generator().manual_seed(5))]
    )
    name = name.to(device)  # patch k is called name[k]; id 0 stays reserved
    votes = torch.empty_like(case.votes)
    votes[name[:, None], name[None, :]] = case.votes
    renamed = replace(case, patch=name[case.patch], votes=votes)
    (loss, grad), (loss2, grad2) = op(case, LossConfig.gs()), op(renamed, LossConfig.gs())
    torch.testing.assert_close(loss2, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad2, grad, rtol=1e-9, atol=1e-12)


def test_scale_of_features_does_not_matter(device: torch.device) -> None:
    case = random_case(dtype=torch.float64).to(device)
    scaled = replace(case, features=case.features * 8)
    (loss, grad), (loss2, grad2) = op(case, LossConfig.gs()), op(scaled, LossConfig.gs())
    torch.testing.assert_close(loss2, loss, rtol=1e-5, atol=0)  # up to the 1e-6 added to the norm
    torch.testing.assert_close(grad2 * 8, grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("p", [24, 200])
def test_votes_and_membership_agree(device: torch.device, p: int) -> None:
    case = random_case(p=p, n=4000).to(device)
    config = replace(LossConfig.gs(), min_pixels=5, deterministic=True)
    by_votes = hierarchical_contrastive_loss_and_grad(case.features, case.patch, case.votes, config=config)
    by_bits = hierarchical_contrastive_loss_and_grad(
        case.features, case.patch, membership=case.membership, config=config
    )
    for a, b in zip(by_votes, by_bits, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("patch_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("votes_dtype", [torch.int32, torch.int64])
def test_integer_types_and_layouts(device: torch.device, patch_dtype: torch.dtype, votes_dtype: torch.dtype) -> None:
    case = random_case().to(device)
    config = replace(LossConfig.gs(), deterministic=True)
    want_loss, want_grad = op(case, config)
    spread = torch.stack([case.features, case.features], 2)[..., 0]  # strides (2d, 2)
    assert not spread.is_contiguous()
    loss, grad = hierarchical_contrastive_loss_and_grad(
        spread, case.patch.to(patch_dtype), case.votes.to(votes_dtype).T, config=config
    )
    assert torch.equal(loss, want_loss) and torch.equal(grad, want_grad)


def test_threads_change_no_bit() -> None:
    case = random_case(p=60, n=6000)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(op(case, LossConfig.gs()))
    finally:
        torch.set_num_threads(threads)
    for loss, grad in results[1:]:
        assert torch.equal(loss, results[0][0]) and torch.equal(grad, results[0][1])


def test_two_runs_agree_bit_for_bit(device: torch.device) -> None:
    case = random_case(p=60, n=6000).to(device)
    config = replace(LossConfig.gs(), deterministic=True)
    (loss, grad), (loss2, grad2) = op(case, config), op(case, config)
    assert torch.equal(loss, loss2) and torch.equal(grad, grad2)


ISA_PROGRAM = """
import sys, torch
sys.path.insert(0, "tests")
from loss_cases import random_case
from splatseg import _C
from splatseg.ops.loss import hierarchical_contrastive_loss_and_grad
case = random_case(p=60, n=6000)
result = hierarchical_contrastive_loss_and_grad(case.features, case.patch, membership=case.membership)
torch.save([_C.isa(), *result], sys.argv[1])
"""


def test_instruction_sets_agree(tmp_path: Path) -> None:
    """The baseline build has no fused multiply-add, so results differ by rounding alone."""
    results = {}
    for isa in ("baseline", "avx2"):
        path = tmp_path / isa
        environment = {**os.environ, "SPLATSEG_ISA": isa, "PYTHONPATH": "."}
        root = Path(__file__).parent.parent
        subprocess.run([sys.executable, "-c", ISA_PROGRAM, str(path)], check=True, cwd=root, env=environment)
        found, loss, grad = torch.load(path)
        results[found] = (loss, grad)
    if len(results) == 1:
        pytest.skip(f"this processor has only {next(iter(results))}")
    (loss, grad), (loss2, grad2) = results.values()
    assert relative(loss, loss2.double()) < 1e-6
    assert relative(grad, grad2.double()) < 2e-6
