"""The CUDA kernels of the photometric loss, compiled by g++ against the host emulator, against the reference: no GPU
needed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from cuda_emulator.build import ORDERS, compile_for_host, in_order
from test_photometric import photo
from torch import Tensor

from splatseg.ops.reference import photometric as reference

# One pixel; less than a strip and than the window; the window; several tiles, the last ones cut off (tiles are 32 x 32
# in float32, 16 x 32 in float64); whole tiles only; higher than wide.
SIZES = [(1, 1), (5, 3), (11, 11), (33, 70), (32, 64), (70, 45)]
# Also each of the two terms alone.
CASES = [*((size, channels, 0.2) for size in SIZES for channels in (1, 3)), ((33, 70), 3, 0.0), ((33, 70), 3, 1.0)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_for_host("photometric_host.cpp", tmp_path_factory.mktemp("emulator"))


@pytest.fixture(params=ORDERS)
def library(compiled: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[ctypes.CDLL]:
    with in_order(compiled, request.param):
        yield compiled


def images(shape: tuple[int, int, int], dtype: torch.dtype, target_bytes: bool) -> tuple[Tensor, Tensor]:
    image, target = photo(*shape).to(dtype), photo(*shape, seed=1)
    return image, (target * 255).round().to(torch.uint8) if target_bytes else target.to(dtype)


def emulated(
    library: ctypes.CDLL,
    image: Tensor,
    target: Tensor,
    ssim_weight: float = 0.2,
    with_grad: bool = True,
) -> tuple[Tensor, Tensor]:
    """Value and gradient by the emulated kernels; the outputs are NaN before they are written."""
    assert image.is_contiguous() and target.is_contiguous()
    loss, grad = image.new_full((), torch.nan), torch.full_like(image, torch.nan)
    sizes = (ctypes.c_int * 4)(*image.shape, int(target.dtype == torch.uint8))
    function = library.photometric_double if image.dtype == torch.float64 else library.photometric_float
    pointers = [ctypes.c_void_p(t.data_ptr() if t is not grad or with_grad else 0) for t in (image, target, loss, grad)]
    function(*pointers[:2], sizes, ctypes.c_double(ssim_weight), *pointers[2:])
    return loss, grad


def expected(image: Tensor, target: Tensor, ssim_weight: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The reference in ``dtype``."""
    x = image.to(dtype).requires_grad_()
    loss = reference.photometric(x, target if target.dtype == torch.uint8 else target.to(dtype), ssim_weight)
    return loss.detach(), torch.autograd.grad(loss, x)[0]


@pytest.mark.parametrize(("size", "channels", "ssim_weight"), CASES)
@pytest.mark.parametrize("target_bytes", [False, True])
def test_float64_is_the_reference(
    library: ctypes.CDLL, size: tuple[int, int], channels: int, ssim_weight: float, target_bytes: bool
) -> None:
    image, target = images((*size, channels), torch.float64, target_bytes)
    found, want = (
        emulated(library, image, target, ssim_weight),
        expected(image, target, ssim_weight, torch.float64),
    )
    torch.testing.assert_close(found[0], want[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], want[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("size", "channels", "ssim_weight"), CASES)
@pytest.mark.parametrize("target_bytes", [False, True])
def test_float32_is_as_exact_as_the_reference(
    library: ctypes.CDLL, size: tuple[int, int], channels: int, ssim_weight: float, target_bytes: bool
) -> None:
    """Against float64: no worse than 4x what plain float32 PyTorch loses (plus 10 eps), as on the CPU."""
    image, target = images((*size, channels), torch.float32, target_bytes)
    loss, grad = emulated(library, image, target, ssim_weight)
    exact, exact_grad = expected(image, target, ssim_weight, torch.float64)
    rough, rough_grad = expected(image, target, ssim_weight, torch.float32)
    eps = torch.finfo(torch.float32).eps
    assert abs(loss - exact) <= 4 * abs(rough - exact) + 10 * eps
    scale = exact_grad.abs().max()
    assert (grad - exact_grad).abs().max() <= 4 * (rough_grad - exact_grad).abs().max() + 10 * eps * scale


def test_more_channels_than_colors(library: ctypes.CDLL) -> None:
    """Feature images: every channel is one of its own."""
    image, target = images((9, 40, 7), torch.float64, False)
    found, want = emulated(library, image, target), expected(image, target, 0.2, torch.float64)
    torch.testing.assert_close(found[0], want[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], want[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("target_bytes", [False, True])
def test_same_bits_in_any_order_of_threads(compiled: ctypes.CDLL, dtype: torch.dtype, target_bytes: bool) -> None:
    image, target = images((33, 70, 3), dtype, target_bytes)
    found = []
    for order in (*ORDERS, "forward"):
        with in_order(compiled, order):
            found.append(emulated(compiled, image, target))
    assert all(torch.equal(a, b) for result in found[1:] for a, b in zip(found[0], result, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_gradient(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    """The same value, and neither the gradient nor scratch for it is touched (there is none)."""
    image, target = images((33, 70, 3), dtype, True)
    loss, grad = emulated(library, image, target, with_grad=False)
    assert torch.equal(loss, emulated(library, image, target)[0]) and grad.isnan().all()


@pytest.mark.parametrize("target_bytes", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_identical_images(library: ctypes.CDLL, size: tuple[int, int], target_bytes: bool) -> None:
    """Loss 0 and no pull; L1 alone is exactly 0, as a byte is the same float32 as in the reference."""
    target = images((*size, 3), torch.float32, target_bytes)[1]
    image = reference.as_image(target, torch.float32)
    loss, grad = emulated(library, image, target)
    # SSIM = a / b with a = b up to rounding; its derivatives cancel to rounding of terms up to 1 / C2.
    assert abs(float(loss)) < 1e-6 and float(grad.abs().max()) < 1e-4 / image.numel()
    loss, grad = emulated(library, image, target, 0.0)
    assert float(loss) == 0 and not grad.any()


@pytest.mark.parametrize("ssim_weight", [0.0, 0.2, 1.0])
def test_poison_shows_in_the_loss(library: ctypes.CDLL, ssim_weight: float) -> None:
    """One NaN pixel, in the last tile."""
    image, target = images((33, 70, 3), torch.float32, False)
    image[32, 69, 1] = torch.nan
    assert emulated(library, image, target, ssim_weight)[0].isnan()
