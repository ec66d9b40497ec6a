"""The gsplat backend, with gsplat's CUDA calls replaced by PyTorch ones (gsplat_on_cpu.py), against the CPU backend.

Here the logic of our wrapper is run: channels, padding, chunks, packed rows, the probe, tile lists. What gsplat's
kernels themselves compute is compared on a GPU, in test_cuda_agreement.py.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import gsplat_on_cpu
import pytest
import torch
from torch import Tensor

from splatseg import ops
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.render import Means2dProbe, RenderConfig, Rendered, cpu, render, trace
from splatseg.render import gsplat as backend
from splatseg.render.backends import backend_of

N = 60


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gsplat_on_cpu.install(monkeypatch)


def scene(n: int = N, seed: int = 0) -> tuple[Gaussians, Camera]:
    """Sides that are no multiple of 16; some Gaussians behind the camera or outside the image, some opaque."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(n, 3, generator=g) * torch.tensor([1.2, 0.8, 0.9]) + torch.tensor([0.0, 0, 1.8])
    shapes = torch.randn(n, 4, generator=g), torch.rand(n, 3, generator=g) - 2.6, torch.randn(n, generator=g) * 3
    gaussians = Gaussians(means, *shapes, torch.randn(n, 16, 3, generator=g) * 0.3)
    K = torch.tensor([[30.0, 0, 17], [0, 32.0, 13], [0, 0, 1]])
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([0.05, -0.1, 0.2])
    return gaussians, Camera(K, pose, 37, 27)


def outputs(r: Rendered) -> dict[str, Tensor]:
    maps = {"color": r.color, "alpha": r.alpha, "depth": r.depth}
    return maps if r.features is None else {**maps, "features": r.features}


def assert_same_drawing(found: Rendered, want: Rendered, tolerance: float = 2e-5) -> None:
    """Values up to about 4 in float32, sums of up to 60 terms in another order."""
    for name, expected in outputs(want).items():
        torch.testing.assert_close(
            outputs(found)[name], expected, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m
        )
    # An extent that is a whole number to rounding may be rounded up on one side only.
    assert (found.radii - want.radii).abs().max() <= 1 and found.radii.dtype == torch.int32
    assert torch.equal((found.radii > 0).all(1), (want.radii > 0).all(1))


CONFIGS = [
    RenderConfig(),
    RenderConfig(packed=True, background=(0.2, 0.5, 1.0)),
    RenderConfig(sh_degree=1, near=1.0, far=3.0, eps2d=0.1),
]


@pytest.mark.parametrize("dim", [None, 1, 4, 12, 16, 40])
@pytest.mark.parametrize("config", CONFIGS)
def test_draws_what_the_cpu_draws(config: RenderConfig, dim: int | None) -> None:
    """No features; 3 + 1 + 1 and 3 + 4 + 1 channels, compiled; 16 compiled; 20 padded to 32; 44 in two chunks."""
    gaussians, camera = scene()
    features = None if dim is None else torch.randn(N, dim)
    assert backend_of(torch.device("cpu")) is backend
    found = render(gaussians, camera, features, config)
    assert_same_drawing(found, cpu.render(gaussians, camera, features, config, None))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dim", [None, 5, 40])
def test_gradients_are_those_of_the_cpu(dim: int | None, packed: bool) -> None:
    """Every stored parameter, the features, and both leaves of the probe; 44 channels are drawn whole for absgrad."""
    gaussians, camera = scene()
    config = RenderConfig(packed=packed, background=(0.3, 0.2, 0.1))
    weights: dict[str, Tensor] = {}
    results = []
    for draw in (backend.render, cpu.render):
        leaves = {k: t.clone().requires_grad_() for k, t in gaussians.tensors().items()}
        features = None if dim is None else torch.linspace(-1, 1, N * dim).reshape(N, dim).requires_grad_()
        probe = Means2dProbe.zeros(N, "cpu")
        drawn = outputs(draw(Gaussians(**leaves), camera, features, config, probe))
        for name, value in drawn.items():
            weights.setdefault(name, torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))))
        sum((value * weights[name]).sum() for name, value in drawn.items()).backward()
        leaves |= {"means2d": probe.means2d, "absgrad": probe.absgrad}
        results.append({**leaves, **({} if features is None else {"features": features})})
    found, want = results
    for name, leaf in want.items():
        assert leaf.grad is not None and found[name].grad is not None and bool(leaf.grad.any()), name
        scale = float(leaf.grad.abs().max())
        # Depth divides by alpha, small near edges: gradients of float32 sums keep about four digits.
        assert (found[name].grad - leaf.grad).abs().max() <= 2e-4 * scale, name


def test_probe_without_absgrad_and_without_backward() -> None:
    gaussians, camera = scene()
    means = gaussians.means.clone().requires_grad_()
    probe = Means2dProbe.zeros(N, "cpu", absgrad=False)
    render(replace(gaussians, means=means), camera, probe=probe).color.sum().backward()
    assert probe.means2d.grad is not None and probe.absgrad.grad is None
    with torch.no_grad():
        render(gaussians, camera, probe=Means2dProbe.zeros(N, "cpu"))


