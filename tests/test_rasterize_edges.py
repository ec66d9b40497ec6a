"""Degenerate scenes and poisoned inputs of the rasterizer: the right image and finite gradients, or a named error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.ops.rasterize import Means2dProbe, RenderConfig, Rendered, Splats, rasterize

BACKGROUND = (0.25, 0.5, 0.75)


def make_camera(width: int = 40, height: int = 24) -> Camera:
    K = torch.tensor([[30.0, 0, width / 2], [0, 30.0, height / 2], [0, 0, 1]])
    return Camera(K, torch.eye(4), width, height)


def make_splats(n: int, depth: float = 2.0, scale: float = 0.1, opacity: float = 0.5) -> Splats:
    """``n`` Gaussians of red 0.9 in a row along x at one depth; distinct quaternions."""
    means = torch.zeros(n, 3)
    means[:, 0] = torch.linspace(-0.5, 0.5, n) if n > 1 else 0.0
    means[:, 2] = depth
    sh = torch.zeros(n, 1, 3)
    sh[:, 0, 0] = 0.4 / 0.28209479177387814
    quats = torch.tensor([1.0, 0.2, -0.3, 0.1]).repeat(n, 1)
    return Splats(means, quats, torch.full((n, 3), scale), torch.full((n,), opacity), sh)


def draw(splats: Splats, features: Tensor | None = None, camera: Camera | None = None) -> tuple[Rendered, list[Tensor]]:
    """The drawing and all gradients of the sum of its outputs."""
    leaves = [t.clone().requires_grad_() for t in vars(splats).values()]
    probe = Means2dProbe.zeros(len(splats.means), "cpu")
    if features is not None:
        features = features.clone().requires_grad_()
    drawing = rasterize(Splats(*leaves), camera or make_camera(), features, RenderConfig(background=BACKGROUND), probe)
    total = drawing.color.sum() + drawing.alpha.sum() + drawing.depth.sum()
    wanted = [*leaves, probe.means2d, probe.absgrad]
    if features is not None and drawing.features is not None:
        total = total + drawing.features.sum()
        wanted.append(features)
    total.backward()
    grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in wanted]
    assert all(bool(torch.isfinite(g).all()) for g in grads)
    return drawing, grads


def assert_empty(drawing: Rendered, grads: list[Tensor]) -> None:
    assert torch.equal(drawing.color, torch.tensor(BACKGROUND).expand(24, 40, 3))
    assert not drawing.alpha.any() and not drawing.depth.any() and not drawing.radii.any()
    assert drawing.features is None or not drawing.features.any()
    assert not any(bool(g.any()) for g in grads)


def test_no_gaussians() -> None:
    drawing, grads = draw(make_splats(0), torch.zeros(0, 3))
    assert drawing.features is not None and drawing.features.shape == (24, 40, 3)
    assert_empty(drawing, grads)


def test_all_behind_the_camera() -> None:
    assert_empty(*draw(make_splats(5, depth=-2.0), torch.ones(5, 3)))


def test_on_the_camera_plane() -> None:
    """z = 0 divides by zero in every lane of the vector code."""
    assert_empty(*draw(make_splats(9, depth=0.0)))


def test_beyond_far_and_before_near() -> None:
    splats, camera = make_splats(3), make_camera()
    assert rasterize(splats, camera, config=RenderConfig(far=1.9)).alpha.max() == 0
    assert rasterize(splats, camera, config=RenderConfig(near=2.1)).alpha.max() == 0
    assert rasterize(splats, camera, config=RenderConfig(near=2.0, far=2.0)).alpha.max() > 0


def test_all_transparent() -> None:
    """Opacities below 1/255 are not drawn at all."""
    assert_empty(*draw(make_splats(5, opacity=0.0039)))
    assert_empty(*draw(make_splats(5, opacity=0.0)))


def test_all_outside_the_image() -> None:
    splats = make_splats(5)
    assert_empty(*draw(replace(splats, means=splats.means + torch.tensor([50.0, 0, 0]))))


def test_between_pixel_centers() -> None:
    """Drawn by gsplat's count (radii > 0) though so faint that it reaches no pixel center."""
    splats = replace(make_splats(1, scale=1e-4, opacity=0.005), means=torch.tensor([[0.0, 0.0, 2.0]]))
    drawing, _ = draw(splats)
    assert (drawing.radii > 0).all()
    assert drawing.alpha.max() == 0


def test_needle_and_plate_and_point() -> None:
    """Covariances of rank 1, 2 and 0 (scales of exactly 0): eps2d alone keeps them drawable."""
    splats = make_splats(3)
    scales = torch.tensor([[1.0, 0, 0], [1.0, 1.0, 0], [0, 0, 0]])
    drawing, _ = draw(replace(splats, scales=scales))
    assert (drawing.radii > 0).all()
    assert drawing.alpha.max() > 0.4


