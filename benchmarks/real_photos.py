"""Fit the geometry of real captures under several settings and compare on photos that no fit has seen.

Every 8th photo is held out; a scene with ``test_cameras.json`` is measured on those and trains on all, unless photos
are shrunk by ``--downscale``. A variant is a name and changes of the geometry's settings: ``sparse:start=sparse``,
``fine:start=dense,dense.side=600``. All variants of a scene run one after the other in this process. Cost is processor
time (all threads), as wall time says little on a machine that others use; on a GPU look at the wall time. Prints a row
a fit; ``--out`` keeps the rows and their curves as JSON, ``--renders`` the first held-out views, photo above render.

    python -m benchmarks.real_photos ../shared/data/{fox,kitchen} --variants auto: sparse:start=sparse
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from benchmarks.machine import processor
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import Reporter
from splatseg.core.scene import Scene, View
from splatseg.fit.geometry import GeometryConfig, fit_geometry, psnr
from splatseg.fit.geometry.fit import masked_target
from splatseg.fit.hooks import FitHooks
from splatseg.io import write_text
from splatseg.io.colmap import load_colmap
from splatseg.io.test_cameras import load_test_views
from splatseg.ops.photometric import ssim
from splatseg.render import render

HOLD_OUT_EVERY = 8
SHOWN = 3
COLUMNS = ("scene", "variant", "psnr", "ssim", "cpu_s", "wall_s", "gaussians")


def split(folder: Path, downscale: int = 1) -> tuple[Scene, list[View]]:
    """The scene with its training views, and the held-out ones, as ``scripts/fit.py`` splits them."""
    scene = load_colmap(folder, downscale)
    if downscale == 1 and (folder / "test_cameras.json").is_file():
        return scene, list(load_test_views(folder, scene))
    train, held_out = scene.split(HOLD_OUT_EVERY)
    return dataclasses.replace(scene, views=train), list(held_out)


def mean_ssim(gaussians: Gaussians, views: list[View]) -> float:
    """Mean over ``views``; pixels that do not count are taken to be right."""
    values = []
    for view in views:
        image, fitted = view.photo()
        color = render(gaussians, view.camera.to(gaussians.device)).color.clamp(0, 1).cpu()
        values.append(float(ssim(color, masked_target(image, fitted, color))))
    return sum(values) / len(values)


def save_renders(path: Path, gaussians: Gaussians, views: list[View]) -> None:
    """Photos above renders of up to SHOWN views."""
    columns = []
    for view in views[:: -(-len(views) // SHOWN)]:
        drawn = (render(gaussians, view.camera.to(gaussians.device)).color.clamp(0, 1) * 255).to(torch.uint8).cpu()
        columns.append(torch.cat([view.image(), drawn]))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(torch.cat(columns, 1).numpy()).save(path)


def fit(folder: Path, name: str, config: GeometryConfig, options: argparse.Namespace) -> dict[str, Any]:
    scene, held_out = split(folder, options.downscale)
    before, began = time.process_time(), time.perf_counter()
    curve: list[list[float]] = []

    class Curve(Reporter):
        def log(self, figures: Mapping[str, Any]) -> None:
            curve.append([figures["step"], round(time.process_time() - before, 1), round(figures["psnr"], 2)])

    gaussians = fit_geometry(scene, config, held_out, options.device, FitHooks(reporter=Curve()))
    seconds, wall = time.process_time() - before, time.perf_counter() - began
    gaussians = gaussians.to(options.device)
    with torch.no_grad():
        row = {
            "scene": folder.name,
            "variant": name,
            "psnr": round(psnr(gaussians, held_out), 3),
            "ssim": round(mean_ssim(gaussians, held_out), 4),
            "cpu_s": round(seconds, 1),
            "wall_s": round(wall, 1),
            "gaussians": len(gaussians),
            "curve": curve,
        }
        if options.renders is not None:
            save_renders(options.renders / f"{folder.name}_{name}.png", gaussians, held_out)
    return row


def variant(text: str, base: GeometryConfig) -> tuple[str, GeometryConfig]:
    """``name:field=value,...`` as a name and settings; ``dense.field`` is one of the dense start."""
    name, _, changes = text.partition(":")
    for change in filter(None, changes.split(",")):
        key, value = change.split("=", 1)
        room, _, field = key.rpartition(".")
        if room:
            within = dataclasses.replace(getattr(base, room), **{field: yaml.safe_load(value)})
            base = dataclasses.replace(base, **{room: within})
        else:
            base = dataclasses.replace(base, **{field: yaml.safe_load(value)})
    return name, base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--variants", nargs="+", default=["sparse:start=sparse", "dense:start=dense"])
    parser.add_argument("--preset", default="default")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--downscale", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--renders", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = GeometryConfig.preset(options.preset)
    rows: list[dict[str, Any]] = []
    machine = processor() if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"{machine}, {options.threads} threads, torch {torch.__version__}, preset {options.preset}")
    print(" ".join(f"{name:>12}" for name in COLUMNS))
    for folder in options.scenes:
        for text in options.variants:
            rows.append(fit(folder, *variant(text, base), options))
            print(" ".join(f"{rows[-1][name]!s:>12}" for name in COLUMNS), flush=True)
            if options.out is not None:
                described = {"machine": machine, "preset": options.preset, "variants": options.variants}
                write_text(options.out, json.dumps({**described, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
