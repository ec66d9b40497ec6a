"""Labels through other tools and back: ``python -m benchmarks.round_trips RUN...``.

Each run's labeled splat goes through PlayCanvas' splat-transform (``npm install -g @playcanvas/splat-transform``, or
``SPLATSEG_SPLAT_TRANSFORM``) to another format, there and back to PLY; the run's sidecar then finds the rows again.
Every Gaussian carries the number of its row through a PLY that the tool re-orders alone, so that each found row is
known to be right or wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree
from splatseg.io.labels import label_columns, load_labels
from splatseg.io.ply import load_extra, load_gaussians, save_gaussians
from splatseg.io.sidecar import attach, load_sidecar, save_sidecar
from splatseg.io.splats import load_splat

TRIPS = {
    "PLY, re-ordered": ("x.ply", ["--morton-order"]),
    "compressed PLY": ("x.compressed.ply", []),
    "SPZ": ("x.spz", []),
    "SOG": ("x.sog", []),
    "a crop": ("x.ply", ["crop"]),
    "a crop as SOG": ("x.sog", ["crop"]),
}


def transform(source: Path, target: Path, *actions: str) -> Path:
    """``target``, made of ``source`` by splat-transform on the CPU."""
    command = os.environ.get("SPLATSEG_SPLAT_TRANSFORM") or shutil.which("splat-transform")
    if command is None:
        raise SystemExit("splat-transform: not found; npm install -g @playcanvas/splat-transform")
    subprocess.run([command, "-q", "-w", "-g", "cpu", source, *actions, target], check=True, capture_output=True)
    return target


def crop_of(splat: Gaussians) -> list[str]:
    """The action that keeps the middle half of the Gaussians along each axis."""
    low, high = (splat.means.quantile(share, dim=0).tolist() for share in (0.1, 0.9))
    return ["-B", ",".join(f"{value:.6g}" for value in (*low, *high))]


def rows_of(back: Gaussians, numbered: Path, actions: list[str], folder: Path) -> NDArray[np.int64]:
    """The row of the original that each Gaussian of ``back`` is: by the order of the tool's own PLY, in file order or
    along its curve, whichever puts them nearest to their places."""
    best: tuple[float, NDArray[np.int64]] = (np.inf, np.zeros(0, np.int64))
    for order in ([], ["--morton-order"]):
        path = transform(numbered, folder / "order.ply", *actions, *order)
        there = load_gaussians(path)
        if len(there) == len(back):
            error = float((there.means - back.means).norm(dim=1).quantile(0.999))
            if error < best[0]:
                best = error, load_extra(path)["row"].astype(np.int64)
    return best[1]


def measure(name: str, splat: Gaussians, tree: LabelTree, folder: Path, harmonics: bool) -> list[str]:
    """A line of the table per round trip; without ``harmonics`` the tool leaves them out of SOGs."""
    numbered, side = folder / "numbered.ply", folder / "side.npz"
    save_gaussians(numbered, splat, {"row": np.arange(len(splat), dtype=np.int32)})
    save_sidecar(side, splat, {**label_columns(tree), "row": np.arange(len(splat))})
    sidecar, lines = load_sidecar(side), []
    for title, (file, actions) in TRIPS.items():
        actions = crop_of(splat) if actions == ["crop"] else actions
        if file.endswith(".sog") and not harmonics:
            actions = [*actions, "-H", "0"]
        middle = transform(numbered, folder / file, *actions)
        back = load_splat(transform(middle, folder / "back.ply")).gaussians
        start = time.process_time()
        found = attach(back, sidecar, side)
        seconds = time.process_time() - start
        truth = rows_of(back, numbered, actions, folder)
        rows = 100 * np.mean(found.found & (found.columns["row"] == truth))
        right = found.columns["label"] == tree.labels[truth, tree.default_level]
        lines.append(
            f"| {name} | {title} | {len(back):,} | {100 * found.found.mean():.2f} | {rows:.2f} | "
            f"{100 * np.mean(right & found.found):.2f} | {seconds:.1f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument(
        "--plain-sog",
        action="store_true",
        help="let the tool leave harmonics out of its SOGs: their palette takes it 12 processor minutes and more for "
        "164,000 rows of degree 2 without a GPU; no row is found by them",
    )
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    print("| run | there and back | Gaussians | found, % | right row, % | right label, % | CPU seconds |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for run in arguments.runs:
        splat = load_gaussians(run / "labels.ply")
        with tempfile.TemporaryDirectory() as folder:
            tree = load_labels(run / "labels.ply")
            lines = measure(run.name, splat, tree, Path(folder), not arguments.plain_sog)
            print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
