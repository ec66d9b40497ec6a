"""Times of the feature fit on the CPU: its step, the pools it draws from, and whole fits of 1000 and 10,000 steps.

A step is blend, loss, transpose and optimizer. In the same run, on the same batches: the step in vectorized PyTorch
(gather, multiply, index_add and autograd, the vectorized loss, fused dense Adam), the same with the published loss's
loops, and without the loss a vectorized step, one by sparse matrices and one through a drawn image. Values are compared
before anything is timed. The contenders take turns, as the speed of a shared machine changes within seconds: times are
the best of all turns, ratios the median over turns of two neighbors' times. The fits are the product's own, pools
included, each timed once. Writes benchmarks/results/features.json.

    PYTHONPATH=. python benchmarks/features.py [--gaussians 100000] [--views 50] [--threads 2] [--turns 12]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.feature_problem import (
    BATCH,
    CHANNELS,
    HEIGHT,
    PATCHES,
    POOL,
    WIDTH,
    Problem,
    block_hierarchy,
    make_problem,
    ring_cameras,
    surface_scene,
    views_of,
)
from benchmarks.loss_baselines import Batch, level_table, loop_loss, vectorized_loss
from benchmarks.machine import processor
from splatseg import ops
from splatseg.core.atomic import write_text
from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.fit.features import FeatureConfig, fit_features
from splatseg.fit.malloc import freed_memory_kept
from splatseg.fit.pixel_pools import SamplingConfig
from splatseg.ops import Contributions, LossConfig
from splatseg.ops.reference import blend as reference
from splatseg.render import render, trace

CONFIG = replace(LossConfig.gs(), min_pixels=1)
ADAM = ops.AdamConfig(norm_weight=0.0)
RESULT = Path(__file__).parent / "results/features.json"
Step = Callable[[], object]


def make_pools(
    gaussians: Gaussians, cameras: list[Camera], generator: torch.Generator
) -> tuple[list[Contributions], dict[str, float]]:
    """Trace a pool of random pixels in every view; time, memory and the weight lost to the threshold of 1e-3."""
    pools, times = [], []
    for camera in cameras:
        index = torch.randperm(WIDTH * HEIGHT, generator=generator)[:POOL]
        pixels = torch.stack([index % WIDTH, index // WIDTH], dim=1).to(torch.int32)
        start = time.perf_counter()
        pools.append(trace(gaussians, camera, pixels).half())
        times.append(1e3 * (time.perf_counter() - start))
    whole = trace(gaussians, cameras[-1], pixels, min_weight=0.0)
    return pools, {
        "trace_ms": statistics.median(times),
        "trace_best_ms": min(times),
        "pool_mb_a_view": pools[-1].nbytes / 1e6,
        "entries_a_pixel": pools[-1].ids.numel() / POOL,
        "lost_weight": 1 - float(pools[-1].weights.double().sum() / whole.weights.double().sum()),
    }


class OurStep:
    """Blend, loss, transpose and optimizer, cycling over the views; ``parts`` gathers the milliseconds of each."""

    def __init__(self, problem: Problem, with_loss: bool) -> None:
        self.problem, self.with_loss = problem, with_loss
        self.features = problem.start.clone()
        self.optimizer = ops.SparseFeatureAdam(self.features, ADAM)
        self.grad = torch.randn(BATCH, CHANNELS)
        self.count = 0
        self.parts: dict[str, list[float]] = {"blend": [], "loss": [], "transpose": [], "adam": []}

    def loss(self, blended: Tensor, patch: Tensor) -> Tensor:
        if not self.with_loss:
            return self.grad
        membership = self.problem.membership
        return ops.hierarchical_contrastive_loss_and_grad(blended, patch, membership=membership, config=CONFIG)[1]

    def __call__(self) -> None:
        pool, rows, patch = self.problem.step(self.count)
        self.count += 1
        marks = [time.perf_counter()]
        blended = ops.blend(pool, self.features, rows)
        marks.append(time.perf_counter())
        grad = self.loss(blended, patch)
        marks.append(time.perf_counter())
        self.optimizer.accumulate(pool, grad, rows)
        marks.append(time.perf_counter())
        self.optimizer.step()
        marks.append(time.perf_counter())
        for name, begin, end in zip(self.parts, marks, marks[1:], strict=False):
            self.parts[name].append(1e3 * (end - begin))


class PyTorchStep:
    """A step in plain PyTorch; ``loss`` of the blended features of step k, or none: a constant gradient."""

    def __init__(self, problem: Problem, loss: Callable[[Tensor, int], Tensor] | None) -> None:
        self.problem, self.loss = problem, loss
        self.features = problem.start.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.features], lr=ADAM.lr, fused=True)
        self.grad = torch.randn(BATCH, CHANNELS)
        self.count = 0

    def __call__(self) -> None:
        c, rows, _ = self.problem.step(self.count)
        blended = reference.blend(c.offsets, c.ids, c.weights, self.features, rows)
        if self.loss is None:
            blended.backward(self.grad)
        else:
            self.loss(blended, self.count).backward()
        self.count += 1
        self.optimizer.step()
        self.optimizer.zero_grad()


class BaselineLosses:
    """The vectorized and the published loss on the batches of ``problem``; their tables are made beforehand."""

    def __init__(self, problem: Problem) -> None:
        bits = (problem.membership[:, :, None] >> torch.arange(64)) & 1
        contains = bits.flatten(1).double()
        self.votes = (contains @ contains.T).int()
        self.patch = problem.patch
        empty = torch.empty(0)
        self.tables = [level_table(Batch(empty, p, problem.membership, self.votes), CONFIG) for p in problem.patch]

    def vectorized(self, blended: Tensor, step: int) -> Tensor:
        return vectorized_loss(blended, self.tables[step % len(self.tables)], CONFIG)

    def published(self, blended: Tensor, step: int) -> Tensor:
        return loop_loss(blended, self.patch[step % len(self.patch)], self.votes, CONFIG)


def sparse_matrix_step(problem: Problem) -> Step:
    """The step without the loss by torch.sparse: CSR matrices of the batches and transposes, made beforehand."""
    features = problem.start.clone().requires_grad_()
    matrices = []
    for step in range(len(problem.rows)):
        c, rows, _ = problem.step(step)
        entries, output = reference.select_rows(c.offsets, rows)
        indices, weights = torch.stack([output, c.ids[entries].long()]), c.weights[entries].float()
        matrix = torch.sparse_coo_tensor(indices, weights, (BATCH, len(features)), check_invariants=False)
        matrices.append((matrix.coalesce().to_sparse_csr(), matrix.t().coalesce().to_sparse_csr()))
    optimizer = torch.optim.Adam([features], lr=ADAM.lr, fused=True)
    grad = torch.randn(BATCH, CHANNELS)
    count = iter(range(1 << 30))

    def run() -> None:
        forward, backward = matrices[next(count) % len(matrices)]
        with torch.no_grad():
            _ = forward @ features
            features.grad = backward @ grad
        optimizer.step()

    return run


def full_image_step(gaussians: Gaussians, cameras: list[Camera], start: Tensor) -> Step:
    """What pools replace: draw the features of a whole view, forward and backward."""
    features = start.clone().requires_grad_()
    grad = torch.randn(HEIGHT, WIDTH, CHANNELS)
    count = iter(range(1 << 30))

    def run() -> None:
        drawn = render(gaussians, cameras[next(count) % len(cameras)], features).features
        assert drawn is not None
        torch.autograd.grad(drawn, features, grad)

    return run


def check_values(problem: Problem, losses: BaselineLosses) -> None:
    """Refuse to time what does not compute the same: gradients of the features through either loss, and the blend."""
    c, rows, patch = problem.step(0)
    leaf = problem.start.clone().requires_grad_()
    blended = reference.blend(c.offsets, c.ids, c.weights, leaf, rows)
    ours = ops.blend(c, problem.start, rows)
    assert torch.allclose(blended, ours, atol=1e-5)
    _, grad = ops.hierarchical_contrastive_loss_and_grad(ours, patch, membership=problem.membership, config=CONFIG)
    entries = (c.offsets, c.ids, c.weights)
    wanted = torch.ops.splatseg.blend_transpose(*entries, grad, rows, len(leaf))
    for name, loss in (("vectorised", losses.vectorized), ("published", losses.published)):
        (found,) = torch.autograd.grad(loss(blended, 0), leaf, retain_graph=True)
        error = float((found - wanted).norm() / wanted.norm())
        if error > 1e-3:  # rounding and log(sum + 1e-6)
            raise SystemExit(f"{name} step: differs from ours by {error:.1e}, expected at most 1e-3")


def take_turns(steps: dict[str, tuple[Step, int]], turns: int) -> dict[str, list[float]]:
    """Best milliseconds of each contender in each turn, in which it makes so many steps."""
    best: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-1, turns):  # the first one warms up
        for name, (step, count) in steps.items():
            times = []
            for _ in range(count):
                start = time.perf_counter()
                step()
                times.append(time.perf_counter() - start)
            if turn >= 0:
                best[name].append(1e3 * min(times))
    return best


def measure_steps(problem: Problem, gaussians: Gaussians, cameras: list[Camera], turns: int) -> dict[str, float]:
    losses = BaselineLosses(problem)
    check_values(problem, losses)
    ours = OurStep(problem, with_loss=True)
    times = take_turns(
        {
            "step": (ours, 25),
            "vectorised_step": (PyTorchStep(problem, losses.vectorized), 2),
            "published_step": (PyTorchStep(problem, losses.published), 1),
            "without_loss": (OurStep(problem, with_loss=False), 25),
            "vectorised_without_loss": (PyTorchStep(problem, None), 2),
            "sparse_matrix_without_loss": (sparse_matrix_step(problem), 4),
            "full_image_without_loss": (full_image_step(gaussians, cameras, problem.start), 1),
        },
        turns,
    )
    result = {f"{name}_ms": min(values) for name, values in times.items()}
    for name, values in times.items():
        base = "without_loss" if name.endswith("without_loss") else "step"
        if name != base:
            result[f"{name}_ratio"] = statistics.median(b / a for a, b in zip(times[base], values, strict=True))
    for name, values in ours.parts.items():
        result[f"{name}_ms"] = min(values)
        result[f"{name}_median_ms"] = statistics.median(values)
    return result


def measure_fits(gaussians: Gaussians, cameras: list[Camera], lengths: list[int]) -> dict[str, float]:
    """Seconds of whole fits by the loss, from noise: pools, sampling, loss, optimizer."""
    views, hierarchy = views_of(cameras), block_hierarchy()
    sampling = SamplingConfig(pool_pixels=POOL, batch_pixels=BATCH)
    result = {}
    for steps in lengths:
        config = replace(FeatureConfig.from_noise(), dim=CHANNELS, steps=steps, sampling=sampling)
        start = time.perf_counter()
        fit_features(gaussians, views, lambda _: hierarchy, config)
        result[f"fit_{steps}_steps_s"] = time.perf_counter() - start
    return result


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Every figure of the benchmark."""
    generator = torch.Generator().manual_seed(0)
    gaussians, cameras = surface_scene(options.gaussians, generator), ring_cameras(options.views)
    with freed_memory_kept():  # as the fit does
        pools, result = make_pools(gaussians, cameras, generator)
        problem = make_problem(pools, options.gaussians, 4 * options.views, generator)
        result |= measure_steps(problem, gaussians, cameras, options.turns)
    return result | measure_fits(gaussians, cameras, options.fits)  # a fit keeps its own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=100_000)
    parser.add_argument("--views", type=int, default=50)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--fits", type=int, nargs="*", default=[1000, 10_000], help="steps of whole fits")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(options)
    for name, value in result.items():
        print(f"{name:32} {value:10.3f}")
    setting = {**vars(options), "image": [WIDTH, HEIGHT], "pool": POOL, "batch": BATCH, "channels": CHANNELS}
    setting["patches"] = PATCHES
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": processor(), "torch": torch.__version__, "setting": setting, "result": result}
    write_text(RESULT, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
