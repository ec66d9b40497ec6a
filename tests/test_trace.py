"""trace: the blending weights of chosen pixels, and that blending with them is rendering."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from splatseg import ops
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.ops import Contributions
from splatseg.ops.extension import compiled
from splatseg.ops.rasterize import RenderConfig, Splats
from splatseg.ops.reference import trace as reference
from splatseg.ops.reference.trace import row_order
from splatseg.ops.trace_tiles import pixel_ranks
from splatseg.render import render, trace, tracer


def scene(n: int, width: int = 70, height: int = 45, seed: int = 0) -> tuple[Gaussians, Camera]:
    """n Gaussians before, beside and behind an off-center, turned camera; thin and thick, faint and opaque."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    means = (uniform(n, 3) - torch.tensor([0.5, 0.5, 0.15])) * torch.tensor([4.0, 3.0, 6.0])
    gaussians = Gaussians(
        means=means,
        quats=uniform(n, 4) - 0.5,
        log_scales=uniform(n, 3) * 2.5 - 4.5,
        opacity_logits=uniform(n) * 8 - 4,
        sh=uniform(n, 1, 3),
    )
    angle = torch.tensor(0.2)
    pose = torch.eye(4)
    pose[0, 0], pose[0, 2] = angle.cos(), angle.sin()
    pose[2, 0], pose[2, 2] = -angle.sin(), angle.cos()
    pose[:3, 3] = torch.tensor([0.1, -0.2, 0.3])
    K = torch.tensor([[0.9 * width, 0, 0.45 * width], [0, 0.85 * width, 0.55 * height], [0, 0, 1]])
    return gaussians, Camera(K, pose, width, height)


def every_pixel(camera: Camera) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    return torch.stack([columns, rows], dim=2).reshape(-1, 2)


def dense(c: Contributions, n: int) -> Tensor:
    """(m, n) weights in the order of the input pixels; a Gaussian met twice in a row would add up and show."""
    return ops.blend(c, torch.eye(n, dtype=c.weights.dtype), c.rows(torch.arange(len(c))))


def splats_of(g: Gaussians) -> Splats:
    return Splats(g.means, g.quats, g.scales, g.opacities, g.sh)


def test_extension_is_built() -> None:
    assert compiled()


@pytest.mark.parametrize("n", [1, 60, 4000])
def test_blending_traced_weights_is_rendering(n: int) -> None:
    """In an image whose sides are no multiple of 16, in random order with repeats; n = 4000 saturates."""
    gaussians, camera = scene(n)
    features = torch.randn(n, 16)
    pixels = every_pixel(camera)[torch.randint(0, 70 * 45, (5000,))]
    contributions = trace(gaussians, camera, pixels, min_weight=0.0)
    rendered = render(gaussians, camera, features)
    assert rendered.features is not None
    expected = rendered.features[pixels[:, 1], pixels[:, 0]]
    blended = ops.blend(contributions, features, contributions.rows(torch.arange(5000)))
    # Weights sum to at most 1 and features are up to about 4.5: sums in another order, in float32.
    assert (blended - expected).abs().max() < 1e-5
    alpha = contributions.alpha[contributions.rows(torch.arange(5000))]
    assert (alpha - rendered.alpha[pixels[:, 1], pixels[:, 0]]).abs().max() < 1e-5


def test_matches_the_reference() -> None:
    """Rows, offsets, ids in depth order and weights, in double precision: the same entries, one by one."""
    gaussians, camera = scene(300, width=37, height=21)
    g = Gaussians(**{name: tensor.double() for name, tensor in gaussians.tensors().items()})
    pixels = every_pixel(camera)[torch.randperm(37 * 21)].to(torch.int32)
    s = splats_of(g)
    for min_weight in (0.0, 1e-3, 0.3):
        c = ops.trace(s, camera, pixels, min_weight)
        view = (camera.K, camera.cam_from_world, pixels, 37, 21, 0.3, 0.01, 1e10)
        expected = reference.trace(s.means, s.quats, s.scales, s.opacities, *view, min_weight)
        for name, value in zip(("pixels", "order", "offsets", "ids"), expected, strict=False):
            assert torch.equal(getattr(c, name), value), f"{name} at min_weight {min_weight}"
        assert torch.allclose(c.weights, expected[4], rtol=1e-9, atol=1e-12)
        assert int((c.counts == 0).sum()) > 0, "pixels that show nothing are part of the test"


