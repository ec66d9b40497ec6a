"""Iterations of the geometry fit beside other busy processes, by how waiting threads wait: ``python -m
benchmarks.shared_machine``.

Per policy, number of busy neighbors and number of Gaussians: iterations per second, each in a process of its own (the
policy is read when OpenMP is loaded), all policies in turn, so that what else runs on the machine meets all of them.
Writes benchmarks/results/shared_machine.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import processor
from splatseg._processors import SPINS, usable_processors
from splatseg.io import write_text

POLICIES: dict[str, dict[str, str]] = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "OpenMP's own": {},
    "sleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
    f"ours: {SPINS} spins": {"GOMP_SPINCOUNT": SPINS},
}
BUSY = "while True: pass"
ONE = """
import sys, torch
from benchmarks.iteration import time_case
n, threads, repeats = map(int, sys.argv[1:])
print(time_case(n, threads, repeats)["iterations_per_s"])
"""


def rate(policy: str, neighbors: int, n: int, repeats: int) -> float:
    """Iterations per second of one process beside ``neighbors`` busy ones."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))} | POLICIES[policy]
    threads = 1 if policy == "one thread" else usable_processors()
    busy = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(neighbors)]
    try:
        command = [sys.executable, "-c", ONE, str(n), str(threads), str(repeats)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--neighbors", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for n in options.sizes:
        for neighbors in options.neighbors:
            rates: dict[str, list[float]] = {policy: [] for policy in POLICIES}
            for _ in range(options.rounds):
                for policy in POLICIES:
                    rates[policy].append(rate(policy, neighbors, n, options.repeats))
            row = {policy: round(statistics.median(found), 2) for policy, found in rates.items()}
            rows.append({"gaussians": n, "busy_neighbors": neighbors, "iterations_per_s": row})
            print(f"{n:>8} Gaussians, {neighbors} busy: " + ", ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    machine = {"processor": processor(), "usable_processors": usable_processors()}
    target = Path(__file__).parent / "results/shared_machine.json"
    write_text(target, json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
