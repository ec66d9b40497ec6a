"""The render room: stored parameters in, gradients to them out, the backend by the tensors' device."""

from __future__ import annotations

import pytest
import torch

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.ops.rasterize import Splats, rasterize
from splatseg.render import Means2dProbe, RenderConfig, render


def make_scene(n: int = 50) -> tuple[Gaussians, Camera]:
    g = torch.Generator().manual_seed(0)
    means = torch.randn(n, 3, generator=g) * 0.5 + torch.tensor([0.0, 0, 3])
    shapes = torch.randn(n, 4, generator=g), torch.rand(n, 3, generator=g) - 3, torch.randn(n, generator=g)
    gaussians = Gaussians(means, *shapes, torch.randn(n, 16, 3, generator=g) * 0.3)
    K = torch.tensor([[40.0, 0, 24], [0, 40.0, 16], [0, 0, 1]])
    return gaussians, Camera(K, torch.eye(4), 48, 32)


def test_activations_are_inside(device: torch.device) -> None:
    """Stored scales are logs and stored opacities logits."""
    gaussians, camera = make_scene()
    gaussians, camera = gaussians.to(device), camera.to(device)
    rendered = render(gaussians, camera)
    assert rendered.features is None
    assert rendered.color.shape == (32, 48, 3) and rendered.alpha.shape == rendered.depth.shape == (32, 48)
    host = gaussians.to("cpu")
    splats = Splats(host.means, host.quats, host.scales, host.opacities, host.sh)
    drawing = rasterize(splats, camera.to("cpu"))
    torch.testing.assert_close(rendered.color.cpu(), drawing.color, rtol=0, atol=1e-4)
    torch.testing.assert_close(rendered.depth.cpu(), drawing.depth, rtol=0, atol=1e-3)


def test_gradients_reach_stored_parameters_and_probe(device: torch.device) -> None:
    """No gradient is missing, and none is non-finite."""
    gaussians, camera = make_scene()
    leaves = {k: t.to(device).requires_grad_() for k, t in gaussians.tensors().items()}
    features = torch.randn(50, 6, device=device, requires_grad=True)
    probe = Means2dProbe.zeros(50, device)
    rendered = render(Gaussians(**leaves), camera.to(device), features, probe=probe)
    assert rendered.features is not None
    (rendered.color.square().sum() + rendered.features.square().sum() + rendered.depth.sum()).backward()
    for name, leaf in {**leaves, "features": features, "means2d": probe.means2d, "absgrad": probe.absgrad}.items():
        assert leaf.grad is not None, name
        assert bool(torch.isfinite(leaf.grad).all()) and bool(leaf.grad.any()), name
    drawn = (rendered.radii > 0).all(dim=1)
    assert not leaves["means"].grad[~drawn].any()
    assert (probe.absgrad.grad >= probe.means2d.grad.abs() * (1 - 1e-4) - 1e-6).all()


def test_probe_without_absgrad() -> None:
    gaussians, camera = make_scene()
    probe = Means2dProbe.zeros(50, "cpu", absgrad=False)
    render(gaussians, camera, probe=probe).color.sum().backward()
    assert probe.means2d.grad is not None and probe.means2d.grad.any()
    assert probe.absgrad.grad is None


def test_probe_is_the_gradient_of_the_projected_mean() -> None:
    """The gradients add up to the derivative of the loss when every projected mean moves alike."""
    gaussians, camera = make_scene(5)
    gaussians = Gaussians(**{k: t.double() for k, t in gaussians.tensors().items()})
    probe = Means2dProbe(*(torch.zeros(5, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)))
    target = torch.randn(32, 48, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (render(gaussians, camera, probe=probe).color * target).sum().backward()
    step = torch.zeros(5, 2, dtype=torch.float64)
    step[:, 0] = 1e-5

    def loss(offset: torch.Tensor) -> float:
        moved = Means2dProbe(offset, torch.zeros_like(offset))
        return float((render(gaussians, camera, probe=moved).color * target).sum())

    slope = (loss(step) - loss(-step)) / 2e-5
    assert float(probe.means2d.grad[:, 0].sum()) == pytest.approx(slope, rel=1e-4)


def test_settings_pass_through() -> None:
    gaussians, camera = make_scene()
    black = render(gaussians, camera)
    white = render(gaussians, camera, config=RenderConfig(background=(1.0, 1.0, 1.0)))
    torch.testing.assert_close(white.color, black.color + (1 - black.alpha)[..., None], rtol=0, atol=1e-6)
    flat = render(gaussians, camera, config=RenderConfig(sh_degree=0))
    assert (flat.color - black.color).abs().max() > 1e-2


def test_other_devices_are_refused() -> None:
    gaussians, camera = make_scene()
    with pytest.raises(SplatsegError, match="gaussians: expected tensors on cpu or cuda, found meta"):
        render(gaussians.to("meta"), camera)
