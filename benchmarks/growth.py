"""Seconds and memory of every stage as a scene grows: ``python -m benchmarks.growth [--only TEXT...] [--report]``.

One axis at a time is varied from a base of 0.4M Gaussians, 50 views and 50 masks per view: Gaussians 0.1 to 6.4M, views
50 to 800, masks per view 50 and 200, photos of 0.3 to 12 megapixels. A cell is a stage at one size, in a process of its
own (:mod:`benchmarks.growth_stages`); data is rendered or repeated (:mod:`benchmarks.growth_scene`). Seconds are of the
processor, over all threads; wall seconds stand beside them and mean little where others use the machine. Memory is the
peak while the step ran (VmHWM), interpreter and libraries included, with a power law fitted to what is above them.

Each result is written when it is there, and cells that have theirs are not measured again: ``--only features/ --only
200v`` measures the cells whose names hold one of the texts, ``--again`` measures them anew. Writes
benchmarks/results/growth.json, growth.md and growth.png.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.growth_stages import Cell
from benchmarks.machine import machine
from splatseg.core.atomic import atomic_write, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = Path(__file__).parent / "results"
GAUSSIANS, VIEWS, MASKS, MEGAPIXELS = (100, 400, 1600, 6400), (50, 200, 800), (50, 200), (0.3, 2.0, 12.0)  # k, -, -, MP
BASE = {"gaussians": 400, "views": 50, "masks": 50, "megapixels": 0.3}
AXES: dict[str, tuple[float, ...]] = {
    "gaussians": GAUSSIANS,
    "views": VIEWS,
    "masks": MASKS,
    "megapixels": MEGAPIXELS,
}
UNITS = {"gaussians": "thousand Gaussians", "views": "views", "masks": "masks per view", "megapixels": "megapixels"}
STAGES: dict[str, tuple[str, ...]] = {
    "undistortion": ("views", "megapixels"),
    "geometry": ("gaussians", "views", "megapixels"),
    "hierarchy": ("masks", "megapixels"),
    "features": ("gaussians", "views", "masks"),
    "labels": ("gaussians", "views", "masks"),
    "viewer": ("gaussians",),
    "export": ("gaussians",),
}
"""The axes that a stage reads something along."""
TARGETS = ((1000, 200, 130), (6400, 56, 74))  # what the project promises to manage: thousand Gaussians, views, masks
LIBRARIES_MB = 290  # what a process holds that has imported everything and done nothing
COLORS = {"gaussians": "#0072b2", "views": "#d55e00", "masks": "#009e73", "megapixels": "#cc79a7"}  # Okabe and Ito


@dataclass(frozen=True)
class Place:
    """A stage at one size."""

    stage: str
    gaussians: int
    views: int
    masks: int
    megapixels: float

    @property
    def name(self) -> str:
        return f"{self.stage}/{self.gaussians}k/{self.views}v/{self.masks}m/{self.megapixels:g}mp"


def places() -> list[Place]:
    """All cells, those that others read from first."""
    found: dict[Place, None] = {}
    for stage, axes in STAGES.items():
        base = Place(stage, **BASE)  # type: ignore[arg-type]
        for axis in axes:
            for value in AXES[axis]:
                found[replace(base, **{axis: value})] = None  # type: ignore[arg-type]
    for gaussians, views, masks in TARGETS:
        for stage in ("features", "labels", "viewer"):
            found[Place(stage, gaussians, views, masks, BASE["megapixels"])] = None
    return list(found)


def measure(place: Place, work: Path, threads: int) -> dict[str, Any]:
    """The steps of a cell, measured in a new process."""
    cell = Cell(
        place.stage, place.gaussians * 1000, place.views, place.masks, place.megapixels, str(work.resolve()), threads
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "benchmarks.growth_stages", json.dumps(asdict(cell))]
    load = os.getloadavg()[0]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return {"threads": threads, "load": round(load, 1), "steps": json.loads(done.stdout.splitlines()[-1])}


def along(cells: dict[str, Any], stage: str, axis: str) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """(value on the axis, figures) of each step of ``stage``, as far as measured."""
    rows: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for value in AXES[axis]:
        place = replace(Place(stage, **BASE), **{axis: value})  # type: ignore[arg-type]
        for step, figures in cells.get(place.name, {}).get("steps", {}).items():
            rows.setdefault(step, []).append((value, figures))
    return rows


def exponent(points: list[tuple[float, float]]) -> float | None:
    """Slope of the least-squares line through the logarithms; None for fewer than two positive values."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len(logs) < 2:
        return None
    middle = [sum(column) / len(logs) for column in zip(*logs, strict=True)]
    spread = sum((x - middle[0]) ** 2 for x, _ in logs)
    return round(sum((x - middle[0]) * (y - middle[1]) for x, y in logs) / spread, 2)


