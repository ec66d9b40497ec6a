"""Rendered a splat from a camera. The backend is chosen here by the tensors' device, and nowhere above."""

from __future__ import annotations

import importlib

from torch import Tensor

from splatseg.camera import Camera
from splatseg.errors import SplatsegError
from splatseg.gaussians import Gaussians
from splatseg.ops.contributions import Contributions
from splatseg.ops.rasterize import Means2dProbe, RenderConfig, Rendered
from splatseg.render.tracing import trace

__all__ = ["Contributions", "Means2dProbe", "RenderConfig", "Rendered", "render", "trace"]

DEFAULTS = RenderConfig()
BACKENDS = {"cpu": "splatseg.render.cpu"}  # gsplat on CUDA: not built yet


def render(
    gaussians: Gaussians,
    camera: Camera,
    features: Tensor | None = None,
    config: RenderConfig = DEFAULTS,
    probe: Means2dProbe | None = None,
) -> Rendered:
    """Draw colours and ``features`` (n, d) in one pass.

    Differentiable in every tensor of ``gaussians`` (stored form) and in ``features``. After backward, ``probe`` holds
    the gradients w.r.t. the projected means that densification reads.

    Raises:
        SplatsegError: shapes that do not fit, a non-finite input, or a device without a backend.
    """
    backend = BACKENDS.get(gaussians.device.type)
    if backend is None:
        raise SplatsegError(f"gaussians: expected tensors on {' or '.join(BACKENDS)}, found {gaussians.device}")
    rendered: Rendered = importlib.import_module(backend).render(gaussians, camera, features, config, probe)
    return rendered
