"""Every CUDA op once, small: what compute-sanitizer watches."""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.feature_problem import ring_cameras, surface_scene
from benchmarks.gpu_steps import (
    make_trainer,
)
from splatseg import ops
from splatseg.core.gaussians import Gaussians
from splatseg.fit.pixel_pools import PixelPool
from splatseg.ops import replay
from splatseg.ops.replay import EAGER_STEPS, BatchSize, PooledSteps, PoolStack, Schedule
from splatseg.render import Means2dProbe, RenderConfig, render, trace


def exercise_photometric(device: torch.device) -> None:
    """The loss of photographs in both dtypes, against both of its targets' dtypes; tiles cut off on two sides."""
    for dtype in (torch.float32, torch.float64):
        for height, width, channels in ((70, 45, 3), (33, 70, 1), (1, 1, 3)):
            image = torch.rand(height, width, channels, dtype=dtype, device=device, requires_grad=True)
            target = torch.rand_like(image.detach())
            for other in (target, (255 * target).to(torch.uint8)):
                ops.photometric_loss(image, other).backward()
                ops.photometric_loss(image.detach(), other)
            assert image.grad is not None and bool(torch.isfinite(image.grad).all())


def exercise_steps(contributions: ops.Contributions, features: Tensor, patch: Tensor, membership: Tensor) -> None:
    """Replayed steps over one pool, which has columns for blocks, warps and groups of lanes."""
    few = torch.where(contributions.ids % 3 > 0, contributions.ids, contributions.ids % 7)
    rows = (contributions.counts > 0).nonzero()[:, 0]
    pool = PixelPool(replace(contributions, ids=few), rows, patch, membership)
    loss = ops.LossConfig(min_pixels=2)
    stack = PoolStack.of([pool], BatchSize(600, loss.min_pixels), torch.Generator(features.device).manual_seed(0))
    schedule = Schedule(torch.tensor([0, 1, 0]), [0.01] * 3)
    table_bytes = replay.TABLE_BYTES
    for bound in (table_bytes, 0):  # tables made before, and in every step
        for deterministic in (False, True):
            replay.TABLE_BYTES = bound
            config = replace(loss, deterministic=deterministic)
            steps_ = PooledSteps(stack, ops.SparseFeatureAdam(features), config, schedule)
            assert min(steps_.columns.most) > 0
            steps_.run(3)
            steps_.check()
    replay.TABLE_BYTES = table_bytes


def exercise(args: argparse.Namespace) -> None:
    """Every kernel of ours once, forward and backward, on sizes that leave warps and blocks half full."""
    device = torch.device(args.device)
    generator = torch.Generator().manual_seed(0)
    gaussians: Gaussians = surface_scene(1500, generator).to(device)
    camera = ring_cameras(1)[0].resized(100, 70).to(device)
    pixels = torch.stack([torch.randint(0, s, (700,), generator=generator) for s in (100, 70)], 1).to(device)
    c = trace(gaussians, camera, pixels)
    patch = torch.randint(0, 30, (700,), generator=generator).to(device)
    membership = torch.randint(0, 2**40, (30, 1), generator=generator).to(device)
    for dim in (3, 8, 16, 32):
        for contributions in (c, c.half()):
            features = torch.randn(1500, dim, generator=generator).to(device)
            blended = ops.blend(contributions, features)
            for deterministic in (False, True):
                loss = ops.LossConfig(min_pixels=2, deterministic=deterministic)
                grad = ops.hierarchical_contrastive_loss_and_grad(blended, patch, membership=membership, config=loss)[1]
            optimizer = ops.SparseFeatureAdam(features)
            optimizer.accumulate(contributions, grad)
            optimizer.step()
            exercise_steps(contributions, features, patch, membership)
    exercise_photometric(device)
    leaf = gaussians.means.clone().requires_grad_()
    probe = Means2dProbe.zeros(1500, device)
    for packed in (False, True):
        ones, config = torch.ones(1500, 16, device=device), RenderConfig(packed=packed)
        render(replace(gaussians, means=leaf), camera, ones, config, probe).color.sum().backward()
    short = argparse.Namespace(**{**vars(args), "gaussians": 800, "views": 2, "pool": 2048, "batch": 500, "steps": 8})
    trainer = make_trainer(short)
    trainer.replays = True
    trainer.advance(0, EAGER_STEPS + 4)
    assert bool(torch.isfinite(trainer.features).all())
    print("exercise: every op ran")
