"""Time the CPU rasterizer against a scalar tile loop and the PyTorch reference, all in one run.

Prints milliseconds, gigapixel-contributions a second (blended (pixel, Gaussian) pairs) and ratios for 50k and 200k
Gaussians at 640x480, RGB and RGB + 16 channels, one and two threads, and writes benchmarks/results/rasterize.json. Our
times are of the whole op: projection, SH of degree 3, depth sort, blending of color, depth and alpha, and in the
backward all of their gradients; the scalar loop's are of its blending alone. Values are compared before they are timed.

    PYTHONPATH=. python benchmarks/rasterize.py [--repeats 7] [--quick]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import processor
from splatseg.core.camera import Camera
from splatseg.fit.malloc import freed_memory_kept
from splatseg.io import write_text
from splatseg.ops.rasterize import RenderConfig, Splats, rasterize
from splatseg.ops.reference import rasterize as reference

HERE = Path(__file__).parent
WIDTH, HEIGHT, FOCAL = 640, 480, 560.0


def make_scene(n: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> tuple[Splats, Camera]:
    """``n`` Gaussians, uniform over the image and depths 2..8; the more, the smaller, as in a fitted scene."""
    g = torch.Generator().manual_seed(0)
    width, height = size
    focal = FOCAL * width / WIDTH
    depth = 2 + 6 * torch.rand(n, generator=g)
    image = torch.rand(n, 2, generator=g) * torch.tensor([width, height])
    means = (
        torch.cat([(image - torch.tensor([width / 2, height / 2])) / focal, torch.ones(n, 1)], dim=1) * depth[:, None]
    )
    pixels = 0.4 * (width * height / n) ** 0.5 * torch.exp(0.5 * torch.randn(n, 3, generator=g)) * 1.8
    opacities = torch.sigmoid(1.5 * torch.randn(n, generator=g))
    quats, sh = torch.randn(n, 4, generator=g), torch.randn(n, 16, 3, generator=g) * 0.2
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Splats(means, quats, pixels * depth[:, None] / focal, opacities, sh), Camera(K, torch.eye(4), width, height)


def best_ms(run: Callable[[], Any], repeats: int) -> float:
    """Least wall time of ``repeats`` runs: on a shared machine the least disturbed one."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def compile_scalar() -> ctypes.CDLL:
    library = Path(tempfile.mkdtemp()) / "scalar_tile_loop.so"
    flags = ["-O3", "-march=native", "-std=c++20", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, str(HERE / "scalar_tile_loop.cpp"), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.scalar_forward.restype = ctypes.c_int64
    return loaded


class SceneStruct(ctypes.Structure):
    """``Scene`` of scalar_tile_loop.cpp."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("width", "height", "channels")),
        *((name, ctypes.c_void_p) for name in ("means2d", "conics", "opacities", "colors", "offsets", "ids")),
    )


class ScalarLoop:
    """The scalar blending of one scene, over the tile lists of our op."""

    def __init__(self, library: ctypes.CDLL, splats: Splats, camera: Camera, features: Tensor | None) -> None:
        state = torch.ops.splatseg.rasterize(*op_arguments(splats, camera, features))
        means2d, cov, _ = reference.project(
            splats.means,
            splats.quats,
            splats.scales,
            camera.K,
            camera.cam_from_world,
            (camera.width, camera.height),
            0.3,
        )
        conics = torch.linalg.inv(cov)[:, [0, 0, 1], [0, 1, 1]]
        colors = reference.shade(splats.means, splats.sh, camera.cam_from_world, 3)
        if features is not None:
            colors = torch.cat([colors, features], dim=1)
        arrays = [t.contiguous() for t in (means2d, conics, splats.opacities, colors, *state[7:9])]
        self.library, self.arrays = library, arrays
        self.scene = SceneStruct(camera.width, camera.height, colors.shape[1], *(t.data_ptr() for t in arrays))
        self.image = torch.empty(camera.height, camera.width, colors.shape[1])
        self.transmittance = torch.empty(camera.height, camera.width)
        self.last = torch.empty(camera.height, camera.width, dtype=torch.int32)
        self.grads = torch.zeros(len(means2d), 6 + colors.shape[1])

    def forward(self) -> int:
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (self.image, self.transmittance, self.last)]
        threads = torch.get_num_threads()
        return int(self.library.scalar_forward(ctypes.byref(self.scene), threads, *pointers))

    def backward(self, grad: Tensor) -> None:
        self.grads.zero_()
        tensors = (self.transmittance, self.last, grad, self.grads)
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
        self.library.scalar_backward(ctypes.byref(self.scene), torch.get_num_threads(), *pointers)


def op_arguments(splats: Splats, camera: Camera, features: Tensor | None) -> tuple[Any, ...]:
    config = RenderConfig()
    numbers = (camera.width, camera.height, 3, config.eps2d, *config.depths(camera))
    return (*vars(splats).values(), features, None, None, camera.K, camera.cam_from_world, torch.zeros(3), *numbers)


@dataclass(frozen=True)
class Timing:
    """One line of the table; milliseconds."""

    gaussians: int
    channels: int
    threads: int
    forward: float
    backward: float
    scalar_forward: float
    scalar_backward: float
    contributions: int

    def report(self) -> str:
        rate = self.contributions / self.forward / 1e6
        return (
            f"{self.gaussians:>9,} {'RGB' if self.channels == 3 else f'RGB+{self.channels - 3}':>7} {self.threads:>7} "
            f"{self.forward:>8.1f} {self.backward:>9.1f} {rate:>8.2f} {self.scalar_forward:>10.1f} "
            f"{self.scalar_backward:>10.1f} {self.scalar_forward / self.forward:>8.1f} "
            f"{self.scalar_backward / self.backward:>8.1f}"
        )


def time_case(library: ctypes.CDLL, n: int, channels: int, threads: int, repeats: int) -> Timing:
    torch.set_num_threads(threads)
    splats, camera = make_scene(n)
    features = torch.randn(n, channels - 3, generator=torch.Generator().manual_seed(1)) if channels > 3 else None
    loop = ScalarLoop(library, splats, camera, features)
    contributions = loop.forward()
    leaves = [t.clone().requires_grad_() for t in vars(splats).values()]
    rows = None if features is None else features.clone().requires_grad_()
    drawing = rasterize(Splats(*leaves), camera, rows)
    outputs = [drawing.color] if drawing.features is None else [drawing.color, drawing.features]
    error = float((torch.cat(outputs, dim=-1).detach() - loop.image).abs().max())
    assert error < 2e-2, f"values differ by {error}"  # one splat at the 1/255 or 1e-4 limit may fall either way
    grad = torch.randn(loop.image.shape, generator=torch.Generator().manual_seed(2))
    grads = [g.contiguous() for g in grad.split([3, channels - 3][: len(outputs)], dim=-1)]
    inputs = leaves if rows is None else [*leaves, rows]
    forward = best_ms(lambda: rasterize(splats, camera, features), repeats)
    backward = best_ms(lambda: torch.autograd.grad(outputs, inputs, grads, retain_graph=True), repeats)
    scalar = max(2, repeats // 3)
    scalar_times = best_ms(loop.forward, scalar), best_ms(lambda: loop.backward(grad), scalar)
    return Timing(n, channels, threads, forward, backward, *scalar_times, contributions)


def time_reference(repeats: int, n: int = 1000) -> dict[str, float]:
    """The op and the PyTorch reference, forward and backward, on a scene the reference can hold."""
    torch.set_num_threads(1)
    splats, camera = make_scene(n, (96, 72))
    times = {}
    for name, run in (("op", torch.ops.splatseg.rasterize), ("reference", reference.rasterize)):
        leaves = [t.clone().requires_grad_() for t in vars(splats).values()]

        def both(run: Any = run, leaves: list[Tensor] = leaves) -> None:
            color = run(*op_arguments(Splats(*leaves), camera, None))[0]
            torch.autograd.grad(color.sum(), leaves)

        times[name] = best_ms(both, repeats)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="50k Gaussians and one thread only")
    options = parser.parse_args()
    library = compile_scalar()
    isa = __import__("splatseg._C", fromlist=["isa"]).isa()
    print(f"{processor()}, {isa}, torch {torch.__version__}, {WIDTH}x{HEIGHT}, best of {options.repeats}")
    print("Gaussians channels threads  fwd ms    bwd ms  Gpix/s  scalar fwd scalar bwd  x fwd    x bwd")
    timings = []
    for n in (50_000,) if options.quick else (50_000, 200_000):
        for channels in (3, 19):
            for threads in (1,) if options.quick else (1, 2):
                with freed_memory_kept():  # as the fit does
                    timings.append(time_case(library, n, channels, threads, options.repeats))
                print(timings[-1].report(), flush=True)
    small = time_reference(options.repeats)
    print("PyTorch reference, 1000 Gaussians at 96x72, forward + backward, one thread:")
    print(f"  {small['reference']:.1f} ms, op {small['op']:.2f} ms, {small['reference'] / small['op']:.0f}x")
    result = {
        "machine": processor(),
        "isa": isa,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "image": [WIDTH, HEIGHT],
        "timings_ms": [vars(t) for t in timings],
        "reference_ms": small,
    }
    (HERE / "results").mkdir(exist_ok=True)
    write_text(HERE / "results" / "rasterize.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
