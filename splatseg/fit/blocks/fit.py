"""The fit of one block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import Points, Scene, View
from splatseg.fit.blocks.plan import Block, open_to
from splatseg.fit.geometry import GeometryConfig, fit_geometry
from splatseg.fit.geometry.fit import SHELL_SHARE
from splatseg.fit.geometry.frame import FitFrame
from splatseg.fit.geometry.region import Part
from splatseg.fit.geometry.shell import shell_points
from splatseg.fit.hooks import FitHooks

AROUND = 0.5  # Gaussians that a block has for what lies beside its region, for each of its own
OUTSIDE = 0.25  # ... of which it begins with so many, and as many again beyond its expanded region


def own_limit(most: int, count: int) -> int:
    """Gaussians that each of ``count`` blocks of a splat of at most ``most`` adds up to, in its own region."""
    return math.ceil(most / count)


def block_limit(most: int, count: int) -> int:
    """Gaussians that the fit of one of ``count`` blocks holds at most, what lies beside its region with it."""
    return most if count == 1 else min(most, math.ceil((1 + AROUND) * own_limit(most, count)))


def block_config(config: GeometryConfig, scene: Scene, count: int) -> GeometryConfig:
    """The settings of a block's fit, where ``config`` are those of the whole ``scene``: its share of all Gaussians and
    surface points, the same kind of start as all others, no shell of its own. Each block takes all of ``steps``."""
    dense = replace(config.dense, points=math.ceil((1 + AROUND) * config.dense.points / count))
    dense_start = config.starts_dense(len(scene.points.xyz), len(scene.views))
    limit = block_limit(config.max_gaussians, count)
    return replace(config, max_gaussians=limit, dense=dense, shell=0, start="dense" if dense_start else "sparse")


def scene_shell(scene: Scene, config: GeometryConfig, count: int) -> Points:
    """The far shell of the whole ``scene``, in its frame; none where the fit starts without.

    One for all blocks: each keeps what of it lies in its own region, so that no direction has it twice. Where photos
    show sparse points before it there is none: it would shine through another block's walls.
    """
    points = min(config.shell, int(SHELL_SHARE * own_limit(config.max_gaussians, count)))
    if not points or not config.starts_dense(len(scene.points.xyz), len(scene.views)):
        return Points(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8))
    frame = FitFrame.of(scene)
    found = shell_points(frame.scene(scene), points, config.shell_reach)
    xyz = frame.out(found.xyz)
    shown, visible = (torch.zeros(len(xyz), dtype=torch.bool) for _ in range(2))
    for view in scene.views:
        ids, free = open_to(view, xyz, scene.points.xyz)
        shown[ids] = True
        visible[ids] |= free
    kept = visible | ~shown
    return Points(xyz[kept], found.rgb[kept])


def fit_block(
    scene: Scene,
    block: Block,
    shell: Points,
    config: GeometryConfig,
    held_out: Sequence[View] = (),
    device: torch.device | str = "cpu",
    hooks: FitHooks | None = None,
) -> Gaussians:
    """Fit one block to its views; nothing else is known.

    Args:
        scene: the whole capture's training views and points.
        block: as :func:`splatseg.fit.blocks.plan.plan_blocks` gives it.
        shell: :func:`scene_shell` of the whole.
        config: the whole splat's settings.
        held_out: views that only measure.
        device: where to compute.
        hooks: as for :func:`splatseg.fit.geometry.fit_geometry`.

    Returns:
        All that was fitted, on the CPU, in the frame of ``scene``: of it the block has the Gaussians in its region as
        it was before it was expanded (VastGaussian, Lin et al., CVPR 2024, section 4.3, "seamless merging";
        CityGaussian, Liu et al., ECCV 2024, section 3.2), the others were there to explain the photos' other pixels.

    Raises:
        SplatsegError: as :func:`splatseg.fit.geometry.fit_geometry`.
    """
    own = own_limit(config.max_gaussians, block.count)
    part = Part(block.region, shell, own, math.ceil(OUTSIDE * own))
    within = Scene(block.views, block.points, scene.offset)
    return fit_geometry(within, block_config(config, scene, block.count), held_out, device, hooks, part=part)
