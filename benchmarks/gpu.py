"""Parts of ``benchmarks/gpu.sh``: what a GPU is measured by, each part a subcommand that leaves a JSON file.

    python benchmarks/gpu.py check                     # a line about the GPU, or one about why there is none and exit 3
    python benchmarks/gpu.py steps OUT.json            # pools, replayed steps, single steps, full-image steps
    python benchmarks/gpu.py fit OUT.json --scene DIR  # a whole fit, pools against --full-render: time and IoU
    python benchmarks/gpu.py geometry OUT.json --scene DIR   # a step of the geometry fit: wall, device time, kernels
    python benchmarks/gpu.py loss OUT.json             # the loss alone, replayed
    python benchmarks/gpu.py exercise                  # every CUDA op once, small: what compute-sanitizer watches
    python benchmarks/gpu.py merge FOLDER RESULTS      # one table, and RESULTS/<device>.json

``--device cpu`` runs the same code on the CPU, for a try of the parts themselves.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from benchmarks.feature_problem import CHANNELS, HEIGHT, WIDTH, ring_cameras, surface_scene
from splatseg import ops
from splatseg.core.atomic import write_text
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import View
from splatseg.evaluate.hierarchical import evaluate_scene, load_hierarchical
from splatseg.fit.features import FeatureConfig, FeatureTrainer
from splatseg.fit.geometry import GeometryConfig, gaussians_from_points
from splatseg.fit.geometry.fit import train_step
from splatseg.fit.geometry.photos import PhotoCache
from splatseg.fit.geometry.state import FitState
from splatseg.fit.pipeline import Fit, FitConfig, FitInputs
from splatseg.fit.pixel_pools import PixelPool, SamplingConfig
from splatseg.io.colmap import load_colmap
from splatseg.io.ply import load_gaussians
from splatseg.masks.hierarchy import PatchHierarchy
from splatseg.ops.replay import EAGER_STEPS, PooledSteps, PoolStack, Schedule, captured
from splatseg.render import Means2dProbe, RenderConfig, render, trace
from splatseg.render.backends import cuda_obstacle
from splatseg.segment.splat import SegmentableSplat
from splatseg.synthetic import SceneConfig, write_scene

TARGETS = {  # on one H100
    "steps": {"fit_10k_steps_s": 2.0, "step_us": 45.0},
    "fit": {"whole_seconds": 25.0, "features_seconds": 1.0},
}
SIDE = 13  # patches a side of the made-up hierarchies


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Mean wall time of ``repeats`` calls, the device's work included."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronise(device)
    return (time.perf_counter() - start) / repeats


def check() -> int:
    """0 and what the GPU is, or 3 and why there is none."""
    if not torch.cuda.is_available():
        built = "this torch is built for the CPU" if torch.version.cuda is None else "no GPU answers"
        print(f"gpu: no CUDA device to be had here ({built}, torch {torch.__version__}); nothing was run")
        return 3
    free, total = torch.cuda.mem_get_info()
    major, minor = torch.cuda.get_device_capability()
    print(f"gpu: {torch.cuda.get_device_name()}, sm_{major}{minor}, {free >> 30} of {total >> 30} GiB free, ", end="")
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}")
    return 0


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
    """The fit of the target: 8192 pixels a step of 1M Gaussians and 200 views."""
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
    synchronise(device)
    result["pools_s"] = time.perf_counter() - began
    stack = trainer._replayed.stack
    result["pools_mb"] = stack.contributions.nbytes / 1e6
    result["columns_mb"] = trainer._replayed.columns.nbytes / 1e6
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
    steps_._step.fill_(first)
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
    c, rows, features = steps_.stack.contributions, steps_._rows, trainer.features
    blended = ops.blend(c, features, rows)
    config, optimizer = trainer.config.loss, trainer.optimizer

    def loss() -> Tensor:
        return ops.hierarchical_contrastive_loss_and_grad(
            blended, steps_._patch, membership=steps_._membership, config=config
        )[1]

    grad = loss()

    steps_._step.fill_(0)  # beyond the last no Gaussian would move

    repeats = 200 if device.type == "cuda" else 3
    parts: dict[str, Callable[[], object]] = {
        "blend": lambda: ops.blend(c, features, rows),
        "loss": loss,
        "transpose": lambda: optimizer.accumulate(c, grad, rows),
        "transpose_and_adam": lambda: steps_.transpose_and_move(grad),
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


def fit(args: argparse.Namespace) -> dict[str, Any]:
    """A fit as a user makes it, whole; then its features again through full images: seconds and IoU of both."""
    out = Path(args.out).with_suffix("")
    scene = Path(args.scene) if args.scene else out / "scene"
    if not args.scene and not (scene / "queries.json").is_file():  # written last
        write_scene(scene, SceneConfig(views=24, test_views=6))
    masks = str(scene / "masks_2d") if (scene / "masks_2d").is_dir() else "watershed"
    config = FitConfig.preset(args.preset)
    if args.quick:
        config = replace(
            config, geometry=replace(config.geometry, steps=60), features=replace(config.features, steps=20)
        )
    device = torch.device(args.device)
    result: dict[str, Any] = {"scene": scene.name, "masks": Path(masks).name, "preset": args.preset}
    first = Fit(FitInputs(scene, out / "pools", masks, device=args.device), config)
    result["whole_seconds"] = seconds(first.execute, device)
    figures = first.figures
    for name in ("geometry", "masks", "features", "labels"):
        result[f"{name}_seconds"] = figures.get(f"{name}_seconds")
    result |= {name: figures.get(name) for name in ("psnr_held_out", "gaussians", "labels_per_level")}
    result["geometry_steps_per_s"] = config.geometry.steps / figures["geometry_seconds"]
    jobs = {"pools": first}
    if not args.no_full_render:
        whole = replace(config, features=replace(config.features, full_render=True))
        jobs["full_render"] = Fit(FitInputs(scene, out / "full", masks, first.run.geometry, device=args.device), whole)
        result["full_render_features_seconds"] = jobs["full_render"].execute().get("features_seconds")
    if device.type == "cuda":
        result["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    write_text(Path(args.out), json.dumps(result, indent=1) + "\n")  # before the evaluation, which may not be reached
    if (scene / "queries.json").is_file():
        truth = load_hierarchical(scene)
        for label, job in jobs.items():
            result |= iou(job, label, truth, device)
    return result


def geometry(args: argparse.Namespace) -> dict[str, Any]:
    """Steps of the geometry fit late in it: wall time beside the time of the device's kernels, largest first.

    From the splat of the part ``fit`` where that lies beside ``args.out``, else from the sparse points.
    """
    device, config = torch.device(args.device), GeometryConfig()
    scene = load_colmap(Path(args.scene))
    splat = Path(args.out).parent / "fit" / "pools" / "geometry.ply"
    start = load_gaussians(splat) if splat.is_file() else gaussians_from_points(scene.points, config)
    state = FitState(start.to(device), scene.extent, config)
    first, count = int(0.7 * config.steps), 5 if args.quick else 200
    with PhotoCache(scene.views, device) as photos:
        step = iter(range(first, config.steps))
        for _ in range(2 if args.quick else len(scene.views)):  # every photo is on the device then
            train_step(state, photos, next(step))
        result: dict[str, Any] = {"gaussians": len(start)}
        result["step_ms"] = 1e3 * seconds(lambda: train_step(state, photos, next(step)), device, count)
        if device.type == "cuda":
            with torch.profiler.profile() as found:
                for _ in range(20):
                    train_step(state, photos, next(step))
                torch.cuda.synchronize()
            result |= largest(found.key_averages(), 20)
    return result


def largest(events: Any, steps: int, count: int = 14) -> dict[str, float]:
    """Device time per step, all of it and that of the largest kernels, and the host's largest operators, in ms."""
    kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    result = {"device_ms": sum(e.self_device_time_total for e in kernels) / steps / 1e3}
    result["kernels_per_step"] = sum(e.count for e in kernels) / steps
    for event in sorted(kernels, key=lambda e: -e.self_device_time_total)[:count]:
        result[f"device {event.key[:60]}"] = event.self_device_time_total / steps / 1e3
    for event in sorted(events, key=lambda e: -e.self_cpu_time_total)[:count]:
        result[f"host {event.key[:60]}"] = event.self_cpu_time_total / steps / 1e3
    return result


