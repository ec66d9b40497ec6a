"""``trace``: which Gaussians chosen pixels show, and with what blending weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError, check_dims, check_finite
from splatseg.ops.contributions import Contributions
from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.rasterize import RenderConfig, Splats
from splatseg.ops.reference.trace import trace as reference

DEFAULT = RenderConfig()


@torch.no_grad()
def trace(
    splats: Splats, camera: Camera, pixels: Tensor, min_weight: float = 1e-3, config: RenderConfig = DEFAULT
) -> Contributions:
    """Blending weights of ``pixels``, as ``rasterize`` uses them: same projection, order, cut-offs and arithmetic.

    Not differentiable: a feature fit holds the geometry fixed. Weights below ``min_weight`` are left out of the result,
    but their Gaussians still hide what is behind. No pixel has too many contributions. The result is the same for any
    number of threads.

    Args:
        splats: n Gaussians in activated form, float32 or float64; ``sh`` is not read.
        camera: the view.
        pixels: (m, 2) integer [column, row], in any order, repeats allowed.
        min_weight: least weight kept, in [0, 1]; 0 keeps all.
        config: ``eps2d``, ``near`` and ``far`` are read.

    Raises:
        SplatsegError: a pixel outside the image, shapes or dtypes that do not fit, a non-finite input, a setting out of
            range.
    """
    _check(splats, camera, pixels, min_weight)
    tensors = (splats.means, splats.quats, splats.scales, splats.opacities)
    call = (*tensors, camera.K, camera.cam_from_world, pixels.to(torch.int32), camera.width, camera.height)
    run = torch.ops.splatseg.trace if has_kernel("trace", splats.means) else reference
    try:
        return Contributions(*run(*call, config.eps2d, *config.depths(camera), min_weight))
    except ValueError as error:
        for name, tensor in zip(("means", "quats", "scales", "opacities"), tensors, strict=True):
            check_finite(name, tensor)
        raise SplatsegError(str(error).splitlines()[0]) from None


def _check(splats: Splats, camera: Camera, pixels: Tensor, min_weight: float) -> None:
    sizes = check_dims("means", splats.means, ("n", 3))
    check_dims("quats", splats.quats, ("n", 4), sizes)
    check_dims("scales", splats.scales, ("n", 3), sizes)
    check_dims("opacities", splats.opacities, ("n",), sizes)
    check_pixels(pixels, (camera.width, camera.height))
    check_min_weight(min_weight)


def check_min_weight(min_weight: float) -> None:
    """Raise :class:`SplatsegError` unless a weight may be that large."""
    if not (0 <= min_weight <= 1 and math.isfinite(min_weight)):
        raise SplatsegError(f"min_weight: expected a number in 0..1, found {min_weight}")


def check_pixels(pixels: Tensor, size: tuple[int, int]) -> None:
    """Raise :class:`SplatsegError` unless ``pixels`` (m, 2) lie in an image of ``size`` = (width, height)."""
    width, height = size
    check_dims("pixels", pixels, ("m", 2))
    if pixels.dtype not in (torch.uint8, torch.int16, torch.int32, torch.int64):
        raise SplatsegError(f"pixels: expected integers, found {pixels.dtype}")
    outside = (pixels < 0).any(dim=1) | (pixels[:, 0] >= width) | (pixels[:, 1] >= height)
    if bool(outside.any()):
        first = int(outside.nonzero()[0])
        raise SplatsegError(
            f"pixels: expected columns in 0..{width - 1} and rows in 0..{height - 1}, "
            f"found {tuple(pixels[first].tolist())} at index {first}"
        )


def _fake(*args: Any) -> tuple[Tensor, ...]:
    means, pixels = args[0], args[6]
    m = pixels.shape[0]
    entries = torch.library.get_ctx().new_dynamic_size()
    return (
        pixels.new_empty(m, 2),
        pixels.new_empty(m, dtype=torch.int64),
        pixels.new_empty(m + 1, dtype=torch.int64),
        pixels.new_empty(entries),
        means.new_empty(entries),
    )


if compiled():
    torch.library.register_fake("splatseg::trace", _fake)
