"""gsplat's CUDA calls on the CPU, so that everything around them runs without a GPU.

Projection, tile lists and spherical harmonics are gsplat's own PyTorch code (``gsplat.cuda._torch_impl``). Its PyTorch
rasterizer needs CUDA and nerfacc, so ``rasterize_to_pixels`` is written here, with the contract of the CUDA one: which
channel counts it takes, where it leaves absolute gradients, packed inputs.
"""

from __future__ import annotations

import math
from typing import Any

import gsplat
import pytest
import torch
from gsplat import rendering
from gsplat.cuda import _torch_impl as impl
from torch import Tensor

from splatseg.ops.reference.rasterize import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE
from splatseg.render import backends
from splatseg.render.gsplat import COMPILED


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``gsplat.rasterization`` and what ``render/gsplat.py`` calls run on the CPU, and CPU tensors go there."""
    functions = {
        "fully_fused_projection": fully_fused_projection,
        "isect_tiles": isect_tiles,
        "isect_offset_encode": impl._isect_offset_encode,
        "spherical_harmonics": spherical_harmonics,
    }
    for name, function in functions.items():
        monkeypatch.setattr(gsplat, name, function)
        monkeypatch.setattr(rendering, name, function)
    monkeypatch.setattr(rendering, "rasterize_to_pixels", rasterize_to_pixels)
    monkeypatch.setitem(backends.BACKENDS, "cpu", "splatseg.render.gsplat")


def spherical_harmonics(degree: int, dirs: Tensor, coeffs: Tensor, masks: Tensor | None = None) -> Tensor:
    return impl._spherical_harmonics(degree, dirs, coeffs)


def fully_fused_projection(means: Tensor, covars: None, quats: Tensor, scales: Tensor, viewmats: Tensor, Ks: Tensor,
                           width: int, height: int, opacities: Tensor, eps2d: float, near_plane: float,
                           far_plane: float, packed: bool = False, **unused: Any) -> tuple[Any, ...]:  # fmt: skip
    """gsplat's PyTorch projection with the opacity-aware radii of its CUDA one; NaN where nothing is drawn."""
    covars3d, _ = impl._quat_scale_to_covar_preci(quats, scales, True, False)
    _, means2d, depths, conics, _ = impl._fully_fused_projection(
        means, covars3d, viewmats, Ks, width, height, eps2d, near_plane, far_plane
    )
    with torch.no_grad():
        det = 1 / (conics[..., 0] * conics[..., 2] - conics[..., 1] ** 2)
        reach = (2 * torch.log(opacities / MIN_ALPHA)).clamp_min(0).sqrt().clamp_max(3.33)
        radii = torch.ceil(
            reach[..., None] * (torch.stack([conics[..., 2], conics[..., 0]], -1) * det[..., None]).sqrt()
        )
        size = torch.tensor([width, height])
        shown = ((means2d + radii > 0) & (means2d - radii < size)).all(-1) & (opacities >= MIN_ALPHA)
        shown &= (depths >= near_plane) & (depths <= far_plane) & (radii > 0).any(-1)
        radii = torch.where(shown[..., None], radii, 0).int()
    if packed:
        image, index = shown.nonzero(as_tuple=True)
        found = (t[image, index] for t in (radii, means2d, depths, conics))
        return torch.zeros_like(index), image, index, *found, None
    # The CUDA kernel leaves rows that it does not draw uninitialized.
    poison = [
        torch.where(shown.reshape(shown.shape + (1,) * (t.dim() - 2)), t, math.nan) for t in (means2d, depths, conics)
    ]
    return radii, *poison, None


def isect_tiles(means2d: Tensor, radii: Tensor, depths: Tensor, tile_size: int, tile_width: int, tile_height: int,
                packed: bool = False, **unused: Any) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    if packed:
        means2d, radii, depths = means2d[None], radii[None], depths[None]
    drawn = (radii > 0).all(-1)
    means2d = torch.where(drawn[..., None], means2d, 0.0)
    counts, ids, flat = impl._isect_tiles(means2d, radii, depths, tile_size, tile_width, tile_height, sort=False)
    ids, order = torch.sort(ids, stable=True)
    return counts, ids, flat[order]


def rasterize_to_pixels(means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, width: int, height: int,
                        tile_size: int, offsets: Tensor, ids: Tensor, backgrounds: Tensor | None = None,
                        packed: bool = False, absgrad: bool = False) -> tuple[Tensor, Tensor]:  # fmt: skip
    assert colors.shape[-1] in COMPILED, f"{colors.shape[-1]} channels: padded by the wrapper's own second copy"
    assert colors.shape[-1] <= 128, "the backward pass would not fit into shared memory"
    assert means2d.dim() == (2 if packed else 3)
    # gsplat's own assertion: packed, no shape that its rasterization passes on is right.
    assert backgrounds is None or backgrounds.shape == (*means2d.shape[:-2], colors.shape[-1]), backgrounds.shape
    return _Rasterize.apply(
        means2d, conics, colors, opacities, backgrounds, (width, height, tile_size), offsets, ids, absgrad
    )


