"""Feature steps on a GPU: made-up problems, replayed and single steps, steps through full images."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.feature_problem import CHANNELS, HEIGHT, WIDTH, ring_cameras, surface_scene
from splatseg import ops
from splatseg.core.scene import View
from splatseg.fit.features import FeatureConfig, FeatureTrainer
from splatseg.fit.pixel_pools import SamplingConfig
from splatseg.masks.hierarchy import PatchHierarchy
from splatseg.render import render

SIDE = 13  # patches a side of the made-up hierarchies


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Mean wall time of ``repeats`` calls, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def made_up_hierarchy(skewed: bool = False) -> PatchHierarchy:
    """Blocks of the image as patches; masks are their rows, columns and quarters. ``skewed``: one is 40 % of it."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    block = torch.arange(SIDE * SIDE)
    membership = torch.zeros(SIDE * SIDE + 1, 1, dtype=torch.int64)
    membership[1:, 0] = (1 << (block // SIDE)) | (1 << (20 + block % SIDE)) | (1 << (40 + block // SIDE // 4))
    ids = (1 + y * SIDE // HEIGHT * SIDE + x * SIDE // WIDTH).to(torch.int32)
    if skewed:  # as real views have it: the floor of dev_robots is two fifths of the masked pixels
        ids[:, : 2 * WIDTH // 5] = 1
    return PatchHierarchy(ids, membership)


def make_trainer(args: argparse.Namespace, full_render: bool = False, skewed: bool = False) -> FeatureTrainer:
    """The fit of the target: 8192 pixels per step of 1M Gaussians and 200 views."""
    generator = torch.Generator().manual_seed(0)
    gaussians = surface_scene(args.gaussians, generator).to(args.device)
    views = [View(f"{i}.png", camera, Path(f"{i}.png")) for i, camera in enumerate(ring_cameras(args.views))]
    hierarchy = made_up_hierarchy(skewed)
    sampling = SamplingConfig(pool_pixels=args.pool, batch_pixels=args.batch, memory_mb=args.memory)
    config = replace(
        FeatureConfig.from_noise(), dim=CHANNELS, steps=args.steps, sampling=sampling, full_render=full_render
    )
    return FeatureTrainer(gaussians, views, lambda view: hierarchy, config)


def steps(args: argparse.Namespace) -> dict[str, Any]:
    """Times of the feature fit's parts and of what it replaces."""
    device = torch.device(args.device)
    trainer = make_trainer(args)
    result: dict[str, Any] = {
        "gaussians": args.gaussians,
        "views": args.views,
        "batch": args.batch,
        "steps": args.steps,
    }
    result["trace_ms"] = 1e3 * seconds(lambda: trainer.pools.get(0), device)
    trainer.pools.forget()
    warm = args.warm
    trainer.replays = True  # on the CPU too, with references in the place of kernels
    began = time.perf_counter()
    trainer._replayed = trainer.replay()
    synchronize(device)
    result["pools_s"] = time.perf_counter() - began
    stack = trainer._replayed.stack
    result["pools_mb"] = stack.contributions.nbytes / 1e6
    result["columns_mb"] = trainer._replayed.columns.nbytes / 1e6
    result["tables_mb"] = trainer._replayed._tables.nbytes / 1e6
    result["entries_a_pixel"] = stack.contributions.ids.numel() / len(stack.contributions)
    trainer.advance(0, warm)  # the first ones capture the graph
    rest = seconds(lambda: trainer.advance(warm, args.steps), device)
    result["step_us"] = 1e6 * rest / (args.steps - warm)
    result["fit_10k_steps_s"] = result["pools_s"] + 1e4 * result["step_us"] / 1e6
    result |= kernel_times(trainer, args.steps - args.warm) if device.type == "cuda" else {}
    result |= single_steps(trainer, device)
    few = argparse.Namespace(**{**vars(args), "views": min(args.views, 8), "steps": args.warm + 200})
    skewed = make_trainer(few, skewed=True)
    skewed.replays = True
    skewed.advance(0, args.warm)
    result["skewed_step_us"] = 1e6 * seconds(lambda: skewed.advance(args.warm, args.warm + 200), device) / 200
    if device.type == "cuda":
        result |= {f"skewed_{name}": value for name, value in kernel_times(skewed, 0).items()}
    result |= full_images(args, device)
    if device.type == "cuda":
        result["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return result


def kernel_times(trainer: FeatureTrainer, first: int, count: int = 40) -> dict[str, float]:
    """Mean microseconds a step of each kernel of the replayed graph, as CUPTI sees them, from step ``first`` on."""
    steps_ = trainer._replayed
    assert steps_ is not None
    steps_.go_to(first)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        steps_.run(count)
        torch.cuda.synchronize()
    times: dict[str, float] = {}
    for event in found.key_averages():
        name = re.sub(r"[<(].*", "", event.key).split("::")[-1].removeprefix("void ")
        times[f"kernel_{name}_us"] = times.get(f"kernel_{name}_us", 0.0) + event.self_device_time_total / count
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def single_steps(trainer: FeatureTrainer, device: torch.device) -> dict[str, float]:
    """Each part of a step on its own, launched by the host: where the time goes."""
    steps_ = trainer._replayed
    assert steps_ is not None
    c, features = steps_.stack.contributions, trainer.features
    rows, patch, membership = steps_.batch(0)
    blended = ops.blend(c, features, rows)
    config, optimizer = trainer.config.loss, trainer.optimizer

    def loss() -> Tensor:
        return ops.hierarchical_contrastive_loss_and_grad(blended, patch, membership=membership, config=config)[1]

    grad = loss()

    def differentiate() -> None:
        steps_.go_to(0)
        steps_.differentiate()

    differentiate()  # without a batch no Gaussian would move

    repeats = 200 if device.type == "cuda" else 3
    parts: dict[str, Callable[[], object]] = {
        "blend": lambda: ops.blend(c, features, rows),
        "loss": loss,
        "transpose": lambda: optimizer.accumulate(c, grad, rows),
        "blend_and_loss": differentiate,
        "transpose_and_adam": steps_.transpose_and_move,
    }
    result = {f"{name}_us": 1e6 * seconds(run, device, repeats) for name, run in parts.items()}
    entries = float(c.counts[rows].sum())
    gathered = entries * (4 * CHANNELS + 4 + c.weights.element_size())
    return result | {"blend_gb_s": gathered / result["blend_us"] / 1e3}


def full_images(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Steps through gsplat's full images, which the pools replace."""
    trainer = make_trainer(args, full_render=True)
    count = args.full_steps
    trainer.step(0)
    one = seconds(lambda: [trainer.step(1 + k) for k in range(count)], device) / count
    g, camera = trainer.gaussians, trainer.views[0].camera.to(device)
    drawing = seconds(lambda: render(g, camera, trainer.features), device, count)
    return {"full_image_step_us": 1e6 * one, "full_image_10k_steps_s": 1e4 * one, "render_ms": 1e3 * drawing}
