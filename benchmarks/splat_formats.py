"""A large splat out and in through every format: ``python -m benchmarks.splat_formats [--count 1000000]``.

Each format is written by splatseg, read by PlayCanvas' splat-transform and written back as PLY; then the other way
about. Found Gaussians are compared with those of the same place in the original. splat-transform writes SOG without
harmonics here: its palette of them took more than 5 processor minutes at 20,000 rows, unfinished. A way is a process of
its own, whose peak memory is told beside that of its child (the reader of strangers' files,
:mod:`splatseg.io.splat_worker`).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from benchmarks.round_trips import transform
from splatseg.core.gaussians import Gaussians
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.io.splats import SUFFIXES, SplatFormat, load_splat, save_splat

THEIRS_WRITES = ("compressed-ply", "spz", "sog")
SAMPLE = 100_000


def room(count: int) -> Gaussians:
    """``count`` Gaussians of degree 3 on the walls of a room of 8 units, as fits have them."""
    g = torch.Generator().manual_seed(0)
    means = 8 * torch.rand(count, 3, generator=g) - 4
    wall = torch.randint(0, 3, (count, 1), generator=g)
    means.scatter_(1, wall, 4 * torch.randn(count, 1, generator=g).sign() + 0.02 * torch.randn(count, 1, generator=g))
    sh = 0.1 * torch.randn(count, 16, 3, generator=g)
    sh[:, 0] = 3 * torch.rand(count, 3, generator=g) - 1.5
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=1)
    sizes = 0.7 * torch.randn(count, 3, generator=g).clamp(-2, 2) - 5
    return Gaussians(means, quats, sizes, 2 * torch.randn(count, generator=g), sh)


def places(found: Gaussians, wanted: Gaussians) -> NDArray[np.float64]:
    """Distance of each of a sample of ``found`` to the nearest of ``wanted``."""
    rows = torch.linspace(0, len(found) - 1, min(SAMPLE, len(found))).long()
    distance: NDArray[np.float64] = cKDTree(wanted.means).query(found.means[rows])[0]
    return distance


def peak(process: int | str) -> float:
    """MiB that a process had at its most; not ru_maxrss, which begins at what its parent had."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


class Children(threading.Thread):
    """Looks at the children of this process a hundred times per second; ``most``: the largest peak."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0

    def run(self) -> None:
        tasks = Path("/proc/self/task")
        while True:
            pids = [pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
            self.most = max([self.most, *map(peak, pids)])
            time.sleep(0.01)


def do(way: str, kind: SplatFormat, path: Path, original: Path) -> dict[str, float]:
    """One way, in this process: CPU seconds and peak memory of it and of its child."""
    children = Children()
    children.start()
    if way == "write":
        splat = load_gaussians(original)
        started = time.process_time()
        save_splat(path, splat, kind)
        count = len(splat)
    else:
        started = time.process_time()
        count = len(load_splat(path).gaussians)
    own = time.process_time() - started
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "rows": count,
        "seconds": own + child.ru_utime + child.ru_stime,
        "peak": peak("self"),
        "child": children.most,
    }


def in_process(*words: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.splat_formats", "--do", *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def measure(kind: SplatFormat, original: Path, splat: Gaussians, folder: Path) -> None:
    """The lines of one format."""
    path = folder / f"ours{SUFFIXES[kind]}"
    written = in_process("write", kind, path, original)
    if kind == "glb":
        print(line(kind, "ours", path, written), flush=True)
        return
    back = load_gaussians(transform(path, folder / "back.ply"))
    print(line(kind, "ours, read by theirs", path, written, back, splat), flush=True)
    if kind in THEIRS_WRITES:
        path = transform(original, folder / f"theirs{SUFFIXES[kind]}", *(["-H", "0"] if kind == "sog" else []))
    read = in_process("read", kind, path, original)
    title = "theirs, read by ours" if kind in THEIRS_WRITES else "ours, read by ours"
    print(line(kind, title, path, read, load_splat(path).gaussians, splat), flush=True)


def line(
    kind: str, title: str, path: Path, figures: dict[str, float], back: Gaussians | None = None, splat: Any = None
) -> str:
    rows, far = ("", "") if back is None else (f"{len(back):,}", f"{places(back, splat).max():.1e}")
    size = path.stat().st_size / 2**20
    memory = f"{figures['peak']:.0f} | {figures['child']:.0f}"
    return f"| {kind} | {title} | {size:.0f} | {rows} | {far} | {figures['seconds']:.1f} | {memory} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="*", default=get_args(SplatFormat))
    parser.add_argument("--do", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    if arguments.do:
        way, kind, path, original = arguments.do
        print(json.dumps(do(way, kind, Path(path), Path(original))))
        return
    splat = room(arguments.count)
    print("| format | way | MiB | rows there | farthest from a row | CPU s | peak MiB | child's |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_gaussians(folder / "original.ply", splat)
        for kind in arguments.formats:
            measure(kind, folder / "original.ply", splat, folder)


if __name__ == "__main__":
    main()
