"""Every device computes what the CPU computes in float64: render, trace, blend, loss, optimizers, fits.

Float32 against float64 is a real comparison on the CPU too. Two kinds of error are allowed for: rounding, and decisions
that rounding turns (a fast exponential moves an alpha over 1/255, a transmittance over 1e-4), each of which changes
a pixel by at most 1/255 of the brightest value. So nearly all values are held to rounding, the rest to one decision.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from columns_cases import SCHEDULE, some_columns, some_step
from loss_cases import random_case
from pool_cases import SCHEDULE as POOL_SCHEDULE
from pool_cases import Steps, pool
from test_features import small, world  # noqa: F401  (a fixture)
from test_geometry import SMALL, scene  # noqa: F401  (a fixture)
from test_trace import scene as splat_scene
from torch import Tensor

from splatseg import ops
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.fit.features import FeatureTrainer
from splatseg.fit.geometry import fit_geometry, psnr
from splatseg.fit.hooks import FitHooks
from splatseg.fit.pixel_pools import SamplingConfig
from splatseg.ops.reference import blend as blend_reference
from splatseg.ops.reference import loss as loss_reference
from splatseg.ops.replay import can_replay
from splatseg.render import Means2dProbe, RenderConfig, render, trace


def double(g: Gaussians) -> Gaussians:
    return Gaussians(**{name: t.double() for name, t in g.tensors().items()})


def assert_image(found: Tensor, want: Tensor, scale: float) -> None:
    """See the module's docstring; ``scale`` is the largest value that a Gaussian adds."""
    error = (found.detach().cpu().double() - want.detach()).abs() / scale
    assert float(error.mean()) < 2e-5
    assert float((error < 1e-4).double().mean()) > 0.998
    assert float(error.max()) < 3 / 255


def assert_gradient(found: Tensor | None, want: Tensor | None, name: str) -> None:
    """Within 0.2 % of the whole: sums of thousands of float32 terms of both signs, some pixels decided otherwise."""
    assert found is not None and want is not None, f"{name} has no gradient"
    assert float((found.cpu().double() - want).norm() / want.norm()) < 2e-3, name


