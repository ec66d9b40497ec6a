"""Parts of ``benchmarks/gpu.sh``: what a GPU is measured by, each part a subcommand that leaves a JSON file.

    python benchmarks/gpu.py check                     # a line about the GPU, or one about why there is none and exit 3
    python benchmarks/gpu.py steps OUT.json            # pools, replayed steps, single steps, full-image steps
    python benchmarks/gpu.py fit OUT.json --scene DIR  # a whole fit, pools against --full-render: time and IoU
    python benchmarks/gpu.py geometry OUT.json --scene DIR   # a step of the geometry fit: wall, device time, kernels
    python benchmarks/gpu.py stages OUT.json --scene DIR     # features and labels of that fit again, by function
    python benchmarks/gpu.py loss OUT.json             # the loss alone, replayed
    python benchmarks/gpu.py exercise                  # every CUDA op once, small: what compute-sanitizer watches
    python benchmarks/gpu.py merge FOLDER RESULTS      # one table, and RESULTS/<device>.json

``--device cpu`` runs the same code on the CPU, for a try of the parts themselves.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_exercise import exercise
from benchmarks.gpu_stages import stages
from benchmarks.gpu_steps import seconds, steps
from benchmarks.gpu_table import merge
from splatseg import ops
from splatseg.core.atomic import write_text
from splatseg.evaluate.hierarchical import evaluate_scene, load_hierarchical
from splatseg.fit.geometry import GeometryConfig, gaussians_from_points
from splatseg.fit.geometry.fit import train_step
from splatseg.fit.geometry.photos import PhotoCache
from splatseg.fit.geometry.state import FitState
from splatseg.fit.pipeline import Fit
from splatseg.fit.settings import FitConfig, FitInputs
from splatseg.io.colmap import load_colmap
from splatseg.io.ply import load_gaussians
from splatseg.ops.replay import captured
from splatseg.render.backends import cuda_obstacle
from splatseg.segment.splat import SegmentableSplat
from splatseg.synthetic import SceneConfig, write_scene


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


PARTS = {"steps": steps, "fit": fit, "geometry": geometry, "stages": stages, "loss": loss}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "check", "exercise", "merge"])
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
    figures = PARTS[args.part](args)
    write_text(Path(args.out), json.dumps(figures, indent=1) + "\n")
    for name, value in figures.items():
        print(f"{name:32} {value:.4g}" if isinstance(value, float) else f"{name:32} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
