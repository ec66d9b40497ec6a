"""How many floaters planted into a fitted dev_kitchen are found, and how much of its surface is touched.

    PYTHONPATH=tests python tests/floaters_in_kitchen.py FOLDER    with FOLDER/geometry.ply, photos in $SPLATSEG_DATA

The surface's weight is the sum of the blending weights of the splat's own Gaussians over all pixels of all training
views, before anything is planted; the splat's own floaters count as surface.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from splat_with_floaters import plant

from splatseg.io.colmap import load_colmap
from splatseg.io.ply import load_gaussians
from splatseg.segment.floaters import find_floaters
from splatseg.segment.properties import visibility


@dataclass(frozen=True)
class Figures:
    """Shares: ``found`` of what was planted, ``touched`` of the surface's weight, ``gaussians`` of the splat's own."""

    asked: str
    count: int
    larger: float
    seed: int
    found: float
    touched: float
    gaussians: float


def measure(folder: Path) -> Iterator[Figures]:
    """Of some plantings, with the cameras and without."""
    scene = load_colmap(Path(os.environ["SPLATSEG_DATA"]) / "dev_kitchen")
    splat = load_gaussians(folder / "geometry.ply")
    cameras = [view.camera for view in scene.in_frame(splat.offset).views]
    weight = visibility(splat, cameras).weight.double()
    for count, larger, seed in ((600, 1.0, 0), (600, 1.0, 1), (3000, 1.0, 2), (600, 3.0, 3)):
        both, planted = plant(splat, cameras, count, seed, larger)
        for asked in ("cameras", "splat"):
            found = find_floaters(both, cameras if asked == "cameras" else ()).mask
            own = found[~planted]
            share = float(weight[own].sum() / weight.sum())
            yield Figures(
                asked, count, larger, seed, float(found[planted].float().mean()), share, float(own.float().mean())
            )


if __name__ == "__main__":
    for figures in measure(Path(sys.argv[1])):
        print(figures)
