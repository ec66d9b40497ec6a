"""Differentiable drawing of Gaussians, colors, features, alpha and depth in one pass, as gsplat 1.5.3 draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError, check_dims, check_finite
from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.projection import EPS2D
from splatseg.ops.reference.rasterize import rasterize as rasterize_reference


@dataclass(frozen=True)
class RenderConfig:
    """Settings of a drawing.

    Attributes:
        sh_degree: degree of the spherical harmonics used, 0..3; None: all that are stored.
        background: RGB in [0, 1] behind everything.
        eps2d: added to the diagonal of every projected covariance, pixels^2 (the low-pass of 3DGS).
        near: least z-depth drawn, world units; None: the camera's.
        far: greatest z-depth drawn, world units.
        packed: on CUDA, gsplat keeps only the Gaussians in view: less memory for large scenes, a little slower. Without
            effect on the CPU and on results.
        check_finite: on CUDA, look for inputs that are not finite before drawing, which waits for the device. False for
            a caller that looks at what came out instead, as a fit does at its loss; the CPU looks in passing, always.
    """

    sh_degree: int | None = None
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    eps2d: float = EPS2D
    near: float | None = None
    far: float = 1e10
    packed: bool = False
    check_finite: bool = True

    def depths(self, camera: Camera) -> tuple[float, float]:
        """Least and greatest z-depth that is drawn from ``camera``."""
        return (camera.near if self.near is None else self.near), self.far


@dataclass(frozen=True, eq=False)
class Means2dProbe:
    """Leaves whose gradients after backward are what densification needs.

    Attributes:
        means2d: (n, 2) zeros, added to the projected means; ``.grad`` is the gradient w.r.t. them, per pixel.
        absgrad: (n, 2) zeros, not used; ``.grad`` is the sum over pixels of the absolute value of that gradient.
    """

    means2d: Tensor
    absgrad: Tensor

    @staticmethod
    def zeros(n: int, device: torch.device | str, absgrad: bool = True) -> Means2dProbe:
        """Fresh leaves for ``n`` Gaussians; without ``absgrad`` its sums are not computed."""
        return Means2dProbe(
            torch.zeros(n, 2, device=device, requires_grad=True),
            torch.zeros(n, 2, device=device, requires_grad=absgrad),
        )


@dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians in activated form, as gsplat takes them.

    Attributes:
        means: (n, 3) world units.
        quats: (n, 4) wxyz; any length, a zero one is the identity.
        scales: (n, 3) standard deviations, world units.
        opacities: (n,) in (0, 1).
        sh: (n, k, 3) spherical-harmonic coefficients, k = (degree + 1)^2.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor


@dataclass(frozen=True, eq=False)
class Rendered:
    """One view of a splat.

    Attributes:
        color: (h, w, 3), background blended in; not clamped above.
        alpha: (h, w) in [0, 1).
        depth: (h, w) expected z-depth sum(w z) / sum(w), world units; 0 where alpha is 0.
        features: (h, w, d) sum(w f), not divided by alpha; None without input features.
        radii: (n, 2) int32 extent in pixels, 0 where not drawn.
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor
    features: Tensor | None
    radii: Tensor


def rasterize(
    splats: Splats,
    camera: Camera,
    features: Tensor | None = None,
    config: RenderConfig = RenderConfig(),
    probe: Means2dProbe | None = None,
) -> Rendered:
    """Draw Gaussians by EWA splatting (Zwicker et al. 2001; Kerbl et al. 2023, section 4 and appendix C).

    Differentiable in every tensor of ``splats`` and in ``features`` (n, d), float32 or float64. The result is the same,
    bit for bit, for any number of threads.

    Raises:
        SplatsegError: shapes or dtypes that do not fit, a non-finite input, a setting out of range.
    """
    _check(splats, features, config)
    degree = {1: 0, 4: 1, 9: 2, 16: 3}[splats.sh.shape[1]] if config.sh_degree is None else config.sh_degree
    tensors = (splats.means, splats.quats, splats.scales, splats.opacities, splats.sh, features)
    leaves = (None, None) if probe is None else (probe.means2d, probe.absgrad)
    background = torch.tensor(config.background, dtype=splats.means.dtype, device=splats.means.device)
    call: tuple[Any, ...] = (
        *tensors,
        *leaves,
        camera.K,
        camera.cam_from_world,
        background,
        camera.width,
        camera.height,
        degree,
    )
    run: Callable[..., Any] = (
        torch.ops.splatseg.rasterize if has_kernel("rasterize", splats.means) else rasterize_reference
    )
    try:
        color, alpha, depth, feature_map, radii = run(*call, config.eps2d, *config.depths(camera))[:5]
    except ValueError as error:
        for name, tensor in zip(("means", "quats", "scales", "opacities", "sh", "features"), tensors, strict=True):
            if tensor is not None:
                check_finite(name, tensor)
        raise SplatsegError(str(error).splitlines()[0]) from None
    return Rendered(color, alpha, depth, None if features is None else feature_map, radii)


