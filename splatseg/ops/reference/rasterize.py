"""Specification of ``splatseg::rasterize`` in plain PyTorch: gsplat 1.5.3's projection and blending, with autograd.

Every Gaussian is evaluated at every pixel: memory grows with n x h x w. For tests and machines without the extension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from splatseg.ops.projection import CLAMP

MIN_ALPHA = 1 / 255
MAX_ALPHA = 0.999
MIN_TRANSMITTANCE = 1e-4


def quats_to_rotations(quats: Tensor) -> Tensor:
    """(n, 3, 3) world_from_gaussian rotations of (n, 4) wxyz quaternions of any length; zero: the identity."""
    norm = quats.norm(dim=-1, keepdim=True)
    w, x, y, z = (quats / torch.where(norm > 0, norm, torch.ones_like(norm))).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def project(
    means: Tensor, quats: Tensor, scales: Tensor, K: Tensor, cam_from_world: Tensor, size: tuple[int, int], eps2d: float
) -> tuple[Tensor, Tensor, Tensor]:
    """EWA projection (gsplat ``persp_proj``): means2d (n, 2) and covariances (n, 2, 2) in pixels, depths (n,).

    The Jacobian is taken at a point clamped to 1.3 times the frustum, as INRIA and gsplat do.
    """
    width, height = size
    rotation = cam_from_world[:3, :3]
    cam = means @ rotation.T + cam_from_world[:3, 3]
    z = cam[:, 2]
    focal, center = torch.stack([K[0, 0], K[1, 1]]), torch.stack([K[0, 2], K[1, 2]])
    image = torch.tensor([width, height], dtype=means.dtype, device=means.device)
    margin = CLAMP * image / focal
    slopes = cam[:, :2] / z[:, None]
    clamped = torch.minimum(torch.maximum(slopes, -center / focal - margin), (image - center) / focal + margin)
    zero = torch.zeros_like(z)
    J = torch.stack(
        [
            torch.stack([focal[0] / z, zero, -focal[0] * clamped[:, 0] / z], dim=-1),
            torch.stack([zero, focal[1] / z, -focal[1] * clamped[:, 1] / z], dim=-1),
        ],
        dim=1,
    )
    U = J @ rotation @ (quats_to_rotations(quats) * scales[:, None, :])
    cov = U @ U.mT + eps2d * torch.eye(2, dtype=means.dtype, device=means.device)
    return slopes * focal + center, cov, z


def sh_basis(degree: int, dirs: Tensor) -> Tensor:
    """(n, (degree + 1)^2) real spherical harmonics at unit directions (n, 3) (Sloan, JCGT 2013; signs as INRIA)."""
    x, y, z = dirs.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    basis = [torch.full_like(x, 0.2820947917738781)]
    if degree >= 1:
        basis += [-0.48860251190292 * y, 0.48860251190292 * z, -0.48860251190292 * x]
    if degree >= 2:
        basis += [
            *(1.092548430592079 * x * y, -1.092548430592079 * y * z, 0.9461746957575601 * zz - 0.3153915652525201),
            *(-1.092548430592079 * x * z, 0.5462742152960395 * (xx - yy)),
        ]
    if degree >= 3:
        ring = 0.4570457994644658 - 2.285228997322329 * zz
        basis += [
            *(-0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z, ring * y),
            *(z * (1.865881662950577 * zz - 1.119528997770346), ring * x, 1.445305721320277 * z * (xx - yy)),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return torch.stack(basis, dim=-1)


def shade(means: Tensor, sh: Tensor, cam_from_world: Tensor, degree: int) -> Tensor:
    """(n, 3) colors max(SH(direction from the camera center) + 0.5, 0)."""
    position = -cam_from_world[:3, :3].T @ cam_from_world[:3, 3]
    basis = sh_basis(degree, F.normalize(means - position, dim=-1))
    return (torch.einsum("nk,nkc->nc", basis, sh[:, : basis.shape[1]]) + 0.5).clamp_min(0)


def extent(cov: Tensor, opacities: Tensor) -> Tensor:
    """(n, 2) gsplat's opacity-aware radii before culling, pixels, as floats."""
    reach = (2 * torch.log(opacities / MIN_ALPHA)).clamp_min(0).sqrt().clamp_max(3.33)
    return torch.ceil(reach[:, None] * torch.stack([cov[:, 0, 0], cov[:, 1, 1]], dim=-1).sqrt())