def iou(job: Fit, label: str, truth: Any, device: torch.device) -> dict[str, float]:
    """Part and object IoU at oracle thresholds."""
    splat = SegmentableSplat.load(job.run.geometry, job.run.features).to(device)
    report = evaluate_scene(splat, truth, proposals=False)
    return {f"{label}_{name}": value for name, value in report.averages().items()}


def loss(args: argparse.Namespace) -> dict[str, float]:
    """The loss with its gradient, replayed: milliseconds by samples and patches, even and skewed."""
    device, result = torch.device(args.device), {}
    for n, p, share in ((8192, 50, 0.0), (8192, 200, 0.0), (32768, 200, 0.0), (32768, 64, 0.4)):
        for d in (16, 24):
            g = torch.Generator().manual_seed(0)
            patch = torch.randint(1, p + 1, (n,), generator=g)
            patch[torch.rand(n, generator=g) < share] = 1
            features = torch.randn(n, d, generator=g).to(device)
            membership = torch.randint(0, 2**40, (p + 1, 1), generator=g).to(device)
            on = patch.int().to(device)

            def run(features: Tensor = features, on: Tensor = on, membership: Tensor = membership) -> None:
                ops.hierarchical_contrastive_loss_and_grad(features, on, membership=membership)

            run()
            replay = captured(run).replay if device.type == "cuda" else run
            replay()
            result[f"n{n}_p{p}_skew{share}_d{d}_ms"] = 1e3 * seconds(
                replay, device, 200 if device.type == "cuda" else 2
            )
    return result


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
    stack = PoolStack.of([pool], torch.Generator(features.device).manual_seed(0))
    schedule = Schedule(torch.zeros(3, dtype=torch.int32), torch.tensor([0, 5, len(rows) - 1]), [0.01] * 3)
    steps_ = PooledSteps(stack, ops.SparseFeatureAdam(features), ops.LossConfig(min_pixels=2), schedule, 600)
    assert min(steps_.columns.most) > 0
    steps_.run(3)
    steps_.check()


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