def summary(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each step and axis: values, seconds, peaks, exponents."""
    rows = []
    for stage, axes in STAGES.items():
        for axis in axes:
            for step, points in along(cells, stage, axis).items():
                seconds = [(value, figures["processor_seconds"]) for value, figures in points]
                peaks = [(value, figures["peak_mb"]) for value, figures in points]
                above = [(value, peak - LIBRARIES_MB) for value, peak in peaks]
                per = points[0][1].get("per")
                rows.append(
                    {
                        "step": step if per is None or per in step else f"{step}, per {per}",
                        "axis": axis,
                        "seconds": seconds,
                        "peak_mb": peaks,
                        "seconds_exponent": exponent(seconds),
                        "memory_exponent": exponent(above),
                    }
                )
    return rows


def markdown(rows: list[dict[str, Any]], cells: dict[str, Any]) -> str:
    """The table, and the cells that are promised sizes."""
    lines = [
        "Processor seconds (one thread unless said) and peak memory in MB, by the size along one axis; base: 400 "
        "thousand Gaussians, 50 views of 1280x960, 50 masks per view, photos of 0.3 megapixels. An exponent of 1 is "
        "linear growth; that of memory is of what lies above the libraries.",
        "",
        "| step | axis | sizes | seconds | exponent | peak MB | exponent |",
        "|---|---|---|---|---:|---|---:|",
    ]
    for row in rows:
        if len(row["seconds"]) < 2:
            continue  # the base alone stands in the row of another axis
        sizes, seconds = ([f"{entry[k]:.4g}" for entry in row["seconds"]] for k in (0, 1))
        peaks = [f"{peak:,}" for _, peak in row["peak_mb"]]
        exponents = [
            "" if row[f"{kind}_exponent"] is None else row[f"{kind}_exponent"] for kind in ("seconds", "memory")
        ]
        columns = [row["step"], UNITS[row["axis"]], " / ".join(sizes), " / ".join(seconds), exponents[0]]
        lines.append("| " + " | ".join(map(str, [*columns, " / ".join(peaks), exponents[1]])) + " |")
    lines += ["", "| Gaussians | views | masks per view | step | processor seconds | wall seconds | peak MB |"]
    lines.append("|---:|---:|---:|---|---:|---:|---:|")
    for gaussians, views, masks in TARGETS:
        for stage in ("features", "labels", "viewer"):
            found = cells.get(Place(stage, gaussians, views, masks, BASE["megapixels"]).name, {})
            for step, figures in found.get("steps", {}).items():
                numbers = f"{figures['processor_seconds']:.3g} | {figures['seconds']:.3g} | {figures['peak_mb']:,}"
                lines.append(f"| {1000 * gaussians:,} | {views} | {masks} | {step} | {numbers} |")
    return "\n".join(lines) + "\n"


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Seconds and peaks of each step over its axes, on logarithmic scales; each axis relative to its base."""
    from matplotlib.figure import Figure

    steps = list(dict.fromkeys(row["step"] for row in rows))
    lines = -(-len(steps) // 4)
    figure = Figure(figsize=(14, 2.6 * 2 * lines), layout="constrained", dpi=100)
    panels = figure.subplots(2 * lines, 4, squeeze=False)
    for number, step in enumerate(steps):
        line, column = 2 * (number // 4), number % 4
        for row in (row for row in rows if row["step"] == step):
            _draw(panels[line][column], row, "seconds", f"{step}: processor s")
            _draw(panels[line + 1][column], row, "peak_mb", f"{step}: peak MB")
    for panel in panels.ravel():
        panel.set_visible(bool(panel.lines))
    names: dict[str, Any] = {}
    for panel in panels.ravel():
        names |= dict(zip(*panel.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(names.values(), names.keys(), loc="outside lower center", ncols=4, frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary)


def _draw(panel: Axes, row: dict[str, Any], kind: str, title: str) -> None:
    values, heights = zip(*row[kind], strict=True)
    relative = [value / BASE[row["axis"]] for value in values]
    panel.loglog(relative, heights, "o-", ms=4, lw=1.2, color=COLORS[row["axis"]], label=UNITS[row["axis"]])
    low, high = min(heights), max(heights)
    bounds = panel.get_ylim() if len(panel.lines) > 1 else (low, high)
    # A decade at least, so that what hardly grows looks so, and one range of sizes for all.
    panel.set_ylim(min(bounds[0], low / 1.2), max(bounds[1], high * 1.2, 10 * low))
    panel.set_xlim(0.2, 50)
    panel.minorticks_off()
    panel.set_title(title, fontsize=9)
    panel.set_xlabel("size / base", fontsize=7)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="measure cells whose names hold this; may repeat")
    parser.add_argument("--again", action="store_true", help="also measure cells that have their result")
    parser.add_argument("--report", action="store_true", help="measure nothing: table and plot of what is there")
    parser.add_argument("--list", action="store_true", help="print the names of all cells")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/splatseg-growth"), help="some 10 GB of what cells share"
    )
    options = parser.parse_args()
    result = RESULTS / "growth.json"
    stored: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {}
    cells: dict[str, Any] = stored.get("cells", {})
    for place in places():
        chosen = not options.only or any(text in place.name for text in options.only)
        if options.list:
            print(place.name, "" if place.name not in cells else "measured")
        elif chosen and not options.report and (options.again or "steps" not in cells.get(place.name, {})):
            cells[place.name] = measure(place, options.work, options.threads)
            print(place.name, json.dumps(cells[place.name]), flush=True)
            write_text(result, json.dumps({"machine": machine(), "cells": cells}, indent=1) + "\n")
    if not options.list:
        rows = summary(cells)
        content = {"machine": stored.get("machine", machine()), "cells": cells, "growth": rows}
        write_text(result, json.dumps(content, indent=1) + "\n")
        write_text(RESULTS / "growth.md", markdown(rows, cells))
        plot(RESULTS / "growth.png", rows)


if __name__ == "__main__":
    main()