def per_pixel(means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor | None,
              size: tuple[int, int, int], offsets: Tensor, ids: Tensor,
              ) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """Image, alpha, and for every tile the means repeated a pixel, whose gradients are those of single pixels."""
    width, height, side = size
    image = [[torch.empty(0)] * width for _ in range(height)]
    alphas = [[torch.empty(0)] * width for _ in range(height)]
    ends = [*offsets.flatten().tolist()[1:], len(ids)]
    repeated = []
    for tile, (begin, end) in enumerate(zip(offsets.flatten().tolist(), ends, strict=True)):
        top, left = tile // offsets.shape[-1] * side, tile % offsets.shape[-1] * side
        ys, xs = torch.meshgrid(
            torch.arange(top, min(top + side, height)), torch.arange(left, min(left + side, width)), indexing="ij"
        )
        members = ids[begin:end].long()
        centers = means2d[members][None].expand(ys.numel(), -1, -1).clone()
        if centers.requires_grad:
            centers.retain_grad()
        repeated.append(centers)
        delta = centers - torch.stack([xs, ys], -1).reshape(-1, 1, 2) - 0.5
        a, b, c = conics[members].unbind(-1)
        sigma = 0.5 * (a * delta[..., 0] ** 2 + c * delta[..., 1] ** 2) + b * delta[..., 0] * delta[..., 1]
        alpha = (opacities[members] * torch.exp(-sigma)).clamp_max(MAX_ALPHA)
        alpha = torch.where((sigma >= 0) & (alpha >= MIN_ALPHA), alpha, 0.0)
        after = torch.cumprod(1 - alpha, 1)
        alpha = torch.where(after > MIN_TRANSMITTANCE, alpha, 0.0)
        after = torch.cumprod(1 - alpha, 1)
        before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
        total = (alpha * before) @ colors[members]
        opaque = (alpha * before).sum(1)
        if backgrounds is not None:
            total = total + (1 - opaque)[:, None] * backgrounds
        for k, (y, x) in enumerate(zip(ys.flatten().tolist(), xs.flatten().tolist(), strict=True)):
            image[y][x], alphas[y][x] = total[k], opaque[k]
    return torch.stack([torch.stack(r) for r in image]), torch.stack([torch.stack(r) for r in alphas]), repeated


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means2d: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        conics, colors, opacities, backgrounds, size, offsets, ids, absgrad = rest
        ctx.save_for_backward(means2d, conics, colors, opacities, backgrounds, offsets, ids)
        ctx.size, ctx.absgrad = size, absgrad
        tensors = [t.reshape(-1, *t.shape[-1:]) for t in (means2d, conics, colors)]
        image, alpha, _ = per_pixel(*tensors, opacities.reshape(-1), backgrounds, size, offsets, ids)
        return image[None], alpha[None, ..., None]

    @staticmethod
    def backward(ctx: Any, grad_image: Tensor, grad_alpha: Tensor) -> tuple[Any, ...]:
        means2d, conics, colors, opacities, backgrounds, offsets, ids = ctx.saved_tensors
        with torch.enable_grad():
            flat = [t.detach().reshape(-1, *t.shape[-1:]).requires_grad_() for t in (means2d, conics, colors)]
            faint = opacities.detach().reshape(-1).requires_grad_()
            image, alpha, repeated = per_pixel(*flat, faint, backgrounds, ctx.size, offsets, ids)
            torch.autograd.backward([image, alpha], [grad_image[0], grad_alpha[0, ..., 0]])
        if ctx.absgrad:
            absolute = torch.zeros_like(flat[0])
            ends = [*offsets.flatten().tolist()[1:], len(ids)]
            for centers, begin, end in zip(repeated, offsets.flatten().tolist(), ends, strict=True):
                if centers.grad is not None:
                    absolute.index_add_(0, ids[begin:end].long(), centers.grad.abs().sum(0))
            means2d.absgrad = absolute.reshape(means2d.shape)
        # Rows that no tile lists keep a gradient of 0 and no NaN from what they hold.
        grads = [t.grad.nan_to_num(0).reshape(s.shape) for t, s in zip(flat, (means2d, conics, colors), strict=True)]
        return *grads, faint.grad.reshape(opacities.shape), *[None] * 5
