"""The loss between a rendered and a real photograph, and the two figures images are compared by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims
from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.reference import photometric as reference


def photometric_loss(image: Tensor, target: Tensor, ssim_weight: float = 0.2) -> Tensor:
    """``(1 - ssim_weight) * mean |image - target| + ssim_weight * (1 - mean SSIM)``, the loss of 3DGS (eq. 7).

    SSIM is taken per channel over 11x11 Gaussian windows of sigma 1.5 with zeros outside the image ("same" padding, as
    3DGS and fused-ssim) and C1 = 0.01^2, C2 = 0.03^2 for values in [0, 1]. Differentiable in ``image`` (once); the
    gradient is computed along with the value. Same bits on every run and for any number of threads. A value that is
    not finite in either image makes the loss NaN or infinite.

    Args:
        image: (h, w, c) float32 or float64, usually in [0, 1]; not clamped.
        target: (h, w, c) uint8 (value / 255), or the dtype of ``image``. Constant.
        ssim_weight: in [0, 1].

    Returns:
        scalar, dtype of ``image``.

    Raises:
        SplatsegError: wrong shapes, dtypes or weight, an empty image, or a target that requires a gradient.
    """
    _check_images(image, target)
    if target.requires_grad:
        raise SplatsegError("target: expected a constant, found a tensor that requires a gradient")
    if not 0 <= ssim_weight <= 1:
        raise SplatsegError(f"ssim_weight: expected a number in 0..1, found {ssim_weight}")
    if not has_kernel("photometric", image):
        return _Reference.apply(image, target, ssim_weight)  # type: ignore[no-untyped-call,no-any-return]
    with_grad = image.requires_grad and torch.is_grad_enabled()
    return torch.ops.splatseg.photometric(image, target, ssim_weight, with_grad)[0]


class _Reference(torch.autograd.Function):
    """The reference and its gradient at full precision, for devices that have no kernel.

    cuDNN would convolve in TF32, whose rounding is as large as SSIM's variances; autograd would do so again later.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, ssim_weight: float) -> Tensor:
        with_grad = ctx.needs_input_grad[0]
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.set_grad_enabled(with_grad):
            leaf = image.detach().requires_grad_(with_grad)
            loss = reference.photometric(leaf, target, ssim_weight)
            if with_grad:
                ctx.save_for_backward(torch.autograd.grad(loss, leaf)[0])
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return ctx.saved_tensors[0] * grad, None, None


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Mean SSIM of two images, scalar in [-1, 1]; arguments, conventions and errors of :func:`photometric_loss`."""
    return 1 - photometric_loss(image, target, 1.0)


def psnr(image: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of images with values in [0, 1]: -10 log10(mean squared difference), dB; scalar.

    Infinite where the images are equal, NaN where no pixel counts. Arguments and errors of :func:`photometric_loss`;
    ``counts`` (h, w) bool: the pixels to compare, all if None.
    """
    _check_images(image, target)
    squares = (image - reference.as_image(target, image.dtype)).square()
    if counts is not None:
        check_dims("counts", counts, tuple(image.shape[:2]))
        squares = squares[counts]
    return -10 * squares.mean().log10()


def _check_images(image: Tensor, target: Tensor) -> None:
    sizes = check_dims("image", image, ("h", "w", "c"))
    check_dims("target", target, ("h", "w", "c"), sizes)
    if image.dtype not in (torch.float32, torch.float64):
        raise SplatsegError(f"image: expected float32 or float64, found {image.dtype}")
    if target.dtype not in (torch.uint8, image.dtype):
        raise SplatsegError(f"target: expected uint8 or {image.dtype}, found {target.dtype}")
    if image.numel() == 0:
        raise SplatsegError(f"image: expected at least one pixel, found shape {tuple(image.shape)}")


def _fake(image: Tensor, target: Tensor, ssim_weight: float, with_grad: bool) -> tuple[Tensor, Tensor]:
    return image.new_empty(()), image.new_empty(image.shape if with_grad else (0,))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.with_grad = inputs[3]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    if not ctx.with_grad:
        raise SplatsegError("photometric: backward needs with_grad=True in the forward call")
    (grad,) = ctx.saved_tensors
    return grad * grad_loss, None, None, None


if compiled():
    torch.library.register_fake("splatseg::photometric", _fake)
    torch.library.register_autograd("splatseg::photometric", _backward, setup_context=_setup_context)