def test_counts(report: Path) -> dict[str, int]:
    """How many tests of a JUnit file ended how."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in suites:
        for name in counts:
            counts[name] += int(suite.get(name, 0))
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    return {"passed": passed, **{name: counts[name] for name in ("failures", "errors", "skipped")}}


def merge(folder: Path, results: Path) -> None:
    """One table of all parts, with the targets beside them; writes ``results/<device>.json``."""
    parts = {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))}
    if (folder / "tests.xml").is_file():
        parts["tests"] = test_counts(folder / "tests.xml")
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(f"\n{name}, torch {torch.__version__}\n{'part':10} {'figure':40} {'value':>14} {'target':>10}")
    for part, figures in parts.items():
        for key, value in figures.items():
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            print(f"{part:10} {key:40} {text:>14} {TARGETS.get(part, {}).get(key, ''):>10}")
    document = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "parts": parts}
    file = results / (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") + ".json")
    results.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(document, indent=1) + "\n")
    print(f"wrote {file}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["check", "steps", "fit", "geometry", "loss", "exercise", "merge"])
    parser.add_argument("out", nargs="?", default="", help="JSON file to write, or the folder to merge")
    parser.add_argument("results", nargs="?", default=str(Path(__file__).parent / "results"))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--scene", default="", help="of the fit; a synthetic one if not given")
    parser.add_argument("--preset", default="default", choices=["fast", "default", "quality"], help="of the fit")
    parser.add_argument("--no-full-render", action="store_true", help="leave the fit through full images out")
    parser.add_argument("--quick", action="store_true", help="a fit of a few steps, to try the part itself")
    for name, value in (("gaussians", 1_000_000), ("views", 200), ("pool", 32768), ("batch", 8192), ("memory", 8192),
                        ("steps", 10_000), ("warm", 50), ("full-steps", 50)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    if args.part == "check":
        return check()
    if args.part == "merge":
        merge(Path(args.out), Path(args.results))
        return 0
    obstacle = cuda_obstacle() if args.device == "cuda" else ""
    if obstacle:
        print(f"gpu: {obstacle}", file=sys.stderr)
        return 3 if not torch.cuda.is_available() else 1
    if args.part == "exercise":
        exercise(args)
        return 0
    figures = {"steps": steps, "fit": fit, "geometry": geometry, "loss": loss}[args.part](args)
    write_text(Path(args.out), json.dumps(figures, indent=1) + "\n")
    for name, value in figures.items():
        print(f"{name:32} {value:.4g}" if isinstance(value, float) else f"{name:32} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
