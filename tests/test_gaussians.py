"""The splat container: shapes are checked, activations undo their stored forms, the fingerprint is the values'."""

from __future__ import annotations

import pytest
import torch

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import SH_C0, Gaussians


def make(count: int = 6, coefficients: int = 4, seed: int = 0) -> Gaussians:
    g = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(count, 3, generator=g),
        quats=torch.randn(count, 4, generator=g),
        log_scales=torch.randn(count, 3, generator=g),
        opacity_logits=torch.randn(count, generator=g),
        sh=torch.randn(count, coefficients, 3, generator=g),
    )


def changed(gaussians: Gaussians, name: str, value: torch.Tensor) -> Gaussians:
    return Gaussians(**{**gaussians.tensors(), name: value})


NAMES = ["means", "quats", "log_scales", "opacity_logits", "sh"]


def test_activated_forms_and_degrees() -> None:
    g = make()
    assert torch.allclose(g.scales.log(), g.log_scales, atol=1e-6)
    assert torch.allclose(torch.logit(g.opacities), g.opacity_logits, atol=1e-5)
    assert [make(coefficients=k).sh_degree for k in (1, 4, 9, 16)] == [0, 1, 2, 3]
    gray = changed(g, "sh", torch.zeros_like(g.sh))
    assert torch.equal(gray.base_colors, torch.full((6, 3), 0.5))
    white = changed(g, "sh", torch.full_like(g.sh, 0.5 / SH_C0))
    assert torch.allclose(white.base_colors, torch.ones(6, 3)) and bool((g.base_colors <= 1).all())
    assert list(g.tensors()) == NAMES and len(g) == 6


@pytest.mark.parametrize("name", NAMES)
def test_a_field_of_another_length_is_named(name: str) -> None:
    g = make()
    if name == "means":  # binds n: the next field is the one that differs
        with pytest.raises(SplatsegError, match=r"quats: expected shape \(n=5, 4\), found \(6, 4\)"):
            changed(g, name, g.means[:5])
    else:
        with pytest.raises(SplatsegError, match=rf"{name}: expected shape \(n=6.*found \(5"):
            changed(g, name, g.tensors()[name][:5])


def test_a_partial_spherical_harmonic_degree_is_refused() -> None:
    with pytest.raises(SplatsegError, match="sh: expected 1, 4, 9 or 16 coefficients per channel, found 5"):
        make(coefficients=5)


@pytest.mark.parametrize("name", NAMES)
def test_non_finite_values_are_named_with_their_place(name: str) -> None:
    g = make()
    g.check_finite()
    poisoned = g.tensors()[name].clone()
    poisoned[3] = float("inf")
    with pytest.raises(SplatsegError, match=rf"{name}: expected finite values, found inf at index \(3,"):
        changed(g, name, poisoned).check_finite()


def test_select_takes_ids_in_order_and_masks_alike() -> None:
    g = make()
    by_ids = g.select(torch.tensor([1, 4]))
    by_mask = g.select(torch.tensor([False, True, False, False, True, False]))
    for name in NAMES:
        assert torch.equal(by_ids.tensors()[name], g.tensors()[name][[1, 4]])
        assert torch.equal(by_ids.tensors()[name], by_mask.tensors()[name])
    assert torch.equal(g.select(torch.tensor([4, 1])).means, by_ids.means.flip(0))
    assert len(g.select(torch.zeros(6, dtype=torch.bool))) == 0


@pytest.mark.parametrize("name", NAMES)
def test_fingerprint_changes_with_the_smallest_change_of_any_field(name: str) -> None:
    g = make()
    values = g.tensors()[name].clone()
    flat = values.view(-1)
    flat[-1] = torch.nextafter(flat[-1], torch.tensor(torch.inf))
    assert changed(g, name, values).fingerprint() != g.fingerprint()


def test_fingerprint_is_the_same_for_the_same_values_however_they_are_held(device: torch.device) -> None:
    g = make()
    strided = changed(g, "means", g.means.t().contiguous().t())
    tracked = changed(g, "sh", g.sh.clone().requires_grad_())
    for other in (make(), strided, tracked, tracked.detach(), g.to(device)):
        assert other.fingerprint() == g.fingerprint()
    assert len(g.fingerprint()) == 16


def test_fingerprint_depends_on_order_and_on_where_a_value_is() -> None:
    g = make()
    assert g.select(torch.tensor([1, 0, 2, 3, 4, 5])).fingerprint() != g.fingerprint()
    swapped = Gaussians(g.log_scales, g.quats, g.means, g.opacity_logits, g.sh)
    assert swapped.fingerprint() != g.fingerprint()


def test_detach_keeps_values_and_drops_the_graph() -> None:
    g = changed(make(), "means", make().means.requires_grad_())
    assert g.means.requires_grad and not g.detach().means.requires_grad
    assert g.detach().means.data_ptr() == g.means.data_ptr()
