"""Peak memory of the geometry fit in 1, 2, 4 ... blocks, beside the bound that a fit asks for.

A capture whose sparse points are repeated, a little apart, up to ``--gaussians``: a fit starts from all of them, so
that a few steps hold what a whole fit holds at most. Each number of blocks in a process of its own; photos are those of
the capture.

    python -m benchmarks.block_memory ../shared/data/dev_kitchen --gaussians 1000000 --blocks 1 2 4 [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.machine import machine
from splatseg.core.machine import peak_memory
from splatseg.core.scene import Points, Scene
from splatseg.fit.blocks import fit_block, join_block, plan_blocks, scene_shell
from splatseg.fit.geometry import GeometryConfig, fit_geometry
from splatseg.fit.needs import FitSize, stage_needs
from splatseg.fit.settings import FitConfig
from splatseg.io import write_text
from splatseg.io.colmap import load_colmap
from splatseg.io.ply import load_gaussians, save_gaussians

STEPS = 4
APART = 0.01  # of the capture's extent: how far repeated points lie from the first


def repeated(scene: Scene, count: int) -> Scene:
    """``scene`` with ``count`` points."""
    generator = torch.Generator().manual_seed(0)
    which = torch.arange(count) % len(scene.points.xyz)
    xyz = scene.points.xyz[which] + APART * scene.extent * torch.randn(count, 3, generator=generator)
    return replace(scene, points=Points(xyz, scene.points.rgb[which]))


def settings(gaussians: int) -> GeometryConfig:
    return replace(GeometryConfig.preset("quality"), steps=STEPS, max_gaussians=gaussians, start="sparse")


def fit(scene: Scene, config: GeometryConfig, count: int) -> int:
    """Bytes that this process held at most while it fitted ``scene``, and before it began."""
    before = peak_memory() or 0
    if count == 1:
        fit_geometry(scene, config)
    else:
        blocks, shell = plan_blocks(scene, count), scene_shell(scene, config, count)
        with TemporaryDirectory() as folder:
            files = [Path(folder) / f"{block.number}.ply" for block in blocks[:2]]  # the others are as large
            for block, file in zip(blocks, files, strict=False):
                save_gaussians(file, fit_block(scene, block, shell, config))
            first = load_gaussians(files[0])
            first = first.select(blocks[1].region.holds(first.means, expanded=True))
            join_block(scene, blocks[:2], load_gaussians(files[1]), [first], config)
    return (peak_memory() or 0) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--gaussians", type=int, default=1_000_000)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--alone", action="store_true", help="in this process, of the first number of blocks")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    scene, config = repeated(load_colmap(options.scene), options.gaussians), settings(options.gaussians)
    if options.alone:
        print(fit(scene, config, options.blocks[0]))
        return
    pixels = max(view.camera.width * view.camera.height for view in scene.views)
    rows = []
    for count in options.blocks:
        command = [sys.executable, "-m", "benchmarks.block_memory", str(options.scene), "--alone"]
        command += ["--gaussians", str(options.gaussians), "--blocks", str(count)]
        held = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        size = FitSize(options.gaussians, 16, len(scene.views), pixels)
        asked = stage_needs(size, FitConfig(geometry=config), count)["geometry"]
        rows.append({"blocks": count, "held_gb": round(held / 1e9, 3), "asked_for_gb": round(asked / 1e9, 3)})
        print(json.dumps(rows[-1]), flush=True)
    if options.out is not None:
        content = {"scene": options.scene.name, "gaussians": options.gaussians, "rows": rows, **machine()}
        write_text(options.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
