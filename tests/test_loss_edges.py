"""Edge cases of the hierarchical contrastive loss: each with its value and its gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from loss_cases import LossCase, case, nested_masks, random_case
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.ops.extension import compiled
from splatseg.ops.loss import hierarchical_contrastive_loss, hierarchical_contrastive_loss_and_grad
from splatseg.ops.loss_config import LossConfig
from splatseg.ops.reference import loss as reference

pytestmark = pytest.mark.skipif(not compiled(), reason="splatseg._C is not built")

ANY = replace(LossConfig.gs(), min_pixels=1, weight=1.0, deterministic=True)


def both(c: LossCase, device: torch.device, config: LossConfig = ANY) -> tuple[Tensor, Tensor]:
    """Value and gradient of the op, checked against the reference on the CPU."""
    on = c.to(device)
    loss, grad = hierarchical_contrastive_loss_and_grad(on.features, on.patch, on.votes, config=config)
    features = c.features.clone().requires_grad_()
    want = reference.hierarchical_contrastive_loss(features, c.patch, c.votes, None, config)
    (want_grad,) = torch.autograd.grad(want, features)
    torch.testing.assert_close(loss.cpu(), want.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grad.cpu(), want_grad, rtol=1e-8, atol=1e-9)
    return loss.cpu(), grad.cpu()


def eye(p: int) -> Tensor:
    return torch.eye(p, dtype=torch.bool)


def zero(pair: tuple[Tensor, Tensor]) -> bool:
    return float(pair[0]) == 0 and not pair[1].any()


def test_no_samples(device: torch.device) -> None:
    c = case(eye(4), torch.empty(0, dtype=torch.long), dtype=torch.float64)
    loss, grad = both(c, device)
    assert float(loss) == 0 and grad.shape == (0, 16)


def test_id_zero_everywhere(device: torch.device) -> None:
    assert zero(both(case(eye(4), torch.zeros(50, dtype=torch.long), dtype=torch.float64), device))


def test_id_zero_is_left_out_even_with_votes(device: torch.device) -> None:
    """Pixels in no mask are no patch, whatever row 0 of the votes holds: as if they had not been sampled."""
    c = random_case(dtype=torch.float64)
    votes = c.votes.clone()
    votes[0, :] = votes[:, 0] = 3
    loss, grad = both(replace(c, votes=votes), device)
    kept = c.patch > 0
    assert kept.sum() < len(kept) and not grad[~kept].any()
    alone, _ = both(replace(c, features=c.features[kept], patch=c.patch[kept]), device)
    torch.testing.assert_close(alone, loss, rtol=1e-12, atol=0)


def test_none_left_after_min_pixels(device: torch.device) -> None:
    c = case(eye(4), torch.tensor([1, 1, 2, 2, 3, 3]), dtype=torch.float64)
    assert zero(both(c, device, replace(ANY, min_pixels=3)))


def test_patches_below_min_pixels_are_no_negatives(device: torch.device) -> None:
    c = case(eye(4), torch.tensor([1] * 5 + [2] * 5 + [3] * 4), dtype=torch.float64)
    config = replace(ANY, min_pixels=5)
    loss, grad = both(c, device, config)
    assert not grad[10:].any() and grad[:10].any()
    without = LossCase(c.features[:10], c.patch[:10], c.votes, c.membership)
    torch.testing.assert_close(both(without, device, config)[0], loss, rtol=1e-14, atol=0)


def test_one_patch_only(device: torch.device) -> None:
    """A softmax over one patch is 1: nothing to learn."""
    assert zero(both(case(eye(2), torch.ones(30, dtype=torch.long), dtype=torch.float64), device))


def test_one_sample_a_patch(device: torch.device) -> None:
    loss, grad = both(case(eye(9), torch.arange(1, 9), dtype=torch.float64), device)
    assert float(loss) > 0 and grad.any()


def test_equal_samples_put_phi_at_its_floor(device: torch.device) -> None:
    """All samples of a patch equal: phi is 0 before clipping. Two such orthogonal patches: logits 1 / phi_min, 0."""
    features = torch.zeros(24, 4, dtype=torch.float64)
    features[:12, 0] = 3.0
    features[12:, 1] = 0.2
    patch = torch.tensor([1] * 12 + [2] * 12)
    c = replace(case(eye(3), patch, d=4, dtype=torch.float64), features=features)
    loss, grad = both(c, device)
    assert float(loss) == pytest.approx(24 * math.log1p(math.exp(-1 / ANY.phi_min)), rel=1e-4)  # f^ is 1 - 1e-6/|f|
    assert torch.isfinite(grad).all()


def test_zero_features(device: torch.device) -> None:
    """f = 0 has f^ = 0 and a finite gradient; all logits equal, so each sample's loss is log k."""
    c = case(eye(4), torch.tensor([1] * 9 + [2] * 9 + [3] * 9), dtype=torch.float64)
    loss, grad = both(replace(c, features=torch.zeros_like(c.features)), device)
    assert float(loss) == pytest.approx(27 * math.log(3), rel=1e-12)
    assert torch.isfinite(grad).all()


