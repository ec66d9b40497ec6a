"""How long a click takes on the server: ``python benchmarks/click.py [--sizes 200000 1000000] [--repeats 40]``.

A splat of a size is a room of textured walls with some objects (random, but surfaces as a fit has them: flat
Gaussians on planes, scales by spacing), the camera sees about half of it at 640x480. ``click`` is all that lies between
the browser's message and the buffers for it: ``Session.click`` (pick: trace one pixel; scores: one matrix-vector
product; levels), new colors of the drawn Gaussians, and the pieces in which one has changed. ``threshold`` is the same
for a moved slider, which reuses the scores. Their parts are timed apart as well. Median and 95th percentile in
milliseconds; the aim for a click is 30 ms with 200k and 100 ms with 1M Gaussians on 2 cores. Writes
benchmarks/results/click.json.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
import tyro

from splatseg.core.atomic import write_text
from splatseg.core.camera import Camera
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.core.splat import FeatureSplat
from splatseg.fit.features import FeatureConfig
from splatseg.io.run import Run
from splatseg.segment.clicks import Click, make_query
from splatseg.segment.levels import propose_levels
from splatseg.segment.scores import scores
from splatseg.session import Session, Workspace
from splatseg.session.colors import Look, Painter
from splatseg.viewer import ViewerConfig
from splatseg.viewer.splats import SplatNodes, SplatTemplate

RESULT = Path(__file__).parent / "results/click.json"
AIM_MS = {200_000: 30.0, 1_000_000: 100.0}

DIM = FeatureConfig().dim  # what a fit gives by default
ROOM = 4.0  # edge, world units
THRESHOLD = 0.5  # a pixel on an edge blends two faces, each of which has a cosine of about 0.7 to it


@dataclass(frozen=True)
class Arguments:
    """Time a click on the server."""

    sizes: tuple[int, ...] = (200_000, 1_000_000)
    repeats: int = 40
    threads: int = 2


def room(count: int, seed: int = 0) -> tuple[Gaussians, FeatureField]:
    """``count`` flat Gaussians on the six faces of a room and of twenty boxes in it, with a feature per face."""
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


class Sink:
    """Takes what a browser would be sent."""

    def add_gaussian_splats(self, name: str, **arrays: Any) -> Any:
        return SimpleNamespace(name=name, **arrays)


class Window:
    """What a browser window does on the server, without the browser."""

    def __init__(self, workspace: Workspace) -> None:
        workspace.prepare()
        self.session = Session(workspace)
        template = SplatTemplate(workspace, ViewerConfig().draw_at_most)
        self.drawn = len(template.ids)
        self._painter = Painter(self.session, template.ids)
        self._nodes = SplatNodes(template, Sink())
        self.show()

    def show(self) -> int:
        """Bring the colors up to date; returns the pieces that were sent."""
        return self._nodes.show(self._painter.paint(Look()))

    def click(self, view: Camera, u: float, v: float) -> int:
        self.session.click(view, u, v)
        return self.show()

    def threshold(self, value: float) -> int:
        self.session.set_threshold(value)
        return self.show()


def measure(count: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Milliseconds of each step for a splat of ``count`` Gaussians; ``folder`` holds its run."""
    workspace = Workspace(Run(folder), FeatureSplat(*room(count)))
    window, view = Window(workspace), camera()
    pixels = np.random.default_rng(0).integers((40, 40), (600, 440), (repeats + 3, 2)).tolist()
    steps: dict[str, list[float]] = {n: [] for n in ("pick", "score", "levels", "set", "click", "threshold")}
    pieces = []
    for u, v in pixels:
        query = timed(steps["pick"], make_query, workspace.splat, [Click(view, (u, v))])
        found = timed(steps["score"], scores, workspace.field, query)
        timed(steps["levels"], propose_levels, found, workspace.weights)
        mask = timed(steps["set"], found.above, THRESHOLD)
        assert 0 < len(mask) < count
        pieces.append(timed(steps["click"], window.click, view, u, v))
        timed(steps["threshold"], window.threshold, THRESHOLD)
        assert window.session.selection == mask
    table: dict[str, Any] = {"gaussians": count, "drawn": window.drawn, "pieces_sent": float(np.mean(pieces))}
    for name, times in steps.items():
        kept = np.array(times[3:])  # the first three warm up
        table[name] = {"median_ms": float(np.median(kept)), "p95_ms": float(np.percentile(kept, 95))}
        print(f"{count:>9,}  {name:<10} {table[name]['median_ms']:8.2f} {table[name]['p95_ms']:8.2f}")
    if count in AIM_MS:
        table["aim_ms"] = AIM_MS[count]
        met = table["click"]["p95_ms"] <= AIM_MS[count]
        print(
            f"{count:>9,}  aim {AIM_MS[count]:.0f} ms for a click: {'met' if met else 'missed'} at the 95th percentile"
        )
    return table


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(arguments.threads)
    print("Gaussians  step       median ms   p95 ms")
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(count, arguments.repeats, Path(folder)) for count in arguments.sizes]
    machine = {"cores": os.cpu_count(), "threads": arguments.threads, "torch": torch.__version__}
    write_text(RESULT, json.dumps({**machine, "repeats": arguments.repeats, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
