"""How long whole-scene discretization takes.

    PYTHONPATH=. python benchmarks/clusters.py [--sizes 200000 1000000] [--threads 2]

The splat is the one of ``benchmarks/click.py`` (walls and boxes, a feature per face, noise). Prints seconds per step
(wall clock; and of all processor time, which other work on the machine does not lengthen), the peak memory of the
process and the labels per level; the aim is 1M Gaussians in under a minute on 2 cores. Writes
benchmarks/results/clusters.json.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import tyro

from benchmarks.machine import machine
from splatseg.core.atomic import write_text
from splatseg.core.splat import FeatureSplat
from splatseg.segment.discretize import ClusterConfig, discretize

RESULT = Path(__file__).parent / "results" / "clusters.json"


@dataclass(frozen=True)
class Arguments:
    """Time the labels of a whole scene."""

    sizes: tuple[int, ...] = (200_000, 1_000_000)
    threads: int = 2
    check: bool = True
    """Run the smallest size twice; the labels must be the same."""


def click_benchmark() -> ModuleType:
    """``benchmarks/click.py`` by its path: the name is also that of a package on PyPI."""
    spec = importlib.util.spec_from_file_location("click_benchmark", Path(__file__).with_name("click.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up while it is made
    spec.loader.exec_module(module)
    return module


def measure(count: int, room: ModuleType, twice: bool) -> dict[str, Any]:
    """Seconds of each step on ``count`` Gaussians; ``twice``: refuse labels that differ the second time."""
    splat = FeatureSplat(*room.room(count))
    assert splat.field.unit is not None  # computed once, when a run is opened
    marks: list[tuple[str, float, float]] = []
    tree = discretize(splat, ClusterConfig(), lambda step, share: marks.append(clocks(step)))
    if twice and (discretize(splat, ClusterConfig()).labels != tree.labels).any():
        raise SystemExit(f"{count} Gaussians: the same seed gave other labels")
    steps = {
        first[0]: {"seconds": round(second[1] - first[1], 2), "processor_seconds": round(second[2] - first[2], 2)}
        for first, second in itertools.pairwise(marks)
    }
    whole = {name: round(sum(step[name] for step in steps.values()), 2) for name in ("seconds", "processor_seconds")}
    for name, step in {**steps, "all": whole}.items():
        print(f"{count:>9,}  {name:<10} {step['seconds']:7.2f} s, processor {step['processor_seconds']:7.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    labels = [len(tree.at_level(level)) for level in range(tree.levels)]
    print(f"{count:>9,}  labels {labels}, peak {peak} MB", flush=True)
    return {"gaussians": count, **whole, "steps": steps, "labels_per_level": labels, "peak_memory_mb": peak}


def clocks(step: str) -> tuple[str, float, float]:
    return step, time.perf_counter(), time.process_time()


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(arguments.threads)
    room = click_benchmark()
    load = os.getloadavg()[0]
    rows = [measure(count, room, arguments.check and count == min(arguments.sizes)) for count in arguments.sizes]
    content = {"machine": machine(), "load_before": round(load, 1), "config": asdict(ClusterConfig()), "rows": rows}
    write_text(RESULT, json.dumps(content, indent=1) + "\n")
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