def tied_case() -> LossCase:
    """Patches 2 and 3 have the same features, so from anchor 1 they tie; both lie above patch 4 in the hierarchy."""
    contains = torch.zeros(6, 8, dtype=torch.bool)
    contains[1:, 0] = True
    contains[1:4, 1] = True
    contains[torch.arange(1, 6), torch.arange(2, 7)] = True
    c = case(contains, torch.arange(1, 6).repeat_interleave(11), dtype=torch.float64)
    features = c.features.clone()
    features[22:33] = features[11:22]
    features[33:44] = features[0:11]  # patch 4 is as near to anchor 1 as itself: overridden by level 1's max
    return replace(c, features=features)


def test_ties_go_to_the_first(device: torch.device) -> None:
    """From anchor 1, patches 2 and 3 share level 1 and every L; the running max is patch 2's, not half each."""
    c = tied_case()
    both(c, device)
    swapped = c.votes.clone()
    order = torch.tensor([0, 1, 3, 2, 4, 5])
    swapped = swapped[order][:, order]
    both(replace(c, votes=swapped), device)
    split = tie_split_gradient(c)
    _, grad = both(c, device)
    assert (split - grad).norm() > 1e-3 * grad.norm()


def tie_split_gradient(c: LossCase) -> Tensor:
    """The other convention (amax shares a tie equally), which the defined one must not be."""
    features = c.features.clone().requires_grad_()
    unit = features / (features.detach().norm(dim=1, keepdim=True) + 1e-6)
    means = torch.stack([unit[c.patch == k].mean(0) for k in range(1, 6)])
    phi = torch.stack([reference.concentration(unit[c.patch == k], means[k - 1], ANY) for k in range(1, 6)])
    total = features.new_zeros(())
    for k in range(1, 6):
        nll = -torch.log_softmax(unit[c.patch == k] @ (means / phi[:, None]).T, 1)
        running = nll.new_full((len(nll),), -torch.inf)
        row = c.votes[k, 1:]
        for level, value in enumerate(torch.unique(row[row > 0]).flip(0)):
            own = torch.maximum(nll[:, row == value], running[:, None])
            total = total + ANY.level_decay**level * own.mean(1).sum()
            running = own.amax(1)
    return torch.autograd.grad(total, features)[0]


def test_patch_in_no_mask(device: torch.device) -> None:
    """No level, so no term of its own; yet a negative, so its samples have a gradient through their mean."""
    contains = eye(4)
    contains[3] = False
    c = case(contains, torch.tensor([1] * 9 + [2] * 9 + [3] * 9), dtype=torch.float64)
    _, grad = both(c, device)
    assert grad[18:].any()
    same = grad[18:] * (c.features[18:].norm(dim=1, keepdim=True) + 1e-6)
    torch.testing.assert_close(same, same[:1].expand_as(same))  # through the mean alone: equal but for the norm


def test_all_patches_in_no_mask(device: torch.device) -> None:
    contains = torch.zeros(4, 4, dtype=torch.bool)
    assert zero(both(case(contains, torch.tensor([1] * 9 + [2] * 9), dtype=torch.float64), device))