def _check(splats: Splats, features: Tensor | None, config: RenderConfig) -> None:
    sizes = check_dims("means", splats.means, ("n", 3))
    check_dims("quats", splats.quats, ("n", 4), sizes)
    check_dims("scales", splats.scales, ("n", 3), sizes)
    check_dims("opacities", splats.opacities, ("n",), sizes)
    check_dims("sh", splats.sh, ("n", "k", 3), sizes)
    if features is not None:
        check_dims("features", features, ("n", "d"), sizes)
    if splats.sh.shape[1] not in (1, 4, 9, 16):
        raise SplatsegError(f"sh: expected 1, 4, 9 or 16 coefficients per channel, found {splats.sh.shape[1]}")
    if len(config.background) != 3:
        raise SplatsegError(f"background: expected 3 values, found {len(config.background)}")


def _fake(*args: Any) -> tuple[Tensor, ...]:
    means, features, width, height = args[0], args[5], args[11], args[12]
    n, channels = means.shape[0], 0 if features is None else features.shape[1]
    tiles = ((width + 15) // 16) * ((height + 15) // 16)
    pairs = torch.library.get_ctx().new_dynamic_size()
    record = {torch.float32: 64, torch.float64: 128}[means.dtype]
    return (
        means.new_empty(height, width, 3),
        means.new_empty(height, width),
        means.new_empty(height, width),
        means.new_empty(height, width, channels),
        means.new_empty(n, 2, dtype=torch.int32),
        means.new_empty(n, record, dtype=torch.uint8),
        means.new_empty(n, 4, dtype=torch.int16),
        means.new_empty(tiles + 1, dtype=torch.int32),
        means.new_empty(pairs, dtype=torch.int32),
        means.new_empty(pairs, dtype=torch.int16),
    )


def _fake_backward(*args: Any) -> tuple[Tensor, ...]:
    *gaussians, features, means2d = args[4:11]
    geometry, absgrad = args[-2:]
    none = gaussians[0].new_empty(0)
    grads = [
        torch.empty_like(t, memory_format=torch.contiguous_format) if geometry else none.clone() for t in gaussians
    ]
    n = gaussians[0].shape[0]
    return (
        *grads,
        none.clone() if features is None else torch.empty_like(features, memory_format=torch.contiguous_format),
        none.new_empty(n, 2) if geometry and means2d is not None else none.clone(),
        none.new_empty(n, 2) if geometry and absgrad else none.clone(),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    color, alpha, depth, feature_map, radii, *state = output
    ctx.save_for_backward(*inputs[:7], *inputs[8:11], color, alpha, depth, feature_map, *state)
    ctx.settings = inputs[11:]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(radii, *state)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad
    geometry = any(wanted[:5]) or wanted[6] or wanted[7]
    saved = ctx.saved_tensors
    inputs, outputs = saved[:10], saved[10:]
    result = torch.ops.splatseg.rasterize_backward(
        *grads[:4], *inputs, *ctx.settings, *outputs, geometry, bool(wanted[7])
    )
    return (*(grad if want else None for grad, want in zip(result, wanted[:8], strict=True)), *([None] * 9))


if compiled():
    torch.library.register_fake("splatseg::rasterize", _fake)
    torch.library.register_fake("splatseg::rasterize_backward", _fake_backward)
    torch.library.register_autograd("splatseg::rasterize", _backward, setup_context=_setup_context)
