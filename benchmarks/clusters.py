"""How long whole-scene discretisation takes: ``python benchmarks/clusters.py [--sizes 200000 1000000] [--threads 2]``.

The splat is the one of ``benchmarks/click.py`` (walls and boxes, a feature a face, noise). Prints seconds a step,
the peak memory of the process and the labels a level; the aim is 1M Gaussians in under a minute on 2 cores.
"""

from __future__ import annotations

import importlib.util
import itertools
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
import tyro

from splatseg.clusters import ClusterConfig, discretise


@dataclass(frozen=True)
class Arguments:
    sizes: tuple[int, ...] = (200_000, 1_000_000)
    threads: int = 2


def click_benchmark() -> ModuleType:
    """``benchmarks/click.py`` by its path: the name is also that of a package on PyPI."""
    spec = importlib.util.spec_from_file_location("click_benchmark", Path(__file__).with_name("click.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(count: int, room: ModuleType) -> None:
    gaussians, field = room.room(count)
    assert field.unit is not None  # computed once, when a run is opened
    start = time.perf_counter()
    steps: list[tuple[str, float]] = []
    tree = discretise(gaussians, field, ClusterConfig(), lambda step, share: steps.append((step, time.perf_counter())))
    again = discretise(gaussians, field, ClusterConfig())
    assert (tree.labels == again.labels).all(), "the same seed gave other labels"
    for (step, begin), (_, end) in itertools.pairwise(steps):
        print(f"{count:>9,}  {step:<10} {end - begin:7.2f} s")
    print(f"{count:>9,}  {'all':<10} {steps[-1][1] - start:7.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count:>9,}  labels {[len(tree.at_level(k)) for k in range(tree.levels)]}, peak {peak:.0f} MB")


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(arguments.threads)
    room = click_benchmark()
    for count in arguments.sizes:
        measure(count, room)


if __name__ == "__main__":
    main()