def test_dropped_weights_still_hide() -> None:
    """min_weight leaves small weights out but changes no other: what they hid stays hidden. What is lost is bounded."""
    gaussians, camera = scene(4000)
    pixels = every_pixel(camera)
    everything, kept = (dense(trace(gaussians, camera, pixels, w), 4000) for w in (0.0, 1e-3))
    assert torch.equal(kept, torch.where(everything >= 1e-3, everything, 0.0))
    lost = (everything.sum() - kept.sum()) / everything.sum()
    assert 0 < lost < 0.02
    print(f"lost weight at 1e-3: {lost:.2%}")


def test_rows_map_back_to_the_pixels_asked_for() -> None:
    """Duplicates get equal rows; ``order`` and ``pixels`` say whose row is whose; rows are sorted by tile."""
    gaussians, camera = scene(500)
    pixels = torch.tensor([[69, 44], [0, 0], [20, 30], [0, 0], [33, 17], [69, 44]])
    c = trace(gaussians, camera, pixels)
    assert torch.equal(pixels[c.order], c.pixels.long())
    tiles = c.pixels[:, 1] // 16 * 5 + c.pixels[:, 0] // 16
    assert torch.equal(tiles, tiles.sort().values)
    rows = dense(c, 500)
    assert torch.equal(rows[0], rows[5]) and torch.equal(rows[1], rows[3]) and not torch.equal(rows[0], rows[2])
    alone = dense(trace(gaussians, camera, pixels[2:3]), 500)
    assert torch.equal(alone[0], rows[2]), "a pixel's row does not depend on its company"


def test_front_to_back() -> None:
    gaussians, camera = scene(500)
    c = trace(gaussians, camera, every_pixel(camera))
    depths = camera.project(gaussians.means)[1][c.ids.long()]
    same_row = c.entry_rows().diff() == 0
    assert (depths.diff()[same_row] >= 0).all() and same_row.any()


def test_nothing_to_see() -> None:
    """No pixels; no Gaussians; all of them behind the camera; an empty row between full ones."""
    gaussians, camera = scene(50)
    none = trace(gaussians, camera, torch.zeros(0, 2, dtype=torch.int64))
    assert len(none) == 0 and none.ids.numel() == 0 and torch.equal(none.offsets, torch.zeros(1, dtype=torch.int64))
    pixels = every_pixel(camera)
    empty = trace(gaussians.select(torch.zeros(50, dtype=torch.bool)), camera, pixels)
    assert len(empty) == 70 * 45 and empty.ids.numel() == 0
    behind = trace(gaussians.select(camera.project(gaussians.means)[1] < 0), camera, pixels)
    assert behind.ids.numel() == 0
    small = Gaussians(
        means=torch.tensor([[0.0, 0.0, 4.0]]),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        log_scales=torch.full((1, 3), -6.0),
        opacity_logits=torch.tensor([3.0]),
        sh=torch.zeros(1, 1, 3),
    )
    camera = Camera(torch.tensor([[50.0, 0, 32.5], [0, 50, 16.5], [0, 0, 1]]), torch.eye(4), 64, 32)
    counts = trace(small, camera, torch.tensor([[32, 16], [50, 16], [32, 16], [0, 31]])).counts
    assert sorted(counts.tolist()) == [0, 0, 1, 1]


def test_no_cap_on_contributions() -> None:
    """6000 faint Gaussians in one pixel's way are all there: more than any fixed buffer of the walk."""
    n = 6000
    gaussians = Gaussians(
        means=torch.cat([torch.zeros(n, 2), 2 + torch.rand(n, 1)], dim=1),
        quats=torch.tensor([[1.0, 0, 0, 0]]).expand(n, 4),
        log_scales=torch.full((n, 3), -1.0),
        opacity_logits=torch.full((n,), 0.0045).logit(),
        sh=torch.zeros(n, 1, 3),
    )
    camera = Camera(torch.tensor([[20.0, 0, 8.5], [0, 20, 8.5], [0, 0, 1]]), torch.eye(4), 17, 17)
    c = trace(gaussians, camera, torch.tensor([[8, 8]]), min_weight=0.0)
    # Transmittance after k of them is 0.9955^k, which reaches the limit of 1e-4 at k = 2043.
    assert c.ids.unique().numel() == c.ids.numel() == 2042
    assert (c.weights.diff() < 0).all()


