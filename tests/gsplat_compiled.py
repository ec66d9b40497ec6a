"""gsplat's compiled functions, replaced by stand-ins with their signatures, shapes and types: all of its Python runs.

gsplat's own wrappers assert, pad, chunk, save for the backward pass and hook; tests/gsplat_on_cpu.py replaces them and
so never meets what they refuse. Values are made up: every second Gaussian is drawn, gradients are constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gsplat.cuda import _wrapper
from torch import Tensor

from splatseg.render import backends
from splatseg.render.gsplat import COMPILED

MEANS2D_GRAD, ABSOLUTE_GRAD = 2.0, 3.0


def install(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Until the test ends CPU tensors go to ``render/gsplat.py``. Returns the growing list of functions called."""
    calls: list[str] = []

    def lazy(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return FUNCTIONS[name](*arguments)

        return call

    monkeypatch.setattr(_wrapper, "_make_lazy_cuda_func", lazy)
    monkeypatch.setattr(_wrapper, "_make_lazy_cuda_obj", lambda name: None)
    monkeypatch.setitem(backends.BACKENDS, "cpu", "splatseg.render.gsplat")
    return calls


def check_floats(*tensors: Tensor) -> None:
    """What the kernels take on trust."""
    for tensor in tensors:
        assert tensor.is_contiguous() and tensor.dtype == torch.float32


def project(means: Tensor, covars: None, quats: Tensor, scales: Tensor, opacities: Tensor, *camera: Any) -> Any:
    """The unpacked projection: radii of 0 for odd Gaussians, whose other rows are not written (here NaN)."""
    check_floats(means, quats, scales, opacities)
    n = len(means)
    drawn = torch.arange(n) % 2 == 0
    place = torch.linspace(2, 40, n)
    columns = torch.stack([place, place, place], 1).masked_fill(~drawn[:, None], torch.nan)
    radii = drawn[:, None].expand(n, 2).int()[None]
    return radii, columns[None, :, :2].clone(), columns[None, :, 0].clone(), columns[None].clone(), torch.empty(0)


def project_packed(means: Tensor, *others: Any) -> Any:
    radii, means2d, depths, conics, nothing = project(means, *others)
    ids = torch.arange(0, len(means), 2)
    zeros, ends = torch.zeros_like(ids), torch.tensor([0, len(ids)], dtype=torch.int32)
    return ends, zeros, zeros.clone(), ids, *(t[0, ids] for t in (radii, means2d, depths, conics)), nothing


def project_backward(means: Tensor, covars: None, quats: Tensor, scales: Tensor, viewmats: Tensor, *others: Any) -> Any:
    return torch.ones_like(means), None, torch.ones_like(quats), torch.ones_like(scales), torch.ones_like(viewmats)


def intersect_tile(means2d: Tensor, radii: Tensor, depths: Tensor, image_ids: Any, gaussian_ids: Any, images: int,
                   side: int, columns: int, rows: int, *how: bool) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Every drawn Gaussian in tile 0."""
    check_floats(means2d, depths)
    assert radii.dtype == torch.int32 and images == 1
    assert gaussian_ids is None or gaussian_ids.dtype == image_ids.dtype == torch.int64
    drawn = (radii > 0).all(-1)
    flat = drawn.reshape(-1).nonzero()[:, 0].int()
    return drawn.int(), torch.arange(len(flat)), flat


def intersect_offset(ids: Tensor, images: int, columns: int, rows: int) -> Tensor:
    offsets = torch.full((images, rows, columns), len(ids), dtype=torch.int32)
    offsets[0, 0, 0] = 0
    return offsets


def rasterize(means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, background: Tensor | None,
              masks: None, width: int, height: int, side: int, offsets: Tensor, ids: Tensor,
              ) -> tuple[Tensor, ...]:  # fmt: skip
    """Channel c is c everywhere; alpha grows from left to right; plus the background where one is given."""
    check_floats(means2d, conics, colors, opacities)
    assert colors.shape[-1] in COMPILED
    alpha = torch.linspace(0, 1, width).expand(1, height, width)[..., None].clone()
    image = torch.arange(float(colors.shape[-1])).expand(1, height, width, -1).clone()
    if background is not None:
        image += (1 - alpha) * background
    return image, alpha, torch.zeros(1, height, width, dtype=torch.int32)


def rasterize_backward(means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, *others: Any) -> Any:
    absolute = torch.full_like(means2d, ABSOLUTE_GRAD) if others[-1] else None
    return absolute, torch.full_like(means2d, MEANS2D_GRAD), *(torch.ones_like(t) for t in (conics, colors, opacities))


def harmonics(degree: int, dirs: Tensor, coeffs: Tensor, masks: Tensor | None) -> Tensor:
    check_floats(dirs, coeffs)
    return torch.full_like(dirs, 0.25)


def harmonics_backward(bases: int, degree: int, dirs: Tensor, coeffs: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return torch.ones_like(coeffs), torch.ones_like(dirs)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "projection_ewa_3dgs_fused_fwd": project,
    "projection_ewa_3dgs_fused_bwd": project_backward,
    "projection_ewa_3dgs_packed_fwd": project_packed,
    "projection_ewa_3dgs_packed_bwd": project_backward,
    "intersect_tile": intersect_tile,
    "intersect_offset": intersect_offset,
    "rasterize_to_pixels_3dgs_fwd": rasterize,
    "rasterize_to_pixels_3dgs_bwd": rasterize_backward,
    "spherical_harmonics_fwd": harmonics,
    "spherical_harmonics_bwd": harmonics_backward,
}
