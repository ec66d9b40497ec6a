"""How long a click takes on the server: ``python benchmarks/click.py [--sizes 200000 1000000] [--repeats 40]``.

A splat of a size is a room of textured walls with some objects (random, but surfaces as a fit has them: flat
Gaussians on planes, scales by spacing), the camera sees about half of it at 640x480. Timed apart and together: pick
(trace one pixel and look up its feature), score (all Gaussians against it), threshold (new threshold, scores
reused), levels (proposals). Median and 95th percentile in milliseconds; the aim is 30 ms for 200k and 100 ms for 1M
Gaussians on 2 cores for the first three together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import tyro

from splatseg.camera import Camera
from splatseg.field import FeatureField
from splatseg.gaussians import Gaussians
from splatseg.selection import Click, make_query, propose_levels, scores, surface_weights

DIM = 16
ROOM = 4.0  # edge, world units


@dataclass(frozen=True)
class Arguments:
    sizes: tuple[int, ...] = (200_000, 1_000_000)
    repeats: int = 40
    threads: int = 2


def room(count: int, seed: int = 0) -> tuple[Gaussians, FeatureField]:
    """``count`` flat Gaussians on the six faces of a room and of twenty boxes in it, with a feature a face."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.cat([torch.zeros(1, 3), (torch.rand(20, 3, generator=generator) - 0.5) * 3])
    edges = torch.cat([torch.tensor([ROOM]), 0.3 + 0.5 * torch.rand(20, generator=generator)])
    box = torch.multinomial(edges**2, count, replacement=True, generator=generator)
    axis = torch.randint(3, (count,), generator=generator)
    side = torch.randint(2, (count,), generator=generator) - 0.5
    offsets = torch.rand(count, 3, generator=generator) - 0.5
    rows = torch.arange(count)
    offsets[rows, axis] = side
    means = boxes[box] + offsets * edges[box, None]
    spacing = (6 * float((edges**2).sum()) / count) ** 0.5
    log_scales = torch.full((count, 3), spacing).log()
    log_scales[rows, axis] -= 2.0
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    codes = torch.nn.functional.normalize(torch.randn(len(edges) * 6, DIM, generator=generator), dim=1)
    face = box * 6 + axis * 2 + (side > 0).long()
    features = codes[face] + 0.05 * torch.randn(count, DIM, generator=generator)
    logits = 2 + torch.randn(count, generator=generator)
    gaussians = Gaussians(means, quats, log_scales, logits, 0.3 * torch.randn(count, 1, 3, generator=generator))
    return gaussians, FeatureField(features, gaussians.fingerprint())


def camera() -> Camera:
    """A view along +z from one wall to the other."""
    cam_from_world = torch.eye(4)
    cam_from_world[2, 3] = 0.48 * ROOM
    return Camera(torch.tensor([[450.0, 0, 320], [0, 450.0, 240], [0, 0, 1]]), cam_from_world, 640, 480)


Result = TypeVar("Result")


def timed(times: list[float], work: Callable[..., Result], *arguments: Any) -> Result:
    """``work(*arguments)``; its milliseconds go to ``times``."""
    start = time.perf_counter()
    result = work(*arguments)
    times.append(1e3 * (time.perf_counter() - start))
    return result


def measure(count: int, repeats: int) -> None:
    gaussians, field = room(count)
    view = camera()
    weights = surface_weights(gaussians)  # like the unit features, computed once, when a run is opened
    assert field.unit is not None
    pixels = np.random.default_rng(0).integers((40, 40), (600, 440), (repeats + 3, 2)).tolist()
    steps: dict[str, list[float]] = {name: [] for name in ("pick", "score", "threshold", "levels")}
    for u, v in pixels:
        query = timed(steps["pick"], make_query, gaussians, field, [Click(view, (u, v))])
        found = timed(steps["score"], scores, field, query)
        mask = timed(steps["threshold"], found.above, 0.8)
        timed(steps["levels"], propose_levels, found, weights)
        assert 0 < len(mask) < count
    table = {name: np.array(times[3:]) for name, times in steps.items()}  # the first three warm up
    table["click"] = table["pick"] + table["score"] + table["threshold"]
    for name, times in table.items():
        print(f"{count:>9,}  {name:<10} {np.median(times):8.2f} {np.percentile(times, 95):8.2f}")


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(arguments.threads)
    print("Gaussians  step       median ms   p95 ms")
    for count in arguments.sizes:
        measure(count, arguments.repeats)


if __name__ == "__main__":
    main()
