"""Masks to patches: time and memory of the op against the two usual recipes, in one run on the same masks.

    python benchmarks/patches.py [--masks 500] [--width 1000] [--height 750] [--repeat 20]

``packbits``: numpy, the bits of each pixel packed to bytes, then ``unique`` over pixels. ``unique(dim=1)``: torch, as
the published preparation does it. Both start from masks at full size and leave out absorption; ``op`` starts from run
lengths and is timed without and with it. Each method runs in a process of its own; MB is its peak above what it holds
at the start, the full-size masks counted where the method needs them. Results are compared before anything is printed.

The figures go to ``benchmarks/results/patches.json``. Exit code 1: the op takes more than 50 ms or 100 MB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splatseg.core.atomic import write_text
from splatseg.masks import MaskSet
from splatseg.masks.hierarchy import PatchHierarchy, build_hierarchy
from splatseg.ops.patches import patches

RESULT = Path(__file__).parent / "results" / "patches.json"
MAX_MS, MAX_MB = 50.0, 100.0
METHODS = ("op", "op, nesting 0.9", "numpy packbits + unique", "torch.unique(dim=1)")


def blob_masks(n: int, height: int, width: int, seed: int = 0) -> MaskSet:
    """``n`` wavy blobs of all sizes, two of three inside another one: about what everything-mode gives."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width].astype(np.float32)
    blobs: list[tuple[float, float, float]] = []

    def draw() -> Any:
        for i in range(n):
            radius = min(height, width) * 0.4 * float(rng.beta(1, 5)) + 6
            y, x = rng.uniform(0, height), rng.uniform(0, width)
            if i % 3 and blobs:
                y0, x0, r0 = blobs[rng.integers(len(blobs))]
                radius, angle = max(6.0, r0 * rng.uniform(0.2, 0.7)), rng.uniform(0, 6.28)
                y, x = y0 + (r0 - radius) * np.sin(angle) * 0.9, x0 + (r0 - radius) * np.cos(angle) * 0.9
            blobs.append((y, x, radius))
            reach = int(radius * 1.15) + 1
            rows, columns = (slice(max(0, int(c) - reach), int(c) + reach + 1) for c in (y, x))
            dy, dx = row[rows, columns] - y, column[rows, columns] - x
            wave = 1 + 0.15 * np.sin(int(rng.integers(3, 9)) * np.arctan2(dy, dx) + rng.uniform(0, 6))
            mask = np.zeros((height, width), bool)
            mask[rows, columns] = dy * dy + dx * dx < (radius * wave) ** 2
            yield mask

    return MaskSet.from_dense(draw())


def run_op(masks: MaskSet, nesting: float) -> tuple[Tensor, int]:
    order = np.argsort(masks.areas, kind="stable")
    runs = [masks.counts[i] for i in order]
    counts = torch.from_numpy(np.concatenate(runs).view(np.int32))
    offsets = torch.tensor([0, *np.cumsum([len(one) for one in runs])])
    ids, membership = patches(counts, offsets, masks.height, masks.width, nesting)
    return ids, len(membership)


def run_packbits(masks: MaskSet) -> tuple[Tensor, int]:
    bits = np.packbits(masks.stack().numpy().reshape(len(masks), -1), axis=0)
    rows = np.ascontiguousarray(bits.T)
    unique, ids = np.unique(rows.view([("", np.void, rows.shape[1])]).ravel(), return_inverse=True)
    return torch.from_numpy(ids.reshape(masks.height, masks.width)), len(unique)


def run_unique(masks: MaskSet) -> tuple[Tensor, int]:
    unique, ids = torch.unique(masks.stack().flatten(1), dim=1, return_inverse=True)
    return ids.reshape(masks.height, masks.width), unique.shape[1]