def test_levels_emptied_by_min_pixels_close_up(device: torch.device) -> None:
    """Level 1 of anchor 1 is patch 2 alone; without its samples patch 3 moves from level 2 to 1 and counts decay, not
    decay^2: levels are those of the sampled subset."""
    contains = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    few = case(contains, torch.tensor([1] * 9 + [3] * 9), dtype=torch.float64)
    loss, grad = both(few, device)
    two = torch.tensor([[0, 0], [1, 1], [0, 1]], dtype=torch.bool)
    relabeled = case(two, torch.tensor([1] * 9 + [2] * 9), dtype=torch.float64)
    loss2, grad2 = both(replace(relabeled, features=few.features), device)
    torch.testing.assert_close(loss2, loss, rtol=1e-14, atol=0)
    torch.testing.assert_close(grad2, grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("factor", [1, 200, 2_000])
def test_votes_above_255(device: torch.device, factor: int) -> None:
    """Only the order of votes matters; above 255 nothing wraps (8 bits), above 4095 another sort takes over."""
    c = random_case(dtype=torch.float64)
    loss, grad = both(c, device)
    loss2, grad2 = both(replace(c, votes=c.votes * factor + (c.votes > 0) * 255), device)
    assert torch.equal(loss2, loss) and torch.equal(grad2, grad)


def chain(depth: int) -> Tensor:
    """Patch k lies in masks 0..k-1: from the last patch, every other one is a level of its own."""
    k = torch.arange(depth + 1)[:, None]
    return torch.arange(depth) < k


@pytest.mark.parametrize("depth", [1, 2, 20, 70])
@pytest.mark.parametrize("decay", [0.0, 0.2, 1.0])
def test_depths_of_hierarchy(device: torch.device, depth: int, decay: float) -> None:
    """70 levels pass any fixed table of 32 or 64 entries."""
    patch = torch.arange(1, depth + 1).repeat_interleave(3)
    c = case(chain(depth), patch, dtype=torch.float64)
    assert int(c.votes.max()) == depth
    both(c, device, replace(ANY, level_decay=decay))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65])
def test_sizes_around_the_width_of_a_block(device: torch.device, count: int) -> None:
    c = case(chain(3), torch.tensor([1] * count + [2] * 5 + [3] * 40), d=5, dtype=torch.float64)
    both(c, device)


@pytest.mark.parametrize("k", [1, 2, 5, 6, 7, 8, 9, 12, 13, 63, 64, 65, 130])
def test_numbers_of_patches_around_the_tile(device: torch.device, k: int) -> None:
    both(case(nested_masks(k + 1), torch.arange(1, k + 1).repeat(4), d=6, dtype=torch.float64), device)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_poison_is_never_silent(device: torch.device, poison: float) -> None:
    """One bad sample reaches every kept one through the softmax: all become NaN, and samples left out stay 0."""
    c = random_case(dtype=torch.float64).to(device)
    features = c.features.clone()
    features[int((c.patch > 0).nonzero()[0]), 3] = poison
    loss, grad = hierarchical_contrastive_loss_and_grad(features, c.patch, c.votes, config=ANY)
    assert loss.isnan()
    assert grad[c.patch > 0].isnan().all() and not grad[c.patch == 0].any()


def test_poison_in_a_sample_left_out_is_harmless(device: torch.device) -> None:
    c = random_case(dtype=torch.float64).to(device)
    features = c.features.clone()
    features[c.patch == 0] = math.nan
    loss, grad = hierarchical_contrastive_loss_and_grad(features, c.patch, c.votes, config=ANY)
    want, want_grad = hierarchical_contrastive_loss_and_grad(c.features, c.patch, c.votes, config=ANY)
    assert torch.equal(loss, want) and torch.equal(grad, want_grad)


BAD = {
    "features: expected shape": lambda c: dict(features=c.features[0]),
    "features: expected float32 or float64": lambda c: dict(features=c.features.half()),
    r"patch: expected shape \(n=1500\)": lambda c: dict(patch=c.patch[1:]),
    "patch: expected int32 or int64": lambda c: dict(patch=c.patch.float()),
    r"patch: expected ids in 0\.\.23, found -1": lambda c: dict(patch=c.patch - 1),
    r"patch: expected ids in 0\.\.23, found 0\.\.24": lambda c: dict(patch=c.patch.where(c.patch != 5, 24)),
    "exactly one": lambda c: dict(membership=c.membership),
    "votes, membership: expected exactly": lambda c: dict(votes=None),
    r"votes: expected shape \(p, p\)": lambda c: dict(votes=c.votes[:, 1:]),
    "votes: expected int32 or int64": lambda c: dict(votes=c.votes.float()),
    "membership: expected int64": lambda c: dict(votes=None, membership=c.membership.int()),
    "membership: expected shape": lambda c: dict(votes=None, membership=c.membership[0]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message: str) -> None:
    c = random_case()
    arguments = dict(features=c.features, patch=c.patch, votes=c.votes) | BAD[message](c)
    with pytest.raises(SplatsegError, match=message):
        hierarchical_contrastive_loss(**arguments)
    with pytest.raises(SplatsegError, match=message):
        hierarchical_contrastive_loss_and_grad(**arguments)


@pytest.mark.parametrize("field", [dict(phi_min=0.0), dict(phi_max=0.1), dict(level_decay=-0.1), dict(min_pixels=0)])
def test_bad_config_is_named(field: dict[str, float]) -> None:
    with pytest.raises(SplatsegError, match=next(iter(field))):
        replace(LossConfig.gs(), **field)
