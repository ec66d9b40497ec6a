"""Tracing a few pixels of a large splat quickly: what cannot reach them is left out first.

``trace`` projects and sorts every Gaussian, which is right for a pool of ten thousand pixels and wasteful for a
click. One linear pass bounds where a Gaussian can be seen; the few thousand that may touch the pixels are traced
alone. The result is the same: left out is only what the rasterizer would give no weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import splatseg.render as rendering
from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.ops import Contributions
from splatseg.ops.mask_products import has_matrix_units
from splatseg.ops.projection import CLAMP, EPS2D

# alpha >= 1/255 needs exp(-m^2 / 2) >= 1/255 at Mahalanobis distance m, so m <= sqrt(2 ln 255) = 3.329.
REACH = 3.34
CHUNK = 1 << 16  # Gaussians looked at at a time
SLACK = 1.0  # pixels, for rounding
BLOCK = (256, 128)  # columns and rows traced at once: some 32,000 pixels, whose lists take tens of megabytes


def trace_few(gaussians: Gaussians, camera: Camera, pixels: Tensor) -> Contributions:
    """``render.trace`` of ``pixels`` (m, 2) [column, row] that lie close together; ids refer to ``gaussians``."""
    near = reachable(gaussians, camera, pixels)
    found = rendering.trace(gaussians.select(near), camera, pixels)
    ids = near[found.ids.long()].to(torch.int32)
    return Contributions(found.pixels, found.order, found.offsets, ids, found.weights)


def seen_in(
    gaussians: Gaussians,
    camera: Camera,
    window: tuple[int, int, int, int],
    report: Callable[[float], None] | None = None,
    inside: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """(k,) int64 ids, ascending, of the Gaussians that ``render.trace`` lists in any pixel of a window.

    Args:
        window: first column and row, and one past the last column and row. All its pixels are traced, block by block.
        report: called with the share of blocks done; it may raise to stop.
        inside: tells of image positions (m, 2) which count, (m,) bool; pixels whose centers do not are not traced.
    """
    left, top, right, bottom = window
    corners = torch.tensor([[left, top], [right - 1, bottom - 1]], dtype=torch.int32, device=gaussians.device)
    near = reachable(gaussians, camera, corners)
    few = gaussians.select(near)
    seen = torch.zeros(len(near), dtype=torch.bool, device=gaussians.device)
    blocks = [(u, v) for v in range(top, bottom, BLOCK[1]) for u in range(left, right, BLOCK[0])]
    for number, (u, v) in enumerate(blocks):
        if report is not None:
            report(number / len(blocks))
        columns = torch.arange(u, min(u + BLOCK[0], right), dtype=torch.int32)
        rows = torch.arange(v, min(v + BLOCK[1], bottom), dtype=torch.int32)
        pixels = torch.cartesian_prod(columns, rows).to(gaussians.device)
        if inside is not None:
            pixels = pixels[inside(pixels + 0.5)]
        if not len(pixels):
            continue
        seen[trace_few(few, camera, pixels).ids.long()] = True
    return near[seen]


def reachable(gaussians: Gaussians, camera: Camera, pixels: Tensor) -> Tensor:
    """(k,) int64 ids, ascending, of all Gaussians that may be seen in the box around ``pixels`` (m, 2), and some more.

    A Gaussian of largest standard deviation s at depth z has at most sigma = |J| s on screen, with the spectral
    norm of the projection's Jacobian |J| <= f / z * sqrt(1 + tx^2 + ty^2), plus eps2d. Multiplied by z, |u - u_box|
    <= REACH * sqrt(sigma^2 + eps2d) follows from conditions that are linear in the mean and in s, which cost one
    matrix product.
    """
    low, high = pixels.min(0).values.float(), pixels.max(0).values.float() + 1
    center, half = ((low + high) / 2).tolist(), ((high - low) / 2).tolist()
    k, pose = camera.K.double(), camera.cam_from_world.double()
    fx, fy, cx, cy = (float(v) for v in (k[0, 0], k[1, 1], k[0, 2], k[1, 2]))
    steepest = (
        max(cx, camera.width - cx) / fx + CLAMP * camera.width / fx,
        max(cy, camera.height - cy) / fy + CLAMP * camera.height / fy,
    )
    stretch = REACH * max(fx, fy) * (1 + steepest[0] ** 2 + steepest[1] ** 2) ** 0.5
    margin = REACH * EPS2D**0.5 + SLACK
    # Rows: z (u - u_center), z (v - v_center) and z, as linear functions of the mean.
    rows = torch.stack([fx * pose[0] + (cx - center[0]) * pose[2], fy * pose[1] + (cy - center[1]) * pose[2], pose[2]])
    rows = rows.to(gaussians.means)
    found = []
    for means, log_scales in zip(_parts(gaussians.means), _parts(gaussians.log_scales), strict=True):
        offsets = torch.addmm(rows[:, 3:], rows[:, :3], means.T)
        x, y, z = log_scales.unbind(1)
        extent = torch.maximum(torch.maximum(x, y), z).exp_().mul_(stretch)
        depth = offsets[2]
        seen = depth > 0
        for row in (0, 1):
            seen &= offsets[row].abs_() <= torch.add(extent, depth, alpha=half[row] + margin)
        found.append(seen)
    return torch.cat(found).nonzero()[:, 0]


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """Rows of ``tensor`` whose tables stay in a processor's cache; all of them where no processor looks at them."""
    return tensor.detach().split(len(tensor) if has_matrix_units(tensor) else CHUNK)