def test_a_step_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that held its own tensor would keep every step's projection alive until the garbage collector comes."""
    kept = []
    original = backend._filler

    def spy(probe: Means2dProbe, means2d: Tensor, ids: Tensor | None) -> object:
        kept.append(weakref.ref(means2d))
        return original(probe, means2d, ids)

    monkeypatch.setattr(backend, "_filler", spy)
    gaussians, camera = scene()
    means = gaussians.means.clone().requires_grad_()
    gc.disable()
    try:
        render(replace(gaussians, means=means), camera, probe=Means2dProbe.zeros(N, "cpu")).color.sum().backward()
        assert len(kept) == 1 and kept[0]() is None
    finally:
        gc.enable()


def test_no_gaussian_at_all_and_none_in_view() -> None:
    gaussians, camera = scene()
    config = RenderConfig(background=(0.2, 0.4, 0.6))
    nothing = gaussians.select(torch.zeros(N, dtype=torch.bool))
    behind = replace(gaussians, means=gaussians.means - torch.tensor([0.0, 0, 50]))
    for g in (nothing, behind):
        found = render(g, camera, torch.ones(len(g), 6), config)
        assert_same_drawing(found, cpu.render(g, camera, torch.ones(len(g), 6), config, None)) if len(g) else None
        assert torch.equal(found.color, torch.tensor(config.background).expand(27, 37, 3))
        assert not found.alpha.any() and not found.features.any() and not found.radii.any()


@pytest.mark.parametrize("field", ["means", "quats", "log_scales", "opacity_logits", "sh"])
def test_bad_values_are_named(field: str) -> None:
    gaussians, camera = scene()
    values = gaussians.tensors()[field].clone()
    values.view(-1)[7] = torch.nan
    with pytest.raises(SplatsegError, match=f"^{field}: expected finite values"):
        render(replace(gaussians, **{field: values}), camera)
    with pytest.raises(SplatsegError, match=f"^{field}: expected float32 for gsplat, found torch.float64"):
        render(replace(gaussians, **{field: gaussians.tensors()[field].double()}), camera)


def test_features_that_do_not_fit() -> None:
    gaussians, camera = scene()
    with pytest.raises(SplatsegError, match=r"^features: expected shape \(60, d\)"):
        render(gaussians, camera, torch.zeros(N - 1, 4))
    with pytest.raises(SplatsegError, match="at most 124 columns beside a probe with absgrad, found 125"):
        render(gaussians, camera, torch.zeros(N, 125), probe=Means2dProbe.zeros(N, "cpu"))


def test_channel_layout_always_ends_in_compiled_counts() -> None:
    for channels in range(4, 200):
        padding, chunk = backend.channel_layout(channels, whole=False)
        total = channels + padding
        assert min(total, chunk) in backend.COMPILED and (total % chunk or chunk) in backend.COMPILED
        assert chunk <= backend.CHUNK or total == chunk
    assert backend.channel_layout(20, False) == (12, 32)
    assert backend.channel_layout(68, False) == (0, 32)
    assert backend.channel_layout(44, True) == (20, 64)


@pytest.mark.parametrize("min_weight", [0.0, 1e-3, 0.05])
def test_traces_what_the_cpu_traces(min_weight: float) -> None:
    """All pixels in random order with repeats, and some Gaussians that are ids of nothing in view."""
    gaussians, camera = scene()
    generator = torch.Generator().manual_seed(3)
    pixels = torch.stack([torch.randint(0, s, (300,), generator=generator) for s in (37, 27)], 1)
    found = trace(gaussians, camera, pixels, min_weight)
    want = cpu.tracer(gaussians, camera, RenderConfig())(pixels, min_weight)
    assert torch.equal(found.pixels, want.pixels) and torch.equal(found.order, want.order)
    assert torch.equal(found.offsets, want.offsets) and torch.equal(found.ids, want.ids)
    torch.testing.assert_close(found.weights, want.weights, rtol=2e-4, atol=2e-6)
    assert len(found.ids) > 100


def test_blending_traced_weights_is_rendering() -> None:
    gaussians, camera = scene()
    features = torch.randn(N, 8)
    rows, columns = torch.meshgrid(torch.arange(27), torch.arange(37), indexing="ij")
    pixels = torch.stack([columns.flatten(), rows.flatten()], 1)
    c = trace(gaussians, camera, pixels, 0.0)
    blended = ops.blend(c, features, c.rows(torch.arange(len(pixels)))).reshape(27, 37, 8)
    torch.testing.assert_close(blended, render(gaussians, camera, features).features, rtol=1e-5, atol=2e-5)


def test_trace_refuses_what_the_cpu_refuses() -> None:
    gaussians, camera = scene()
    with pytest.raises(SplatsegError, match=r"columns in 0..36 and rows in 0..26, found \(37, 0\) at index 1"):
        trace(gaussians, camera, torch.tensor([[0, 0], [37, 0]]))
    with pytest.raises(SplatsegError, match="min_weight"):
        trace(gaussians, camera, torch.tensor([[0, 0]]), 2.0)
    means = gaussians.means.clone()
    means[3, 1] = torch.inf
    with pytest.raises(SplatsegError, match=r"^means: expected finite values"):
        trace(replace(gaussians, means=means), camera, torch.tensor([[0, 0]]))
    assert len(trace(gaussians, camera, torch.zeros(0, 2, dtype=torch.int32))) == 0
