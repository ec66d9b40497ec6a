"""The first guess of the geometry: one isotropic Gaussian a sparse point."""

from __future__ import annotations

import math

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import SH_C0, Gaussians
from splatseg.core.scene import Points
from splatseg.fit.geometry.config import GeometryConfig

MIN_POINTS = 4  # a point needs three neighbors to have a size


def neighbor_distances(xyz: Tensor, neighbors: int = 3) -> Tensor:
    """Root mean square distance (m,) of every point to its ``neighbors`` nearest other points."""
    distances, _ = cKDTree(xyz.numpy()).query(xyz.numpy(), k=neighbors + 1, workers=-1)
    return torch.from_numpy(distances[:, 1:]).square().mean(dim=1).sqrt().float()


def gaussians_from_points(points: Points, config: GeometryConfig) -> Gaussians:
    """SfM initialization of 3DGS: color of the point, size from its three nearest neighbors, no rotation.

    Raises:
        SplatsegError: fewer than four points.
    """
    count = points.xyz.shape[0]
    if count < MIN_POINTS:
        raise SplatsegError(f"points3D: expected at least {MIN_POINTS} points to start from, found {count}")
    # Points that coincide have distance zero; the floor keeps their log finite.
    sizes = neighbor_distances(points.xyz).clamp_min(1e-6) * config.init_scale
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1.0
    sh = torch.zeros(count, (config.sh_degree + 1) ** 2, 3)
    sh[:, 0] = (points.rgb.float() / 255 - 0.5) / SH_C0
    logit = math.log(config.init_opacity / (1 - config.init_opacity))
    return Gaussians(
        means=points.xyz.float().clone(),
        quats=quats,
        log_scales=sizes.log()[:, None].repeat(1, 3),
        opacity_logits=torch.full((count,), logit),
        sh=sh,
    )
