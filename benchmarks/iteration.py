"""Time whole iterations of the geometry fit, as it runs them, at a fixed number of Gaussians.

One iteration: activations, projection, SH of degree 3, rasterization of color and depth, L1 + D-SSIM, all their
backward passes and Adam over the drawn rows, at 640x480. Prints milliseconds by part and iterations a second, and
writes benchmarks/results/iteration.json.

    PYTHONPATH=. python benchmarks/iteration.py [--sizes 50000 200000] [--threads 1 2] [--repeats 15]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import processor
from benchmarks.rasterize import HEIGHT, WIDTH, make_scene
from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.fit.geometry.config import GeometryConfig
from splatseg.fit.geometry.state import FitState, Seen
from splatseg.fit.malloc import freed_memory_kept
from splatseg.io import write_text
from splatseg.ops import photometric_loss
from splatseg.render import Means2dProbe, RenderConfig, render

PARTS = ("forward", "loss", "backward", "optimise")


def make_state(n: int) -> tuple[FitState, Camera]:
    splats, camera = make_scene(n)
    gaussians = Gaussians(splats.means, splats.quats, splats.scales.log(), splats.opacities.logit(), splats.sh)
    return FitState(gaussians, 1.0, GeometryConfig(sh_degree=3)), camera


def iterate(state: FitState, camera: Camera, photo: Tensor, step: int) -> list[float]:
    """One iteration; milliseconds of each of PARTS."""
    times = [time.perf_counter()]
    probe = Means2dProbe.zeros(len(state.params["means"]), "cpu")
    rendered = render(state.gaussians(3), camera, config=RenderConfig(sh_degree=3), probe=probe)
    times.append(time.perf_counter())
    loss = photometric_loss(rendered.color, photo, state.config.ssim_weight)
    times.append(time.perf_counter())
    loss.backward()
    times.append(time.perf_counter())
    state.optimize(step, Seen(loss.detach(), (rendered.radii > 0).all(dim=1), None))
    times.append(time.perf_counter())
    return [1e3 * (b - a) for a, b in itertools.pairwise(times)]


def time_case(n: int, threads: int, repeats: int) -> dict[str, float]:
    """Medians over ``repeats`` iterations after three to warm up; the rate is that of the whole run."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    state, camera = make_state(n)
    photo = (torch.rand(HEIGHT // 8, WIDTH // 8, 3).repeat_interleave(8, 0).repeat_interleave(8, 1) * 255).to(
        torch.uint8
    )
    for step in range(3):
        iterate(state, camera, photo, step)
    start = time.perf_counter()
    times = [iterate(state, camera, photo, 3 + step) for step in range(repeats)]
    seconds = time.perf_counter() - start
    parts = {name: statistics.median(row[k] for row in times) for k, name in enumerate(PARTS)}
    return {"gaussians": n, "threads": threads, **parts, "iterations_per_s": repeats / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    print(f"{processor()}, {WIDTH}x{HEIGHT}, SH degree 3, ms (median of {options.repeats})")
    print("Gaussians threads " + "".join(f"{name:>10}" for name in PARTS) + "      it/s")
    rows = []
    for n in options.sizes:
        for threads in options.threads:
            with freed_memory_kept():  # as the fit does
                rows.append(time_case(n, threads, options.repeats))
            print(
                f"{n:9,} {threads:7}" + "".join(f"{rows[-1][k]:10.1f}" for k in (*PARTS, "iterations_per_s")),
                flush=True,
            )
    path = Path(__file__).parent / "results/iteration.json"
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps({"machine": processor(), "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
