"""The photometric loss: L1 + D-SSIM with its analytic gradient, and the figures SSIM and PSNR."""

from __future__ import annotations

import math

import pytest
import skimage.metrics
import torch
from torch import Tensor

from splatseg import ops
from splatseg.core.errors import SplatsegError
from splatseg.ops.extension import compiled
from splatseg.ops.reference import photometric as reference


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth waves plus noise in [0, 1], on the CPU: SSIM between two of them is neither 0 nor 1."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 6, height), torch.linspace(0, 9, width), indexing="ij")
    waves = torch.stack([torch.sin(x + c + 0.3 * seed) * torch.cos(y - c) for c in range(channels)], dim=2)
    noise = torch.rand(height, width, channels, generator=generator)
    return (0.5 + 0.35 * waves + 0.15 * (noise - 0.5)).clamp(0, 1)


def test_extension_is_built() -> None:
    assert compiled()


# One pixel; smaller than the window; sides that fill no vector; a side of whole vectors; more rows than one band.
SHAPES = [(1, 1, 3), (4, 3, 3), (11, 11, 1), (13, 37, 3), (16, 64, 4), (70, 45, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ssim_weight", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("bytes_target", [False, True])
def test_value_and_gradient_match_the_reference(
    device: torch.device, shape: tuple[int, int, int], ssim_weight: float, bytes_target: bool
) -> None:
    """float32 against the float64 reference: no worse than 4x what plain float32 PyTorch loses (plus 10 eps)."""
    image = photo(*shape).requires_grad_()
    target = photo(*shape, seed=1)
    if bytes_target:
        target = (target * 255).round().to(torch.uint8)
    loss = ops.photometric_loss(image.to(device), target.to(device), ssim_weight)
    assert loss.device.type == device.type and loss.shape == ()
    (grad,) = torch.autograd.grad(loss, image)

    def plain(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x = image.detach().to(dtype).requires_grad_()
        value = reference.photometric(x, target if bytes_target else target.to(dtype), ssim_weight)
        return value.detach(), torch.autograd.grad(value, x)[0]

    (exact, exact_grad), (rough, rough_grad) = plain(torch.float64), plain(torch.float32)
    eps = torch.finfo(torch.float32).eps
    assert abs(loss.cpu() - exact) <= 4 * abs(rough - exact) + 10 * eps
    # Gradients are of size 1 / pixels; SSIM's are up to about 1 / C2 of that where windows are flat.
    scale = exact_grad.abs().max()
    assert (grad - exact_grad).abs().max() <= 4 * (rough_grad - exact_grad).abs().max() + 10 * eps * scale


@pytest.mark.parametrize("shape", SHAPES)
def test_double_path_equals_the_reference(device: torch.device, shape: tuple[int, int, int]) -> None:
    image, target = photo(*shape).double().requires_grad_(), photo(*shape, seed=1).double()
    loss = ops.photometric_loss(image.to(device), target.to(device))
    expected = reference.photometric(image, target, 0.2)
    assert torch.allclose(loss.cpu(), expected, rtol=1e-12)
    (grad,), (expected_grad,) = torch.autograd.grad(loss, image), torch.autograd.grad(expected, image)
    assert torch.allclose(grad, expected_grad, rtol=1e-9, atol=1e-12)


def test_gradcheck_and_opcheck(device: torch.device) -> None:
    image, target = photo(7, 6).double().to(device).requires_grad_(), photo(7, 6, seed=1).double().to(device)
    assert torch.autograd.gradcheck(lambda x: ops.photometric_loss(3 * x, target, 0.3), image)
    for with_grad in (True, False):
        x = image if with_grad else image.detach()
        torch.library.opcheck(torch.ops.splatseg.photometric.default, (x, target, 0.2, with_grad))


def test_gradient_where_images_are_equal(device: torch.device) -> None:
    """The perfect render: loss 0 and no pull, neither from the kink of L1 nor from the maximum of SSIM."""
    image = photo(20, 30).to(device).requires_grad_()
    loss = ops.photometric_loss(image, image.detach())
    loss.backward()
    assert image.grad is not None
    # SSIM = a / b with a = b up to rounding; its derivatives cancel to rounding of terms up to 1 / C2, over 1800.
    assert abs(loss.item()) < 1e-6 and image.grad.abs().max() < 1e-4 / 1800


def test_ssim_is_that_of_scikit_image_inside_the_border() -> None:
    """Gaussian windows, population covariance; it mirrors at the border, so only inner pixels are compared."""
    a, b = photo(60, 50).double(), photo(60, 50, seed=1).double()
    _, expected = skimage.metrics.structural_similarity(
        a.numpy(), b.numpy(), channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5, truncate=5 / 1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    inner = torch.from_numpy(expected)[5:-5, 5:-5]
    assert torch.allclose(reference.ssim_map(a, b)[5:-5, 5:-5], inner, atol=1e-9)
    assert torch.allclose(ops.ssim(a, b), reference.ssim_map(a, b).mean(), rtol=1e-12)


def test_ssim_and_psnr_values() -> None:
    image = photo(30, 40)
    assert abs(ops.ssim(image, image).item() - 1) < 1e-6
    assert torch.isinf(ops.psnr(image, image))
    darker = torch.full((5, 5, 3), 0.5)
    assert ops.psnr(darker, darker + 0.1).item() == pytest.approx(20.0, abs=1e-4)
    assert ops.psnr(darker, torch.zeros(5, 5, 3, dtype=torch.uint8)).item() == pytest.approx(-20 * math.log10(0.5))
    half = torch.zeros(5, 5, dtype=torch.bool)
    assert torch.isnan(ops.psnr(darker, darker, half))
    half[2] = True
    brighter = torch.where(half[..., None], darker + 0.1, darker + 0.4)
    assert ops.psnr(darker, brighter, half).item() == pytest.approx(20.0, abs=1e-4)
    with pytest.raises(SplatsegError, match="counts"):
        ops.psnr(darker, brighter, half[:3])


def test_same_bits_for_any_thread_count() -> None:
    image, target = photo(150, 40).requires_grad_(), photo(150, 40, seed=1)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            loss = ops.photometric_loss(image, target)
            results.append((loss, torch.autograd.grad(loss, image)[0]))
    finally:
        torch.set_num_threads(before)
    for loss, grad in results[1:]:
        assert torch.equal(loss, results[0][0]) and torch.equal(grad, results[0][1])


@pytest.mark.parametrize("with_grad", [False, True])
def test_same_bits_every_time(device: torch.device, with_grad: bool) -> None:
    image, target = photo(150, 40).to(device).requires_grad_(with_grad), photo(150, 40, seed=1).to(device)
    results = [ops.photometric_loss(image, target) for _ in range(5)]
    assert all(torch.equal(loss, results[0]) for loss in results)
    if with_grad:
        grads = [torch.autograd.grad(loss, image)[0] for loss in results]
        assert all(torch.equal(grad, grads[0]) for grad in grads)


def test_strided_image(device: torch.device) -> None:
    """A channels-first render seen through permute gives what its copy gives."""
    planes = photo(20, 30).to(device).permute(2, 0, 1).contiguous()
    target = photo(20, 30, seed=1).to(device)
    strided = planes.permute(1, 2, 0)
    assert torch.equal(ops.photometric_loss(strided, target), ops.photometric_loss(strided.contiguous(), target))


@pytest.mark.parametrize("ssim_weight", [0.0, 0.2, 1.0])
def test_poison_shows_in_the_loss(device: torch.device, ssim_weight: float) -> None:
    """One NaN pixel makes the loss NaN, never a plausible number."""
    image = photo(20, 30).to(device)
    image[3, 4, 1] = float("nan")
    assert ops.photometric_loss(image, photo(20, 30).to(device), ssim_weight).isnan()


def test_bad_input_is_named() -> None:
    image, target = photo(5, 6), photo(5, 6, seed=1)
    cases = [
        (image[..., 0], target, 0.2, "image: expected shape"),
        (image, target[:4], 0.2, "target: expected shape"),
        (image.half(), target, 0.2, "image: expected float32"),
        (image, target.double(), 0.2, "target: expected uint8"),
        (image, target.clone().requires_grad_(), 0.2, "target: expected a constant"),
        (image, target, 1.5, "ssim_weight"),
        (image, target, float("nan"), "ssim_weight"),
        (image[:0], target[:0], 0.2, "at least one pixel"),
    ]
    for x, t, weight, message in cases:
        with pytest.raises(SplatsegError, match=message):
            ops.photometric_loss(x, t, weight)
