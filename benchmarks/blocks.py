"""A capture fitted in one block and in several: held-out PSNR near the borders and away from them, core means.

A pixel of a held-out view is near a border where what it shows (the depth of the fit in one block) lies in the expanded
region of more than one block. ``seam`` is by how much the fit in blocks loses more there than it does elsewhere,
against the fit in one: what is hard to fit near a border is so in both. Fits are runs of scripts/fit.py in ``--work``,
taken as they are where they are done; other options go to it.

    python -m benchmarks.blocks ../shared/data/dev_kitchen --work /tmp/blocks --blocks 1 2 [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import machine
from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import Scene, View
from splatseg.core.splat import FeatureSplat
from splatseg.evaluate.hierarchical import evaluate_scene, load_hierarchical
from splatseg.fit.blocks import plan_blocks
from splatseg.fit.geometry.region import Region
from splatseg.io import write_text
from splatseg.io.colmap import load_colmap
from splatseg.io.ply import load_gaussians
from splatseg.io.run import Run
from splatseg.io.test_cameras import load_test_views
from splatseg.render import render
from splatseg.segment.splat import SegmentableSplat

ROOT = Path(__file__).parent.parent
Fit = tuple[int, int]  # blocks, ranks


def folder_of(work: Path, scene: Path, fit: Fit) -> Path:
    return work / f"{scene.name}_{fit[0]}_blocks_{fit[1]}_ranks"


def run_fit(scene: Path, work: Path, fit: Fit, arguments: Sequence[str]) -> None:
    """Fit ``scene`` with its simulated masks, by as many processes as asked for."""
    blocks, ranks = fit
    started = [sys.executable]
    if ranks > 1:
        started = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command = [*started, str(ROOT / "scripts/fit.py"), str(scene), "--out", str(folder_of(work, scene, fit))]
    command += ["--masks", str(scene / "masks_2d"), "--blocks", str(blocks), "--quiet", *arguments]
    subprocess.run(command, cwd=ROOT, check=True)


def shown_points(gaussians: Gaussians, camera: Camera) -> Tensor:
    """(h * w, 3) world points that the pixels of a view show, by the depth of a splat."""
    depth = render(gaussians, camera).depth.reshape(-1)
    row, column = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    return camera.unproject(torch.stack([column, row], -1).reshape(-1, 2), depth)


def near_border(xyz: Tensor, regions: Sequence[Region]) -> Tensor:
    """(m,) bool of the points in the expanded region of more than one block."""
    return torch.stack([region.holds(xyz, expanded=True) for region in regions]).sum(0) > 1


class Errors:
    """Squared errors by the name of a group of pixels."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, name: str, squared: Tensor) -> None:
        """``squared`` (m,) errors, each the mean over the channels of a pixel."""
        found = self.sums.setdefault(name, [0.0, 0.0])
        found[0] += float(squared.sum(dtype=torch.float64))
        found[1] += len(squared)

    def psnr(self) -> dict[str, float]:
        """dB of each group, of all of its pixels together."""
        return {name: round(-10 * math.log10(total / n), 3) for name, (total, n) in self.sums.items() if n}


@torch.no_grad()
def border_psnr(splats: dict[str, Gaussians], views: Sequence[View], regions: Sequence[Region]) -> dict[str, Any]:
    """PSNR of each splat over the pixels near a border, away from all, and the share of the former; ``seam``, dB.

    The first splat is the one in one block, whose depths say what a pixel shows.
    """
    errors = {name: Errors() for name in splats}
    whole = next(iter(splats.values()))
    near, pixels = 0, 0
    for view in views:
        border = near_border(shown_points(whole, view.camera), regions)
        near, pixels = near + int(border.sum()), pixels + len(border)
        photo = view.image().float() / 255
        for name, splat in splats.items():
            drawn = render(splat, view.camera).color.clamp(0, 1)
            squared = (drawn - photo).square().mean(-1).reshape(-1)
            errors[name].add("border", squared[border])
            errors[name].add("inside", squared[~border])
            errors[name].add("all", squared)
    rows = {name: found.psnr() for name, found in errors.items()}
    first = next(iter(rows.values()))
    for row in rows.values():
        if "border" in row and "inside" in row:
            lost = [first[name] - row[name] for name in ("border", "inside")]
            row["seam"] = round(lost[0] - lost[1], 3)
    return {"share_of_pixels": round(near / pixels, 3), "fits": rows}


def core_means(run: Run, scene: Path) -> dict[str, float]:
    """The headline of protocol (a), of all core queries and of those of each group of views (``GROUP_test_...``)."""
    gaussians = load_gaussians(run.geometry)
    splat = SegmentableSplat.load(run.geometry, run.features)
    report = evaluate_scene(FeatureSplat(gaussians, splat.field), load_hierarchical(scene), proposals=False)
    found = {"all": report.headline}
    for group in sorted({name for result in report.results if (name := result.query.view.rpartition("_test_")[0])}):
        rows = [r.mean for r in report.results if r.query.core and r.query.view.startswith(f"{group}_test_")]
        found[group] = sum(rows) / len(rows)
    return {name: round(value, 4) for name, value in found.items()}


def compared(scene: Path, work: Path, fits: Sequence[Fit]) -> dict[str, Any]:
    """Figures of all fits of ``scene``, each against the first, at the borders of the one in most blocks."""
    capture: Scene = load_colmap(scene)
    views = load_test_views(scene, capture)
    runs = {
        f"{blocks} blocks, {ranks} ranks": Run.existing(folder_of(work, scene, (blocks, ranks)))
        for blocks, ranks in fits
    }
    regions = [block.region for block in plan_blocks(capture, max(blocks for blocks, _ in fits))]
    found = border_psnr({name: load_gaussians(run.geometry) for name, run in runs.items()}, views, regions)
    for name, run in runs.items():
        metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
        kept = ("gaussians", "psnr_held_out", "geometry_seconds", "features_seconds")
        found["fits"][name] |= {key: metrics[key] for key in kept if key in metrics}
        found["fits"][name]["core_mean"] = core_means(run, scene)
    return {"scene": scene.name, "photos": len(capture.views), **found}


def options(parser: argparse.ArgumentParser) -> None:
    """Those that every comparison of blocks takes."""
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, help="JSON, to which this scene's figures are added")
    parser.add_argument("--conditions", default="", help="what else the machine did, for the JSON")


def main_of(scene: Path, chosen: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Fit, compare, print, and keep the figures."""
    fits = [(blocks, ranks) for blocks in chosen.blocks for ranks in chosen.ranks]
    for fit in fits:
        run_fit(scene, chosen.work, fit, arguments)
    found = compared(scene, chosen.work, fits)
    print(json.dumps(found, indent=1))
    if chosen.out is not None:
        kept = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.out.is_file() else {}
        kept[scene.name] = {**found, "arguments": list(arguments), "conditions": chosen.conditions, **machine()}
        write_text(chosen.out, json.dumps(kept, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path, help="with masks_2d/, test_cameras.json and ground truth")
    options(parser)
    chosen, arguments = parser.parse_known_args()
    main_of(chosen.scene, chosen, arguments)


if __name__ == "__main__":
    main()
