"""The backend for Gaussians in host memory: ``splatseg::rasterize``."""

from __future__ import annotations

from torch import Tensor

from splatseg.camera import Camera
from splatseg.gaussians import Gaussians
from splatseg.ops.rasterize import Means2dProbe, RenderConfig, Rendered, Splats, rasterize


def render(
    gaussians: Gaussians, camera: Camera, features: Tensor | None, config: RenderConfig, probe: Means2dProbe | None
) -> Rendered:
    """See :func:`splatseg.render.render`."""
    splats = Splats(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    return rasterize(splats, camera, features, config, probe)
