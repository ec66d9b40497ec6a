"""A far shell: points behind everything, for the pixels that show what no photo could be matched at (sky, a far wall).

Without it such pixels begin as black, and the fit explains them by what gets the gradient: veils before the cameras,
which another view sees from the side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

from splatseg.core.scene import Points, Scene, View
from splatseg.core.sphere import fibonacci_sphere
from splatseg.fit.geometry.sweep import in_picture

BEYOND = 0.99  # quantile of the distances of the sparse points: strays beyond it do not push the shell away
NEAREST = 8  # directions that photos show, for one that none shows
COUNTED = 0.5  # least share of a shell point's pixels that the fit counts


def shell_points(scene: Scene, count: int, reach: float) -> Points:
    """At most ``count`` points evenly spread on a sphere round the mean camera of ``scene``, in the fit's frame.

    Its radius is ``reach`` times the distance of the farthest sparse points, at least ``reach`` (the cameras lie in the
    unit sphere). A point takes the mean color of the photos that have it in their picture, averaged over the spacing of
    the points; where none has, that of the nearest directions that some have. Directions where most of the pixels are
    left out of the fit (masks of the capture, alpha) get no point: what is there is no part of the scene.

    Moved and scaled captures have the same shell; a turned one has its points elsewhere on the same sphere.
    """
    directions = fibonacci_sphere(count, first=0.0)
    middle = torch.stack([view.camera.position for view in scene.views]).double().mean(0).float()
    distances = (scene.points.xyz - middle).norm(dim=1)
    radius = reach * max(float(torch.quantile(distances, BEYOND)) if len(distances) else 0.0, 1.0)
    xyz = middle + radius * directions
    total, seen = torch.zeros(count, 4), torch.zeros(count)
    for view in scene.views:
        inside, _ = in_picture(view.camera, xyz)
        if bool(inside.any()):
            total[inside] += sampled(view, xyz[inside], math.sqrt(4 * math.pi / count))
            seen[inside] += 1
    if not bool((seen > 0).any()):
        return Points(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8))
    found = spread(directions, total / seen.clamp_min(1)[:, None], seen > 0)
    counted = found[:, 3] >= COUNTED
    rgb = (found[:, :3] / found[:, 3:].clamp_min(COUNTED)).clamp(0, 255).round().to(torch.uint8)
    return Points(xyz[counted], rgb[counted])


def sampled(view: View, xyz: Tensor, spacing: float) -> Tensor:
    """(m, 4): color (0..255) times share of counted pixels, and that share, of ``view`` at world points ``xyz`` (m, 3),
    each over about ``spacing`` radians."""
    camera = view.camera
    pixels, fitted = view.photo()
    counts = torch.ones(pixels.shape[:2]) if fitted is None else fitted.float()
    planes = torch.cat([pixels.float() * counts[..., None], counts[..., None]], 2).permute(2, 0, 1)[None]
    size = [max(round(n / (spacing * f)), 1) for n, f in ((camera.height, camera.fy), (camera.width, camera.fx))]
    small = F.interpolate(planes, size=[min(a, b) for a, b in zip(size, pixels.shape[:2], strict=True)], mode="area")
    image, _ = camera.project(xyz)
    grid = 2 * image / image.new_tensor([camera.width, camera.height]) - 1
    return F.grid_sample(small, grid[None, None], align_corners=False, padding_mode="border")[0, :, 0].T


def spread(directions: Tensor, values: Tensor, known: Tensor) -> Tensor:
    """``values`` (m, c) with those not ``known`` (m,) from the nearest known directions, weighted by 1 / distance^2."""
    if bool(known.all()):
        return values
    near = min(NEAREST, int(known.sum()))
    distance, which = cKDTree(directions[known].numpy()).query(directions[~known].numpy(), k=list(range(1, near + 1)))
    weights = torch.from_numpy(distance).float().square().reciprocal()
    filled = values.clone()
    filled[~known] = (values[known][torch.from_numpy(which)] * weights[..., None]).sum(1) / weights.sum(1)[:, None]
    return filled
