"""Which Gaussians are drawn when there are too many for a browser."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.session.workspace import Workspace

MAX_BOOST = 2.0
BESIDE = 0.15  # of the picture: so far beside it a Gaussian is still drawn as if it were in it
UNSEEN = 1e-3  # of its weight is left to what is not in the picture


@dataclass(frozen=True, eq=False)
class Sample:
    """What is drawn: ``ids`` (m,) int64, ascending, and ``boost`` (m,) float32, a factor on their standard deviations
    that fills the gaps of those left out."""

    ids: Tensor
    boost: Tensor


def level_of_detail(workspace: Workspace, limit: int) -> Tensor:
    """Ascending ids of at most ``limit`` Gaussians to draw, the same each time, wherever one looks from."""
    return sample(workspace, limit).ids


def sample(workspace: Workspace, limit: int, camera: Camera | None = None) -> Sample:
    """At most ``limit`` Gaussians, the same each time.

    A weighted sample without replacement (Efraimidis and Spirakis, 2006), by what a Gaussian covers: its opacity times
    the area of its two longest axes, with ``camera`` of its picture: what is near and large first, and of what is not
    in it a thousandth. Large ones are nearly all kept, small ones thinned evenly among themselves.
    (:attr:`Workspace.weights` are for level proposals and leave the area out.)
    """
    n = len(workspace)
    if n <= limit:
        return Sample(torch.arange(n), torch.ones(n))
    gaussians = workspace.gaussians
    longest = gaussians.log_scales.double().topk(2, dim=1).values.sum(1)
    log_weights = (longest + gaussians.opacities.double().clamp_min(1e-12).log()).cpu()
    if camera is not None:
        log_weights += _seen_from(gaussians, camera)
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(n, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    # The same order as log(uniform) / weight, in logarithms: weights span many orders of magnitude.
    keys = log_weights - (-uniform.log()).log()
    best = keys.topk(limit + 1)
    ids = best.indices[:limit].sort().values
    if camera is None:
        return Sample(ids, torch.full((limit,), min(MAX_BOOST, (n / limit) ** 0.5)))
    # One is drawn where -log(uniform) <= weight / e^(least key): that often, and so much area it stands for.
    share = -torch.expm1(-(log_weights[ids] - best.values[-1]).exp())
    return Sample(ids, share.clamp_min(1e-12).rsqrt().clamp(max=MAX_BOOST).float())


def _seen_from(gaussians: Gaussians, camera: Camera) -> Tensor:
    """(n,) float64 logarithm of the factor from an area in the world to its picture's."""
    camera = camera.to(gaussians.device)
    centers, depths = camera.project(gaussians.means)
    size = centers.new_tensor([camera.width, camera.height])
    inside = ((centers >= -BESIDE * size) & (centers <= (1 + BESIDE) * size)).all(1) & (depths > camera.near)
    distance = (gaussians.means - camera.position).norm(dim=1).clamp_min(camera.near).double()
    return (-2 * distance.log() + math.log(UNSEEN) * ~inside).cpu()