def test_same_bits_for_any_thread_count() -> None:
    gaussians, camera = scene(3000)
    pixels = every_pixel(camera)[torch.randperm(70 * 45)[:2000]]
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(trace(gaussians, camera, pixels))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name in ("pixels", "order", "offsets", "ids", "weights"):
            assert torch.equal(getattr(results[0], name), getattr(other, name)), name


def test_no_gradient_and_opcheck() -> None:
    """Geometry is constant here, also where it asks for gradients; schema and fake hold."""
    gaussians, camera = scene(40)
    leaves = Gaussians(**{name: t.clone().requires_grad_() for name, t in gaussians.tensors().items()})
    assert not trace(leaves, camera, torch.tensor([[3, 4]])).weights.requires_grad
    s = splats_of(gaussians)
    pixels = torch.tensor([[3, 4], [60, 40]], dtype=torch.int32)
    args = (s.means, s.quats, s.scales, s.opacities, camera.K, camera.cam_from_world, pixels)
    torch.library.opcheck(torch.ops.splatseg.trace.default, (*args, 70, 45, 0.3, 0.01, 1e10, 1e-3))


def test_settings_are_those_of_render() -> None:
    """near, far and eps2d cut and blur here as they do in render."""
    gaussians, camera = scene(400)
    config = RenderConfig(eps2d=1.5, near=1.0, far=3.0)
    features = torch.randn(400, 8)
    pixels = every_pixel(camera)
    c = trace(gaussians, camera, pixels, 0.0, config)
    expected = render(gaussians, camera, features, config).features
    assert expected is not None
    blended = ops.blend(c, features, c.rows(torch.arange(len(c))))
    assert (blended - expected.reshape(-1, 8)).abs().max() < 1e-5


@pytest.mark.parametrize("use_extension", [True, False])
def test_bad_input_is_named(use_extension: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not use_extension:
        monkeypatch.setattr(sys.modules["splatseg.ops.trace"], "has_kernel", lambda *_: False)
    gaussians, camera = scene(20)
    inside = torch.tensor([[0, 0]])
    for pixel in ([70, 0], [0, 45], [-1, 3], [3, -1], [2**31 + 3, 3]):
        with pytest.raises(
            SplatsegError, match=r"pixels: expected columns in 0\.\.69 and rows in 0\.\.44, found .* 1$"
        ):
            trace(gaussians, camera, torch.cat([inside, torch.tensor([pixel])]))
    with pytest.raises(SplatsegError, match="pixels: expected shape"):
        trace(gaussians, camera, torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(SplatsegError, match="pixels: expected integers"):
        trace(gaussians, camera, torch.zeros(4, 2))
    for weight in (-0.1, 1.5, float("nan")):
        with pytest.raises(SplatsegError, match="min_weight"):
            trace(gaussians, camera, inside, weight)
    for name in ("means", "quats", "log_scales", "opacity_logits"):
        tensors = {key: t.clone() for key, t in gaussians.tensors().items()}
        tensors[name].view(-1)[-1] = float("nan")
        with pytest.raises(SplatsegError, match=r"(means|quats|scales|opacities): expected finite"):
            trace(Gaussians(**tensors), camera, inside)


def test_a_tracer_serves_several_sets_of_pixels(device: torch.device) -> None:
    gaussians, camera = scene(300, seed=4)
    gaussians = gaussians.to(device)
    ask = tracer(gaussians, camera, RenderConfig(check_finite=False))
    pixels = every_pixel(camera).to(device)
    for chosen, least in ((pixels[::3], 1e-3), (pixels.flip(0), 0.0), (pixels[:0], 1e-3), (pixels[::3], 1e-3)):
        found, want = ask(chosen, least), trace(gaussians, camera, chosen, least)
        assert torch.equal(found.order, want.order) and torch.equal(found.offsets, want.offsets)
        assert torch.equal(found.ids, want.ids) and torch.equal(found.weights, want.weights)
    assert not ask(pixels[:5], 0.0).weights.requires_grad


def test_pixel_ranks_are_the_order_of_rows(device: torch.device) -> None:
    for size in ((37, 27), (16, 16), (33, 50), (37, 27)):
        width, height = size
        pixels = torch.stack([torch.randint(0, side, (400,)) for side in size], dim=1).to(device)
        ranks = pixel_ranks(size, device)[pixels[:, 1] * width + pixels[:, 0]]
        assert torch.equal(ranks.argsort(stable=True), row_order(pixels, width))
        assert len(pixel_ranks(size, device).unique()) == width * height
