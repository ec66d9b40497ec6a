"""Times of the feature fit's step on the CPU: trace, blend, its transpose, the loss and the optimizer.

Prints milliseconds and, from the same run, the ratio to a vectorised PyTorch step (gather, multiply, index_add, dense
Adam), to a sparse-matrix PyTorch step and to a pass over the full image. Values are compared before they are timed.
Ratios are of best times, which a busy machine disturbs least. Writes benchmarks/results/features.json.

    PYTHONPATH=. python benchmarks/features.py [--gaussians 100000] [--views 50] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from splatseg import ops
from splatseg.camera import Camera
from splatseg.gaussians import Gaussians
from splatseg.io.atomic import write_text
from splatseg.ops import Contributions
from splatseg.ops.reference import blend as reference
from splatseg.render import render, trace

WIDTH, HEIGHT, CHANNELS = 640, 480, 16
POOL, BATCH, PATCHES = 32768, 8192, 180
RESULT = Path(__file__).parent / "results/features.json"


@dataclass(frozen=True)
class Problem:
    """Pools of all views, the rows of some steps, and the patches of the sampled pixels."""

    pools: list[Contributions]
    rows: list[Tensor]
    patch: list[Tensor]
    membership: Tensor
    start: Tensor


def surface_scene(n: int, generator: torch.Generator) -> Gaussians:
    """n Gaussians as a fit leaves them: flat and overlapping on a floor and twelve spheres, most of them opaque."""
    floor = n // 3
    disc = torch.rand(floor, generator=generator).sqrt() * 3
    angle = torch.rand(floor, generator=generator) * 2 * math.pi
    ground = torch.stack([disc * angle.cos(), disc * angle.sin(), torch.zeros(floor)], dim=1)
    ring = torch.arange(12) * (2 * math.pi / 12)
    centres = torch.stack([1.6 * ring.cos(), 1.6 * ring.sin(), torch.full((12,), 0.45)], dim=1)
    normals = torch.nn.functional.normalize(torch.randn(n - floor, 3, generator=generator), dim=1)
    balls = centres[torch.randint(0, 12, (n - floor,), generator=generator)] + 0.45 * normals
    spacing = math.sqrt((math.pi * 9 + 12 * 4 * math.pi * 0.45**2) / n)
    scales = torch.rand(n, 3, generator=generator) * 1.2 + 0.4
    return Gaussians(
        means=torch.cat([ground, balls]),
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1),
        log_scales=(scales * spacing).log(),
        opacity_logits=torch.randn(n, generator=generator) * 1.5 + 0.5,
        sh=torch.rand(n, 1, 3, generator=generator),
    )


def ring_cameras(count: int) -> list[Camera]:
    """Cameras on a circle that look at the middle of the scene from above."""
    K = torch.tensor([[0.9 * WIDTH, 0, WIDTH / 2], [0, 0.9 * WIDTH, HEIGHT / 2], [0, 0, 1]])
    cameras = []
    for index in range(count):
        angle = 2 * math.pi * index / count
        position = torch.tensor([3.6 * math.cos(angle), 3.6 * math.sin(angle), 1.8])
        forward = torch.nn.functional.normalize(torch.tensor([0.0, 0.0, 0.2]) - position, dim=0)
        right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0])), dim=0)
        rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
        pose = torch.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ position
        cameras.append(Camera(K, pose, WIDTH, HEIGHT))
    return cameras


def milliseconds(name: str, run: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median and best of ``repeats`` calls, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return {f"{name}_ms": 1e3 * statistics.median(times), f"{name}_best_ms": 1e3 * min(times)}


def make_pools(
    gaussians: Gaussians, cameras: list[Camera], generator: torch.Generator
) -> tuple[list[Contributions], dict[str, float]]:
    """Trace a pool of random pixels in every view; time, memory and the weight lost to the threshold of 1e-3."""
    pools, times = [], []
    for camera in cameras:
        index = torch.randperm(WIDTH * HEIGHT, generator=generator)[:POOL]
        pixels = torch.stack([index % WIDTH, index // WIDTH], dim=1).to(torch.int32)
        start = time.perf_counter()
        pools.append(trace(gaussians, camera, pixels))
        times.append(1e3 * (time.perf_counter() - start))
    whole = trace(gaussians, cameras[-1], pixels, min_weight=0.0)
    return pools, {
        "trace_ms": statistics.median(times),
        "trace_best_ms": min(times),
        "pool_mb_a_view": pools[-1].nbytes / 1e6,
        "pool_half_mb_a_view": pools[-1].half().nbytes / 1e6,
        "entries_a_pixel": pools[-1].ids.numel() / POOL,
        "lost_weight": 1 - float(pools[-1].weights.sum() / whole.weights.sum()),
    }


def make_problem(pools: list[Contributions], n: int, steps: int, generator: torch.Generator) -> Problem:
    """Random batches of every pool; patches are blocks of the image, masks are unions of neighbouring blocks."""
    rows, patch = [], []
    side = math.isqrt(PATCHES)
    for step in range(steps):
        chosen = torch.randperm(POOL, generator=generator)[:BATCH].sort().values
        pixels = pools[step % len(pools)].pixels[chosen].long()
        rows.append(chosen)
        patch.append(1 + pixels[:, 1] * side // HEIGHT * side + pixels[:, 0] * side // WIDTH)
    block = torch.arange(side * side)
    membership = torch.zeros(side * side + 1, 2, dtype=torch.int64)
    membership[1:, 0] = (1 << (block // side)) | (1 << (20 + block % side))
    membership[1:, 1] = 1 << (block // side // 4)
    return Problem(pools, rows, patch, membership, torch.randn(n, CHANNELS, generator=generator))


def our_step(problem: Problem, steps: int) -> dict[str, float]:
    """Median milliseconds of each part of a step, cycling over the views. The loss is timed where it is built."""
    features = problem.start.clone()
    optimizer = ops.SparseFeatureAdam(features, ops.AdamConfig(norm_weight=100.0))
    loss = getattr(ops, "hierarchical_contrastive_loss_and_grad", None)
    times: dict[str, list[float]] = {"blend": [], "loss": [], "transpose": [], "adam": []}
    grad = torch.randn(BATCH, CHANNELS)
    for step in range(steps):
        pool, rows = problem.pools[step % len(problem.pools)], problem.rows[step % len(problem.rows)]
        marks = [time.perf_counter()]
        blended = ops.blend(pool, features, rows)
        marks.append(time.perf_counter())
        if loss is not None:
            grad = loss(blended, problem.patch[step % len(problem.rows)], membership=problem.membership)[1]
        marks.append(time.perf_counter())
        optimizer.accumulate(pool, grad, rows)
        marks.append(time.perf_counter())
        optimizer.step()
        marks.append(time.perf_counter())
        for name, begin, end in zip(times, marks, marks[1:], strict=False):
            times[name].append(1e3 * (end - begin))
    if loss is None:
        del times["loss"]
    result = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
    result |= {f"{name}_best_ms": min(values) for name, values in times.items()}
    for kind in ("ms", "best_ms"):
        result[f"step_without_loss_{kind}"] = sum(result[f"{name}_{kind}"] for name in ("blend", "transpose", "adam"))
    return result


def check_values(problem: Problem) -> None:
    """Our blend and its transpose against the plain PyTorch ones, on one batch."""
    c, rows, n = problem.pools[0], problem.rows[0], problem.start.shape[0]
    grad = torch.randn(BATCH, CHANNELS)
    features = problem.start.clone().requires_grad_()
    blended = ops.blend(c, features, rows)
    (transposed,) = torch.autograd.grad(blended, features, grad)
    assert torch.allclose(blended, reference.blend(c.offsets, c.ids, c.weights, features, rows), atol=1e-5)
    expected = reference.blend_transpose(c.offsets, c.ids, c.weights, grad, rows, n)
    assert torch.allclose(transposed, expected, atol=1e-4)


def vectorised_step(problem: Problem) -> Callable[[], object]:
    """A step of ours without the loss in plain PyTorch: gather, multiply, index_add and its autograd, dense Adam."""
    features = problem.start.clone().requires_grad_()
    optimizer = torch.optim.Adam([features], lr=2.5e-3, fused=True)
    grad = torch.randn(BATCH, CHANNELS)
    count = iter(range(1 << 30))

    def run() -> None:
        step = next(count)
        c, rows = problem.pools[step % len(problem.pools)], problem.rows[step % len(problem.rows)]
        reference.blend(c.offsets, c.ids, c.weights, features, rows).backward(grad)
        optimizer.step()
        optimizer.zero_grad()

    return run


def sparse_matrix_step(problem: Problem) -> Callable[[], object]:
    """The same with torch.sparse: CSR matrices of the batches and their transposes, made beforehand, times dense."""
    features = problem.start.clone().requires_grad_()
    matrices = []
    for c, rows in zip(problem.pools, problem.rows, strict=False):
        entries, output = reference.select_rows(c.offsets, rows)
        indices = torch.stack([output, c.ids[entries].long()])
        matrix = torch.sparse_coo_tensor(indices, c.weights[entries], (BATCH, len(features)), check_invariants=False)
        matrices.append((matrix.coalesce().to_sparse_csr(), matrix.t().coalesce().to_sparse_csr()))
    optimizer = torch.optim.Adam([features], lr=2.5e-3, fused=True)
    grad = torch.randn(BATCH, CHANNELS)
    count = iter(range(1 << 30))

    def run() -> None:
        forward, backward = matrices[next(count) % len(matrices)]
        with torch.no_grad():
            _ = forward @ features
            features.grad = backward @ grad
        optimizer.step()

    return run


def full_image_step(gaussians: Gaussians, cameras: list[Camera], start: Tensor) -> Callable[[], object]:
    """What pools replace: draw the features of a whole view, forward and backward."""
    features = start.clone().requires_grad_()
    grad = torch.randn(HEIGHT, WIDTH, CHANNELS)
    count = iter(range(1 << 30))

    def run() -> None:
        drawn = render(gaussians, cameras[next(count) % len(cameras)], features).features
        assert drawn is not None
        torch.autograd.grad(drawn, features, grad)

    return run


def measure(n: int, views: int, steps: int) -> dict[str, float]:
    """Every figure of the benchmark."""
    generator = torch.Generator().manual_seed(0)
    gaussians, cameras = surface_scene(n, generator), ring_cameras(views)
    pools, result = make_pools(gaussians, cameras, generator)
    problem = make_problem(pools, n, min(steps, 4 * views), generator)
    check_values(problem)
    result |= our_step(problem, steps)
    result |= milliseconds("vectorised", vectorised_step(problem), 20)
    result |= milliseconds("sparse_matrix", sparse_matrix_step(problem), 20)
    result |= milliseconds("full_image", full_image_step(gaussians, cameras, problem.start), 10)
    for name in ("vectorised", "sparse_matrix", "full_image"):
        result[f"{name}_ratio"] = result[f"{name}_best_ms"] / result["step_without_loss_best_ms"]
    image = torch.rand(HEIGHT, WIDTH, 3, generator=generator).requires_grad_()
    target = torch.randint(0, 256, (HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    run = lambda: torch.autograd.grad(ops.photometric_loss(image, target), image)  # noqa: E731
    return result | milliseconds("photometric", run, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=100_000)
    parser.add_argument("--views", type=int, default=50)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = measure(args.gaussians, args.views, args.steps)
    for name, value in result.items():
        print(f"{name:26} {value:10.3f}")
    setting = {**vars(args), "image": [WIDTH, HEIGHT], "pool": POOL, "batch": BATCH, "channels": CHANNELS}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write_text(RESULT, json.dumps({"machine": platform.processor(), "setting": setting, "result": result}, indent=1))


if __name__ == "__main__":
    main()