def garden(data_dir: Path, index: int, shrink: int) -> tuple[Gaussians, Camera]:
    """All 138,766 points of gsplat's own test asset as small Gaussians."""
    file = data_dir / "garden" / "test_garden.npz"
    if not file.is_file():
        pytest.skip(f"not at hand: {file}")
    data = np.load(file)
    n = len(data["means3d"])
    gaussians = Gaussians(
        means=torch.from_numpy(data["means3d"]),
        quats=torch.randn(n, 4, generator=torch.Generator().manual_seed(0)),
        log_scales=torch.tensor([0.01, 0.02, 0.04]).log().repeat(n, 1),
        opacity_logits=torch.full((n,), 0.85),
        sh=(torch.from_numpy(data["colors"]).float()[:, None] / 255 - 0.5) / 0.28209479177387814,
    )
    width, height = int(data["width"]), int(data["height"])
    camera = Camera(torch.from_numpy(data["Ks"][index]), torch.from_numpy(data["viewmats"][index]), width, height)
    return gaussians, camera.resized(width // shrink, height // shrink)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dim", [None, 16, 40])
def test_render(device: torch.device, dim: int | None, packed: bool) -> None:
    gaussians, camera = splat_scene(3000, 130, 90)
    features = None if dim is None else torch.randn(3000, dim, generator=torch.Generator().manual_seed(1))
    config = RenderConfig(background=(0.1, 0.5, 0.9), packed=packed)
    on = None if features is None else features.to(device)
    found = render(gaussians.to(device), camera.to(device), on, config)
    want = render(double(gaussians), camera, None if features is None else features.double(), config)
    assert_image(found.color, want.color, 2.0)
    assert_image(found.alpha, want.alpha, 1.0)
    solid = want.alpha > 0.5
    assert_image(found.depth.cpu()[solid], want.depth[solid], 10.0)
    if features is not None:
        assert_image(found.features, want.features, 5.0)
    assert float(((found.radii > 0).all(1).cpu() == (want.radii > 0).all(1)).float().mean()) > 0.999


@pytest.mark.parametrize("packed", [False, True])
def test_render_gradients(device: torch.device, packed: bool) -> None:
    gaussians, camera = splat_scene(2000, 100, 70)
    grads: list[dict[str, Tensor | None]] = []
    for g, where in ((gaussians, device), (double(gaussians), torch.device("cpu"))):
        leaves = {k: t.to(where).requires_grad_() for k, t in g.tensors().items()}
        features = (
            torch.linspace(-1, 1, 2000 * 16, dtype=g.means.dtype, device=where).reshape(2000, 16).requires_grad_()
        )
        probe = Means2dProbe(
            *(torch.zeros(2000, 2, dtype=g.means.dtype, device=where, requires_grad=True) for _ in "ab")
        )
        drawn = render(Gaussians(**leaves), camera.to(where), features, RenderConfig(packed=packed), probe)
        assert drawn.features is not None
        (drawn.color.square().sum() + drawn.features.square().sum() + drawn.alpha.sum()).backward()
        leaves |= {"features": features, "means2d": probe.means2d, "absgrad": probe.absgrad}
        grads.append({name: leaf.grad for name, leaf in leaves.items()})
    for name, grad in grads[0].items():
        assert_gradient(grad, grads[1][name], name)


@pytest.mark.parametrize("min_weight", [0.0, 1e-3])
def test_trace_blends_to_the_drawing(device: torch.device, min_weight: float) -> None:
    gaussians, camera = splat_scene(3000, 130, 90)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.stack([torch.randint(0, s, (4000,), generator=generator) for s in (130, 90)], 1)
    features = torch.randn(3000, 16, generator=generator)
    found = trace(gaussians.to(device), camera.to(device), pixels.to(device), min_weight)
    want = trace(double(gaussians), camera, pixels, min_weight)
    assert torch.equal(found.pixels.cpu(), want.pixels) and torch.equal(found.order.cpu(), want.order)
    assert abs(len(found.ids) / len(want.ids) - 1) < 2e-3
    assert bool((found.weights >= min_weight).all()) and bool((found.weights > 0).all())
    assert_image(ops.blend(found, features.to(device)), ops.blend(want, features.double()), 5.0)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_garden(device: torch.device, data_dir: Path, index: int) -> None:
    gaussians, camera = garden(data_dir, index, shrink=4)
    features = torch.randn(len(gaussians), 16, generator=torch.Generator().manual_seed(1))
    found = render(gaussians.to(device), camera.to(device), features.to(device))
    want = render(double(gaussians), camera, features.double())
    assert_image(found.color, want.color, 2.0)
    assert_image(found.features, want.features, 5.0)
    generator = torch.Generator().manual_seed(index)
    pixels = torch.stack([torch.randint(0, s, (2000,), generator=generator) for s in (camera.width, camera.height)], 1)
    traced = trace(gaussians.to(device), camera.to(device), pixels.to(device), 0.0)
    blended = ops.blend(traced, features.to(device), traced.rows(torch.arange(2000, device=device)))
    assert_image(blended, want.features[pixels[:, 1], pixels[:, 0]], 5.0)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("d", [3, 8, 16, 24, 32, 40])
def test_blend_and_its_transpose(device: torch.device, d: int, half: bool) -> None:
    """Random rows with repeats; sums of about forty terms, and of thousands, in float32."""
    gaussians, camera = splat_scene(2000, 70, 45)
    c = trace(gaussians, camera, torch.randint(0, 45, (3000, 2), generator=torch.Generator().manual_seed(0)))
    c = c.half() if half else c
    features = torch.randn(2000, d)
    rows = torch.randint(0, 3000, (1500,))
    grad = torch.randn(1500, d)
    leaf = features.to(device).requires_grad_()
    blended = ops.blend(c.to(device), leaf, rows.to(device))
    (transposed,) = torch.autograd.grad(blended, leaf, grad.to(device))
    weights = c.weights.double()
    want = blend_reference.blend(c.offsets, c.ids, weights, features.double(), rows)
    torch.testing.assert_close(blended.detach().cpu().double(), want, rtol=1e-5, atol=1e-5)
    want = blend_reference.blend_transpose(c.offsets, c.ids, weights, grad.double(), rows, 2000)
    torch.testing.assert_close(transposed.cpu().double(), want, rtol=1e-4, atol=1e-4)


def test_deterministic_transposes_are_the_same_every_time(device: torch.device) -> None:
    gaussians, camera = splat_scene(2000, 70, 45)
    c = trace(gaussians, camera, torch.randint(0, 45, (3000, 2))).to(device)
    grad = torch.randn(3000, 16, device=device)
    leaf = torch.zeros(2000, 16, device=device, requires_grad=True)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        results = [torch.autograd.grad(ops.blend(c, leaf), leaf, grad)[0] for _ in range(5)]
    finally:
        torch.use_deterministic_algorithms(before)
    assert all(torch.equal(r, results[0]) for r in results)
    want = blend_reference.blend_transpose(c.offsets, c.ids, c.weights, grad, None, 2000)
    torch.testing.assert_close(results[0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("d", [8, 16, 24, 32])
def test_loss(device: torch.device, d: int) -> None:
    case = random_case(p=60, n=4000, d=d)
    leaf = case.features.double().requires_grad_()
    config = ops.LossConfig(min_pixels=5)
    want = loss_reference.hierarchical_contrastive_loss(leaf, case.patch, case.votes, None, config)
    (want_grad,) = torch.autograd.grad(want, leaf)
    on = case.to(device)
    loss, grad = ops.hierarchical_contrastive_loss_and_grad(
        on.features, on.patch, membership=on.membership, config=config
    )
    assert float(loss) == pytest.approx(float(want.detach()), rel=1e-5)
    assert_gradient(grad, want_grad, "features")


def test_sparse_adam_steps(device: torch.device) -> None:
    """Ten steps, touched rows only; then a gradient that is not finite, which every device names."""
    features = torch.randn(5000, 16)
    pair = [features.to(device), features.double()]
    optimizers = [ops.SparseFeatureAdam(f, ops.AdamConfig(norm_weight=3.0)) for f in pair]
    for step in range(10):
        grad = torch.randn(5000, 16, generator=torch.Generator().manual_seed(step))
        grad[torch.rand(5000, generator=torch.Generator().manual_seed(step)) < 0.7] = 0
        for f, optimizer in zip(pair, optimizers, strict=True):
            optimizer.accumulate_dense(grad.to(f))
            optimizer.step(0.01)
    torch.testing.assert_close(pair[0].cpu().double(), pair[1], rtol=1e-4, atol=1e-4)
    grad = torch.zeros(5000, 16, device=device)
    grad[[4321, 17]] = torch.nan
    optimizers[0].accumulate_dense(grad)
    with pytest.raises(SplatsegError, match="row 17"):
        optimizers[0].step()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("d", [3, 8, 16, 24, 32, 40])
def test_pooled_transpose_adam(device: torch.device, d: int, half: bool) -> None:
    """Columns for groups, warps and blocks, four steps; twice, with the same bits. A gradient that is not finite."""
    columns = some_columns(torch.float16 if half else torch.float32)
    one, other = (some_step(columns, d, torch.float32).to(device) for _ in "ab")
    want = some_step(columns, d, torch.float64)
    for at in range(len(SCHEDULE)):
        for step in (one, other, want):
            step.next(at)
            step.grad[9, d - 1] = torch.nan if at == 1 else 0
            step.move()
    assert int(one.bad) == int(want.bad) < len(want.state[0])
    for a, b, c in zip(one.state, other.state, want.state, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a.cpu().double(), c, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("d", "prepared"), [(3, True), (8, True), (16, True), (16, False), (24, True), (40, True)])
def test_pooled_loss(device: torch.device, d: int, prepared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of three views, one patch with 40 % of the pixels of one; tables from before the first step, or made in
    every step, where they would take too much memory. Deterministic ones twice, with the same bits."""
    if not prepared:
        monkeypatch.setattr("splatseg.ops.replay.TABLE_BYTES", 0)
    pools = [pool(900, 80, 0, torch.float16, 0.4), pool(300, 9, 1, torch.float16), pool(700, 130, 2, torch.float16)]
    wide = [replace(p, contributions=replace(p.contributions, weights=p.contributions.weights.double())) for p in pools]
    want = Steps.of(torch.float64, d, wide, 400)
    for deterministic in (False, True):
        one, other = (Steps.of(torch.float32, d, pools, 400).to(device) for _ in "ab")
        want.cells[0] = 0
        for at in range(len(POOL_SCHEDULE)):
            for s in (one, other, want):
                s.config = replace(s.config, deterministic=deterministic)
                s.grad.zero_()
                s.make()
            assert one.cells.tolist() == [at + 1, at, POOL_SCHEDULE[at]]
            assert not deterministic or torch.equal(one.grad, other.grad)
            scale = float(want.grad.abs().max())
            torch.testing.assert_close(one.grad.cpu().double(), want.grad, rtol=0, atol=1e-4 * scale)
            torch.testing.assert_close(one.losses[at].cpu().double(), want.losses[at], rtol=1e-4, atol=0)


def test_replayed_steps_are_single_steps(device: torch.device, world: Any) -> None:  # noqa: F811
    """On CUDA through a captured graph; batches as large as the pool, so that both see the same pixels."""
    gaussians, views, hierarchy_of, *_ = world
    config = small(steps=15, sampling=SamplingConfig(pool_pixels=1200, batch_pixels=1200))
    plain, replayed = (FeatureTrainer(gaussians.to(device), views, hierarchy_of, config) for _ in range(2))
    assert replayed.replays == can_replay(replayed.features)
    replayed.replays = True
    losses = [plain.step(step) for step in range(15)]
    for until in (5, 10, 15):
        assert replayed.advance(until - 5, until)[1] == pytest.approx(losses[until - 1], rel=1e-3)
    torch.testing.assert_close(replayed.features, plain.features, rtol=2e-2, atol=1e-3)


def test_feature_fit_is_that_of_the_cpu(device: torch.device, world: Any) -> None:  # noqa: F811
    """Thirty steps, also through full images: features point the same way as the CPU's."""
    gaussians, views, hierarchy_of, *_ = world
    whole = SamplingConfig(pool_pixels=100_000, batch_pixels=100_000)  # all pixels: no device draws its own
    fields = []
    for where, full in ((device, False), (device, True), (torch.device("cpu"), False)):
        trainer = FeatureTrainer(
            gaussians.to(where), views, hierarchy_of, small(steps=30, sampling=whole, full_render=full)
        )
        done = 0
        while done < 30:
            done += trainer.advance(done, 30)[0]
        fields.append(torch.nn.functional.normalize(trainer.features.cpu(), dim=1))
    for field in fields[:2]:
        assert float((field * fields[2]).sum(1).median()) > 0.99


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_geometry_fit(device: torch.device, scene: Any, strategy: str) -> None:  # noqa: F811
    """Random splits differ between devices; what is learned does not, within 1.5 dB after 120 steps."""
    config = SMALL if strategy == "default" else replace(SMALL, refine_stop=0.8).mcmc()
    found = fit_geometry(scene, config, device=device, hooks=FitHooks())
    want = fit_geometry(scene, config, hooks=FitHooks())
    assert psnr(found, scene.views) > psnr(want, scene.views) - 1.5