def memory(field: str) -> float:
    """MB of this process by /proc: ``VmRSS`` now, ``VmHWM`` at most."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def measure(method: str, path: Path, repeat: int, threads: int) -> tuple[float, float, Path]:
    """Median milliseconds, peak megabytes above the start, and where the patch map is."""
    torch.set_num_threads(threads)
    with np.load(path) as file:
        counts = tuple(np.split(file["counts"], np.cumsum(file["lengths"])[:-1]))
        masks = MaskSet(int(file["height"]), int(file["width"]), counts)
    run: Callable[[], tuple[Tensor, int]] = {
        "op": lambda: run_op(masks, 1.0),
        "op, nesting 0.9": lambda: run_op(masks, 0.9),
        "numpy packbits + unique": lambda: run_packbits(masks),
        "torch.unique(dim=1)": lambda: run_unique(masks),
    }[method]
    run_op(MaskSet.from_dense(np.ones((1, 2, 2))), 0.9)  # load the extension before memory is read
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    before = memory("VmRSS")
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        ids, _ = run()
        times.append(time.perf_counter() - start)
    result = path.with_name(f"{METHODS.index(method)}.npy")
    peak = memory("VmHWM") - before
    np.save(result, ids.numpy())
    return float(np.median(times)) * 1e3, peak, result


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two patch maps differ by the numbering alone."""
    pairs = np.unique(a.ravel().astype(np.int64) * (int(b.max()) + 1) + b.ravel())
    return len(pairs) == len(np.unique(a)) == len(np.unique(b))


def compare(masks: MaskSet, repeat: int, threads: int) -> tuple[dict[str, tuple[float, float]], int, int]:
    """Milliseconds and megabytes of each method, patches found, and bytes of the stored hierarchy."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masks.npz"
        lengths = np.array([len(one) for one in masks.counts])
        np.savez(path, counts=np.concatenate(masks.counts), lengths=lengths, height=masks.height, width=masks.width)
        rows = {}
        for method in METHODS:
            times = repeat if method.startswith("op") else 1
            # spawn: a forked process could hide its memory in pages that its parent has left free.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                rows[method] = pool.submit(measure, method, path, times, threads).result()
        maps = {method: np.load(result) for method, (_, _, result) in rows.items()}
        for method in ("numpy packbits + unique", "torch.unique(dim=1)"):
            assert same_partition(maps["op"], maps[method]), f"{method} gives other patches"
        build_hierarchy(masks).save(Path(folder) / "hierarchy.npz")
        stored = (Path(folder) / "hierarchy.npz").stat().st_size
    return {method: (ms, mb) for method, (ms, mb, _) in rows.items()}, len(np.unique(maps["op"])), stored


def document(
    masks: MaskSet,
    threads: int,
    rows: dict[str, tuple[float, float]],
    patches_found: int,
    hierarchy: PatchHierarchy,
    stored: int,
) -> dict[str, Any]:
    """What goes to the result file."""
    return {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": threads,
        "masks": len(masks),
        "image": [masks.width, masks.height],
        "runs": sum(len(one) for one in masks.counts),
        "patches": patches_found,
        "patches_after_absorption": len(hierarchy),
        "bit_matrix_bytes": hierarchy.membership.numel() * 8,
        "votes_matrix_bytes": len(hierarchy) ** 2 * 4,
        "hierarchy_file_bytes": stored,
        "rows": [{"method": method, "ms": ms, "mb": mb} for method, (ms, mb) in rows.items()],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, default=500)
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--height", type=int, default=750)
    parser.add_argument("--repeat", type=int, default=20, help="of the op; the others run once")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    masks = blob_masks(args.masks, args.height, args.width)
    rows, found, stored = compare(masks, args.repeat, args.threads)
    hierarchy = build_hierarchy(masks)
    result = document(masks, args.threads, rows, found, hierarchy, stored)
    print(f"{len(masks)} masks, {masks.width}x{masks.height}, {found} patches ({len(hierarchy)} after absorption)")
    print(
        f"{result['runs']} runs, {result['runs'] * 4 / 1e3:.0f} kB; bit matrix {result['bit_matrix_bytes'] / 1e3:.0f} "
        f"kB, hierarchy file {stored / 1e3:.0f} kB"
    )
    print(f"{'':26}{'ms':>10}{'MB':>8}{'x op':>8}")
    for method, (ms, peak) in rows.items():
        print(f"{method:26}{ms:10.1f}{peak:8.0f}{ms / rows['op'][0]:8.1f}")
    RESULT.parent.mkdir(exist_ok=True)
    write_text(RESULT, json.dumps(result, indent=1) + "\n")
    print(f"wrote {RESULT}")
    return int(any(rows[method][0] > MAX_MS or rows[method][1] > MAX_MB for method in METHODS[:2]))


if __name__ == "__main__":
    sys.exit(main())
