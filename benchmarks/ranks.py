"""A fit by 1, 2 and 4 ranks of one machine side by side: ``python -m benchmarks.ranks SCENE [--masks MASKS]``.

Of each number: seconds of every stage, processor seconds of all ranks with what they imported, PSNR of the held-out
photos, core mean and labels' mIoU where the scene has ground truth (dev captures), and, of a fit to one rank's splat,
the largest difference of any feature. One thread a rank. Prints ratios to one rank, and writes
benchmarks/results/ranks.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.machine import processor
from splatseg._processors import usable_processors
from splatseg.io import write_text

ROOT = Path(__file__).parent.parent
STAGES = ("geometry", "masks", "features", "labels")


def fit(arguments: list[str], out: Path, ranks: int) -> dict[str, Any]:
    """Figures of ``splatseg fit`` by so many ranks."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [*launch, "scripts/fit.py", *arguments, "--out", str(out), "--quiet"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = json.loads((out / "metrics.json").read_text())
    row = {"ranks": ranks, "seconds": round(time.monotonic() - started, 1), "processor_seconds": round(used, 1)}
    row |= {f"{stage}_seconds": found.get(f"{stage}_seconds") for stage in STAGES}
    return {**row, "gaussians": found["gaussians"], "psnr": found.get("psnr_held_out")}


def measured(scene: Path, out: Path) -> dict[str, float]:
    """Core mean and mIoU of the labels; nothing where the scene has no ground truth."""
    if not (scene / "gt").is_dir() and not (scene / "test_cameras.json").is_file():
        return {}
    command = [sys.executable, "scripts/evaluate.py", str(out), "--gt", str(scene), "--no-sheets", "--no-ceiling"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--quiet"], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr.strip(), file=sys.stderr)
        return {}
    found = json.loads((out / "metrics.json").read_text())
    queries = found["hierarchical"]
    return {"core_mean": queries["core"]["mean"], "labels_miou": queries["labels"]["miou"]}


def largest_difference(one: Path, other: Path) -> float:
    first, second = (load_file(run / "features.safetensors")["features"] for run in (one, other))
    return float((first - second).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--masks", default="watershed")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/ranks.json")
    options = parser.parse_args()
    arguments = [str(options.scene.resolve()), "--masks", options.masks, "--preset", options.preset]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        for ranks in options.ranks:
            out, same = Path(place) / f"by{ranks}", Path(place) / f"same{ranks}"
            row = fit(arguments, out, ranks) | measured(options.scene, out)
            splat = Path(place) / f"by{options.ranks[0]}" / "geometry.ply"
            of_splat = fit([*arguments, "--splat", str(splat)], same, ranks)
            row["features_seconds_of_one_splat"] = of_splat["features_seconds"]
            row["features_difference"] = largest_difference(Path(place) / f"same{options.ranks[0]}", same)
            rows.append(row)
            tell(rows)
    machine = {"processor": processor(), "usable_processors": usable_processors(), "threads_per_rank": 1}
    content = {"machine": machine, "note": options.note, "scene": options.scene.name, "preset": options.preset}
    write_text(options.out, json.dumps({**content, "rows": rows}, indent=1) + "\n")


def tell(rows: list[dict[str, Any]]) -> None:
    """The last row; seconds as shares of the first row's, figures of quality as differences."""
    first, last = rows[0], rows[-1]
    said = [f"{last['ranks']} ranks"]
    for name, value in last.items():
        if value is None or first.get(name) is None or name == "ranks":
            continue
        if "seconds" in name:
            said.append(f"{name} {value} (x {value / max(first[name], 1e-9):.2f})")
        else:
            said.append(f"{name} {value} ({value - first[name]:+.3g})" if name != "gaussians" else f"{name} {value:,}")
    print(", ".join(said), flush=True)


if __name__ == "__main__":
    main()