def test_zero_length_quaternion_is_the_identity() -> None:
    splats = make_splats(2)
    splats = replace(splats, scales=torch.tensor([[0.3, 0.1, 0.05]]).repeat(2, 1))
    zero, grads = draw(replace(splats, quats=torch.zeros(2, 4)))
    unit, _ = draw(replace(splats, quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1)))
    assert torch.equal(zero.color, unit.color)
    assert not grads[1].any()


def test_quaternion_length_does_not_matter() -> None:
    splats = make_splats(2)
    splats = replace(splats, scales=torch.tensor([[0.3, 0.1, 0.05]]).repeat(2, 1))
    short, long = draw(splats)[0], draw(replace(splats, quats=splats.quats * 1000))[0]
    torch.testing.assert_close(short.color, long.color, rtol=0, atol=1e-6)


def test_huge_gaussian_covers_everything() -> None:
    """Box far outside the image on all sides, radii beyond 16 bits."""
    drawing, _ = draw(make_splats(1, scale=1e5, opacity=0.7))
    torch.testing.assert_close(drawing.alpha, torch.full((24, 40), 0.7), rtol=0, atol=1e-5)
    torch.testing.assert_close(drawing.depth, torch.full((24, 40), 2.0), rtol=0, atol=1e-5)
    assert drawing.radii.min() > 32767


def test_transmittance_stops() -> None:
    """Alpha 0.9 at one pixel, again and again: the fourth would bring the transmittance to 1e-4, so three are drawn."""
    splats = make_splats(6, scale=1e4, opacity=0.9)
    means = torch.zeros(6, 3)
    means[:, 2] = torch.arange(6) + 2.0
    features = torch.eye(6)
    drawing, grads = draw(replace(splats, means=means), features)
    assert drawing.features is not None
    expected = torch.tensor([0.9, 0.09, 0.009, 0, 0, 0])
    # 1 - 3 * 0.9 leaves 1e-3; the fourth leaves 1e-4 within rounding of the limit, either side of it.
    found = drawing.features[12, 20]
    torch.testing.assert_close(found[:3], expected[:3], rtol=1e-3, atol=0)
    assert not found[4:].any()
    assert (1 - drawing.alpha).min() > 0.9e-4
    assert not grads[-1][4:].any()


def test_alpha_is_clamped() -> None:
    """Opacity 1 at its center gives alpha 0.999, and the clamp passes no gradient there."""
    drawing, grads = draw(make_splats(1, scale=1e5, opacity=1.0))
    torch.testing.assert_close(drawing.alpha, torch.full((24, 40), 0.999), rtol=0, atol=1e-6)
    assert not grads[3].any()


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 15), (33, 50)])
def test_image_sizes_around_the_tile(size: tuple[int, int]) -> None:
    """Every pixel of a covering Gaussian is drawn, also in the ragged last tiles."""
    camera = make_camera(*size)
    drawing, _ = draw(make_splats(1, scale=1e4, opacity=0.5), torch.ones(1, 2), camera)
    assert drawing.alpha.shape == (size[1], size[0])
    torch.testing.assert_close(drawing.alpha, torch.full((size[1], size[0]), 0.5), rtol=0, atol=1e-4)
    assert drawing.features is not None and float(drawing.features.min()) > 0.49


def test_equal_depths_keep_their_order() -> None:
    """Ties go by index, as gsplat's stable sort has them."""
    splats = make_splats(2, scale=1e4, opacity=0.5)
    splats = replace(splats, means=torch.tensor([[0.0, 0, 2], [0.0, 0, 2]]))
    drawing, _ = draw(splats, torch.eye(2))
    assert drawing.features is not None
    torch.testing.assert_close(drawing.features[0, 0], torch.tensor([0.5, 0.25]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "sh", "features"])
def test_poison_is_named(name: str, poison: float) -> None:
    splats, features = make_splats(11), torch.ones(11, 4)
    tensor = features if name == "features" else getattr(splats, name).clone()
    tensor[7].fill_(poison)
    if name != "features":
        splats = replace(splats, **{name: tensor})
    with pytest.raises(SplatsegError, match=f"^{name}: expected finite values") as raised:
        rasterize(splats, make_camera(), features)
    assert "\n" not in str(raised.value)


def test_settings_out_of_range() -> None:
    splats, camera = make_splats(3), make_camera()
    with pytest.raises(SplatsegError, match="sh_degree: expected"):
        rasterize(splats, camera, config=RenderConfig(sh_degree=2))
    with pytest.raises(SplatsegError, match="near: expected"):
        rasterize(splats, camera, config=RenderConfig(near=-1.0))
    with pytest.raises(SplatsegError, match="background: expected 3 values"):
        rasterize(splats, camera, config=RenderConfig(background=(0.0, 1.0)))  # type: ignore[arg-type]
    with pytest.raises(SplatsegError, match="quats: expected dtype"):
        rasterize(replace(splats, quats=splats.quats.double()), camera)
