"""The backend for Gaussians in the memory of a GPU: gsplat's kernels, one rasterization for everything a view shows.

Colors (from SH), features and depth are channels of one image. gsplat compiles its kernels for certain channel counts
only; the gap is filled with zero channels, in front of the depth, which must come last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gsplat
import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError, check_dims, check_finite
from splatseg.core.gaussians import Gaussians
from splatseg.ops.contributions import Tracer
from splatseg.ops.projection import TILE
from splatseg.ops.rasterize import Means2dProbe, RenderConfig, Rendered
from splatseg.ops.trace_tiles import TileLists, trace_tiles

# Channel counts of gsplat 1.5.3's kernels (its cuda/_wrapper.py); the last two serve distance fields, not us.
COMPILED = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513)
CHUNK = 32
"""Channels drawn at a time where there are more: gsplat's own default, and the widest that stays in registers."""
WIDEST_WHOLE = 128
"""Channels that one backward pass can hold in the shared memory of sm_80 and sm_90."""


def render(
    gaussians: Gaussians, camera: Camera, features: Tensor | None, config: RenderConfig, probe: Means2dProbe | None
) -> Rendered:
    """See :func:`splatseg.render.render`. Float32 only; ``probe`` serves one backward pass."""
    _check(gaussians, features, config.check_finite)
    if len(gaussians) == 0:
        return _empty(camera, features, config, gaussians.means)
    width = 0 if features is None else features.shape[1]
    absgrad = probe is not None and probe.absgrad.requires_grad
    degree = gaussians.sh_degree if config.sh_degree is None else config.sh_degree
    padding, chunk = channel_layout(3 + width + 1, absgrad)
    near, far = config.depths(camera)
    # Shaded here and not by gsplat, which would invert the camera's matrix on the device at every drawing.
    columns = [shade(gaussians, camera, degree)]
    if features is not None:
        columns.append(features)
    if padding:
        columns.append(gaussians.means.new_zeros(len(gaussians), padding))
    image, alpha, meta = gsplat.rasterization(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        torch.cat(columns, dim=1) if len(columns) > 1 else columns[0],
        width=camera.width,
        height=camera.height,
        near_plane=near,
        far_plane=far,
        eps2d=config.eps2d,
        packed=config.packed,
        tile_size=TILE,
        render_mode="RGB+ED",
        absgrad=absgrad,
        channel_chunk=chunk,
        **_view(camera, gaussians.means),
    )
    if probe is not None and meta["means2d"].requires_grad:
        meta["means2d"].register_hook(_filler(probe, meta["means2d"], meta["gaussian_ids"]))
    color = image[0, ..., :3]
    if any(config.background):  # not by gsplat: packed, 1.5.3 refuses every shape of backgrounds (its issue 764)
        color = color + (1 - alpha[0]) * color.new_tensor(config.background)
    return Rendered(
        color=color,
        alpha=alpha[0, ..., 0],
        depth=image[0, ..., -1],
        features=None if features is None else image[0, ..., 3 : 3 + width],
        radii=_spread(meta["radii"], meta["gaussian_ids"], len(gaussians)),
    )


def channel_layout(channels: int, whole: bool) -> tuple[int, int]:
    """Zero channels to add to ``channels`` (depth counted) and how many to draw at a time.

    Args:
        channels: of the image.
        whole: all must be drawn at once, as absolute gradients of parts do not add up.

    Raises:
        SplatsegError: too many channels for ``whole``.
    """
    if whole and channels > WIDEST_WHOLE:
        raise SplatsegError(
            f"features: expected at most {WIDEST_WHOLE - 4} columns beside a probe with absgrad, found {channels - 4}"
        )
    if whole or channels <= CHUNK:
        total = next(count for count in COMPILED if count >= channels)
        return total - channels, total
    rest = channels % CHUNK
    return (next(count for count in COMPILED if count >= rest) - rest if rest else 0), CHUNK


def shade(gaussians: Gaussians, camera: Camera, degree: int) -> Tensor:
    """(n, 3) colors max(SH(direction from the camera center) + 0.5, 0), as gsplat's rasterization makes them."""
    position = camera.position.to(gaussians.means)
    return (gsplat.spherical_harmonics(degree, gaussians.means - position, gaussians.sh) + 0.5).clamp_min(0)


