"""Blending weights of chosen pixels, cached by the feature fit: rendering is linear in the features."""

from __future__ import annotations

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.ops.contributions import Contributions, Tracer
from splatseg.ops.rasterize import RenderConfig
from splatseg.render.backends import backend_of

DEFAULT = RenderConfig()


def trace(
    gaussians: Gaussians, camera: Camera, pixels: Tensor, min_weight: float = 1e-3, config: RenderConfig = DEFAULT
) -> Contributions:
    """Which Gaussians ``pixels`` (m, 2) integer [column, row] of ``camera`` show, with their blending weights.

    ``ops.blend(trace(g, camera, pixels, 0), features)`` is ``render(g, camera, features).features`` at those pixels.
    Constants: no gradient flows back. Rows come sorted by tile; ``Contributions.order`` and ``rows`` map them to
    ``pixels``. On CUDA only the chosen pixels are drawn, from gsplat's tile lists.

    Args:
        gaussians: n Gaussians in stored form.
        camera: the view.
        pixels: in any order, repeats allowed, possibly none.
        min_weight: least weight kept, in [0, 1]; 1e-3 loses about 0.3 % of a pixel's weight.
        config: ``eps2d``, ``near`` and ``far`` are read.

    Raises:
        SplatsegError: a pixel outside the image, shapes or dtypes that do not fit, a non-finite input, or a device
            without a backend.
    """
    return tracer(gaussians, camera, config)(pixels, min_weight)


@torch.no_grad()
def tracer(gaussians: Gaussians, camera: Camera, config: RenderConfig = DEFAULT) -> Tracer:
    """:func:`trace` for several sets of pixels of one view: what does not depend on them is made once.

    Args:
        gaussians: n Gaussians in stored form.
        camera: the view, on any device.
        config: as for :func:`trace`. Without ``check_finite`` pixels are taken to lie in the image, too: where neither
            is asked, the host need not wait for a GPU.
    """
    found: Tracer = backend_of(gaussians.device).tracer(gaussians, camera, config)
    return found