class _PerPixel(torch.autograd.Function):
    """Repeats projected means (m, 2) for every pixel, (m, 2, h, w), so that absolute gradients can be summed."""

    @staticmethod
    def forward(ctx: Any, centers: Tensor, absgrad: Tensor | None, drawn: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.drawn, ctx.rows = drawn, None if absgrad is None else len(absgrad)
        return centers[:, :, None, None].expand(-1, -1, size[1], size[0]).clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        absolute = None
        if ctx.rows is not None:
            absolute = grad.new_zeros(ctx.rows, 2)
            absolute[ctx.drawn] = grad.abs().sum(dim=(2, 3))
        return grad.sum(dim=(2, 3)), absolute, None, None


def blend_weights(centers: Tensor, cov: Tensor, opacities: Tensor) -> Tensor:
    """(n, h, w) weights of depth-ordered Gaussians: alpha times the transmittance in front (Kerbl et al. 2023, eq. 3).

    ``centers`` (n, 2, h, w) are the projected means, repeated for every pixel.
    """
    height, width = centers.shape[2:]
    x = torch.arange(width, dtype=centers.dtype, device=centers.device) + 0.5
    y = torch.arange(height, dtype=centers.dtype, device=centers.device) + 0.5
    dx, dy = x - centers[:, 0], y[:, None] - centers[:, 1]
    conic = torch.linalg.inv(cov)[:, :, :, None, None]
    sigma = 0.5 * (conic[:, 0, 0] * dx * dx + conic[:, 1, 1] * dy * dy) + conic[:, 0, 1] * dx * dy
    raw = opacities[:, None, None] * torch.exp(-sigma)
    alpha = torch.where((sigma >= 0) & (raw.clamp_max(MAX_ALPHA) >= MIN_ALPHA), raw.clamp_max(MAX_ALPHA), 0.0)
    after = torch.cumprod(1 - alpha, dim=0)
    # The Gaussian that would bring the transmittance to 1e-4 is left out, with all behind it.
    alpha = torch.where(after > MIN_TRANSMITTANCE, alpha, 0.0)
    before = torch.cat([torch.ones_like(after[:1]), torch.cumprod(1 - alpha, dim=0)[:-1]])
    return alpha * before


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    sh: Tensor,
    features: Tensor | None,
    means2d: Tensor | None,
    absgrad: Tensor | None,
    K: Tensor,
    cam_from_world: Tensor,
    background: Tensor,
    width: int,
    height: int,
    sh_degree: int,
    eps2d: float,
    near: float,
    far: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The op's arguments; its first five outputs: color, alpha, depth, feature map, radii (``splatseg::rasterize``)."""
    named = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "sh": sh, "features": features}
    for name, tensor in named.items():
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name}: expected finite values, found a NaN or an infinity")
    size = (width, height)
    K, cam_from_world = K.to(means), cam_from_world.to(means)
    depths = means.detach() @ cam_from_world[2, :3] + cam_from_world[2, 3]
    radii = torch.zeros(len(means), 2, dtype=torch.int32, device=means.device)
    ahead = ((depths >= near) & (depths <= far) & (opacities >= MIN_ALPHA)).nonzero()[:, 0]
    order = ahead[torch.argsort(depths[ahead], stable=True)]

    centers, cov, z = project(means[order], quats[order], scales[order], K, cam_from_world, size, eps2d)
    if means2d is not None:
        centers = centers + means2d[order]
    reach = extent(cov, opacities[order]).detach()
    image = torch.tensor(size, dtype=means.dtype, device=means.device)
    inside = ((centers + reach > 0) & (centers - reach < image)).all(dim=1) & (reach > 0).any(dim=1)
    radii[order[inside]] = reach[inside].clamp_max(1e9).int()

    drawn, centers, cov, z = order[inside], centers[inside], cov[inside], z[inside]
    weights = blend_weights(_PerPixel.apply(centers, absgrad, drawn, size), cov, opacities[drawn])
    alpha = weights.sum(dim=0)
    color = torch.einsum("nhw,nc->hwc", weights, shade(means[drawn], sh[drawn], cam_from_world, sh_degree))
    total_depth = torch.einsum("nhw,n->hw", weights, z)
    depth = total_depth / torch.where(alpha > 0, alpha, torch.ones_like(alpha))
    rows = means.new_zeros(len(means), 0) if features is None else features
    feature_map = torch.einsum("nhw,nd->hwd", weights, rows[drawn])
    return color + (1 - alpha)[..., None] * background, alpha, depth, feature_map, radii
