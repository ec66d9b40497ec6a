"""Drawing a splat from a camera. The backend is chosen here by the tensors' device, and nowhere above."""

from __future__ import annotations

from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.ops.contributions import Contributions
from splatseg.ops.rasterize import Means2dProbe, RenderConfig, Rendered
from splatseg.render.backends import backend_of, choose_device
from splatseg.render.tracing import Tracer, trace, tracer

__all__ = [
    "Contributions",
    "Means2dProbe",
    "RenderConfig",
    "Rendered",
    "Tracer",
    "choose_device",
    "render",
    "trace",
    "tracer",
]

DEFAULTS = RenderConfig()


def render(
    gaussians: Gaussians,
    camera: Camera,
    features: Tensor | None = None,
    config: RenderConfig = DEFAULTS,
    probe: Means2dProbe | None = None,
) -> Rendered:
    """Draw colors and ``features`` (n, d) in one pass.

    Differentiable in every tensor of ``gaussians`` (stored form) and in ``features``. After backward, ``probe`` holds
    the gradients w.r.t. the projected means that densification reads.

    Raises:
        SplatsegError: shapes that do not fit, a non-finite input, a device without a backend, or float64 on CUDA.
    """
    rendered: Rendered = backend_of(gaussians.device).render(gaussians, camera, features, config, probe)
    return rendered
