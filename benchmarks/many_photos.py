"""Hundreds of photos of 12 megapixels in the geometry fit: ``python -m benchmarks.many_photos [--photos 200 800]``.

Photos (a few, repeated under other names) are used at half their size, as ``--downscale 2`` does. Per number of photos:
the seconds that shrinking one takes, the peak of memory over every photo once and an iteration, and iterations per
second with photos that are kept decoded and with photos that are read anew at every use, in turns in one process over
the same views. Writes benchmarks/results/many_photos.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import growth_scene as scene
from benchmarks.growth_stages import clock, status, write_model
from benchmarks.machine import machine
from splatseg.core.scene import View
from splatseg.fit.geometry import photos as photo_cache
from splatseg.fit.geometry.config import GeometryConfig
from splatseg.fit.geometry.fit import train_step
from splatseg.fit.geometry.photos import PhotoCache
from splatseg.fit.geometry.state import FitState
from splatseg.io import write_text
from splatseg.io.colmap import load_colmap

MEGAPIXELS = 12.0
DOWNSCALE = 2
VIEWS, TURNS = 8, 5  # of a turn; turns of each kind
RESULTS = Path(__file__).parent / "results" / "many_photos.json"


def capture(folder: Path, count: int) -> Path:
    """A COLMAP capture of ``count`` photos that need no undistortion."""
    place = folder / f"capture_{count}"
    views = scene.views(count, MEGAPIXELS)
    scene.linked_photos(folder, place / "images", [view.name for view in views], MEGAPIXELS)
    write_model(place / "sparse/0", [view.camera for view in views], [view.name for view in views], distortion=None)
    return place


def rates(views: Sequence[View], gaussians: int) -> dict[str, float]:
    """Iterations per second with photos kept and with photos read anew: medians over turns, and the least ratio."""
    config = replace(GeometryConfig.preset("quality"), max_gaussians=gaussians)
    state = FitState(scene.splat(gaussians), 1.0, config)
    first = config.steps // VIEWS * VIEWS - VIEWS
    found: dict[str, list[float]] = {"kept": [], "read_anew": []}
    with mock.patch.object(photo_cache, "CACHE_BYTES", 0):
        without_room = PhotoCache(views[:VIEWS])
    with PhotoCache(views[:VIEWS]) as kept, without_room as read_anew:
        for number in range(VIEWS):
            train_step(state, kept, first + number)
        for _ in range(TURNS):
            for kind, photos in (("kept", kept), ("read_anew", read_anew)):
                begun, _ = clock()
                for number in range(VIEWS):
                    train_step(state, photos, first + number)
                found[kind].append(VIEWS / (clock()[0] - begun))
    ratios = [new / old for old, new in zip(found["kept"], found["read_anew"], strict=True)]
    return {
        "kept_per_s": round(statistics.median(found["kept"]), 3),
        "read_anew_per_s": round(statistics.median(found["read_anew"]), 3),
        "ratio": round(statistics.median(ratios), 3),
        "least_ratio": round(min(ratios), 3),
    }


def measure(folder: Path, count: int, gaussians: int) -> dict[str, Any]:
    """One row, in this process."""
    place = capture(folder, count)
    begun = clock()
    views = load_colmap(place, DOWNSCALE, folder / f"cache_{count}").views
    shrunk = [round((now - then) / count, 3) for now, then in zip(clock(), begun, strict=True)]
    timed = rates(views, gaussians)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    config = replace(GeometryConfig.preset("quality"), max_gaussians=gaussians)
    state = FitState(scene.splat(gaussians), 1.0, config)
    with PhotoCache(views) as photos:
        for number in range(count):
            photos.get(number, False)
            photos.ahead((number + 1) % count, False)
        train_step(state, photos, config.steps // count * count - count)
    return {
        "photos": count,
        "gaussians": gaussians,
        "width": views[0].camera.width,
        "height": views[0].camera.height,
        "shrinking_s": shrunk[0],
        "peak_mb": round(status("VmHWM") / 2**20),
        **timed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, nargs="+", default=[200, 800])
    parser.add_argument("--gaussians", type=int, default=200_000)
    parser.add_argument("--work", type=Path, help="a folder for photos and their shrunk copies; kept")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if options.one:
            print(json.dumps(measure(folder, options.one, options.gaussians)))
            return
        rows = []
        for count in options.photos:  # a process each: memory of one is not that of the other
            command = [sys.executable, "-m", "benchmarks.many_photos", "--one", str(count)]
            command += ["--gaussians", str(options.gaussians), "--work", str(folder)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    write_text(RESULTS, json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
