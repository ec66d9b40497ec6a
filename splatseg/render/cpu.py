"""The backend for Gaussians in host memory: ``splatseg::rasterize`` and ``splatseg::trace``."""

from __future__ import annotations

from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.ops.contributions import Tracer
from splatseg.ops.rasterize import Means2dProbe, RenderConfig, Rendered, Splats, rasterize
from splatseg.ops.trace import trace as trace_splats


def render(
    gaussians: Gaussians, camera: Camera, features: Tensor | None, config: RenderConfig, probe: Means2dProbe | None
) -> Rendered:
    """See :func:`splatseg.render.render`."""
    splats = Splats(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    return rasterize(splats, camera, features, config, probe)


def tracer(gaussians: Gaussians, camera: Camera, config: RenderConfig) -> Tracer:
    """See :func:`splatseg.render.tracer`."""
    splats = Splats(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    return lambda pixels, min_weight: trace_splats(splats, camera, pixels, min_weight, config)