def tracer(gaussians: Gaussians, camera: Camera, config: RenderConfig) -> Tracer:
    """See :func:`splatseg.render.tracer`. gsplat lists the Gaussians of each tile; only pixels asked for are drawn."""
    _check(gaussians, None, config.check_finite)
    g, opacities = gaussians, gaussians.opacities
    columns, rows = -(-camera.width // TILE), -(-camera.height // TILE)
    view = _view(camera, g.means)
    near, far = config.depths(camera)
    projected = gsplat.fully_fused_projection(
        g.means,
        None,
        g.quats,
        g.scales,
        view["viewmats"],
        view["Ks"],
        camera.width,
        camera.height,
        eps2d=config.eps2d,
        near_plane=near,
        far_plane=far,
        packed=False,
        opacities=opacities,
    )
    radii, means2d, depths, conics = projected[:4]
    _, isect_ids, flatten_ids = gsplat.isect_tiles(means2d, radii, depths, TILE, columns, rows)
    offsets = gsplat.isect_offset_encode(isect_ids, 1, columns, rows)
    lists = TileLists(means2d[0], conics[0], opacities, offsets.reshape(-1), flatten_ids)
    size = (camera.width, camera.height)
    return lambda pixels, min_weight: trace_tiles(lists, size, pixels, min_weight, config.check_finite)


def _view(camera: Camera, like: Tensor) -> dict[str, Tensor]:
    return {"viewmats": camera.cam_from_world.to(like)[None], "Ks": camera.K.to(like)[None]}


def _check(gaussians: Gaussians, features: Tensor | None, finite: bool) -> None:
    """Types and, if asked for, finite values: one question to the device, as gsplat draws others in undefined ways."""
    tensors = gaussians.tensors()
    if features is not None:
        check_dims("features", features, (len(gaussians), "d"))
        tensors["features"] = features
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise SplatsegError(f"{name}: expected float32 for gsplat, found {tensor.dtype}")
        if tensor.device != gaussians.device:
            raise SplatsegError(f"{name}: expected the device of means, {gaussians.device}, found {tensor.device}")
    if finite and not bool(torch.stack([t.detach().isfinite().all() for t in tensors.values()]).all()):
        for name, tensor in tensors.items():
            check_finite(name, tensor)


def _empty(camera: Camera, features: Tensor | None, config: RenderConfig, like: Tensor) -> Rendered:
    """No Gaussian at all, which gsplat's launches do not allow for."""
    height, width = camera.height, camera.width
    return Rendered(
        color=like.new_tensor(config.background).expand(height, width, 3).clone(),
        alpha=like.new_zeros(height, width),
        depth=like.new_zeros(height, width),
        features=None if features is None else like.new_zeros(height, width, features.shape[1]),
        radii=torch.zeros(0, 2, dtype=torch.int32, device=like.device),
    )


def _spread(rows: Tensor, ids: Tensor | None, n: int) -> Tensor:
    """(n, 2) from gsplat's (1, n, 2), or from the (k, 2) of its packed mode that belong to ``ids`` (k,)."""
    if ids is None:
        return rows[0]
    return rows.new_zeros(n, 2).index_copy_(0, ids.long(), rows)


def _filler(probe: Means2dProbe, means2d: Tensor, ids: Tensor | None) -> Callable[[Tensor], None]:
    """Hook of gsplat's projected means that hands their gradients to the leaves of ``probe``."""
    holder: list[Tensor] = [means2d]  # emptied when used: a tensor that its own hook holds would outlive the step

    def fill(grad: Tensor) -> None:
        if not holder:
            raise RuntimeError("probe: expected one backward pass a drawing, found a second one")
        projected: Any = holder.pop()
        n = len(probe.means2d)
        _add_grad(probe.means2d, _spread(grad, ids, n))
        if probe.absgrad.requires_grad:
            _add_grad(probe.absgrad, _spread(projected.absgrad, ids, n))

    return fill


def _add_grad(leaf: Tensor, grad: Tensor) -> None:
    leaf.grad = grad.clone() if leaf.grad is None else leaf.grad + grad
