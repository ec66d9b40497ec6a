"""Make a small capture, fit it as a user would, and measure it.

    splatseg demo                       into runs/demo
    splatseg demo --small               a smaller scene: does this installation work?

A second call reuses what is done.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from splatseg.cli.endings import parse

Preset = Literal["fast", "default", "quality"]
SMALL_SCENE = ("--objects", "2", "--views", "8", "--test-views", "2", "--width", "160", "--height", "120")
SHORT_FIT = ("--config.geometry.steps", "150", "--config.features.steps", "50")


@dataclass(frozen=True)
class Arguments:
    """Make a scene, fit it, measure it."""

    out: Path = Path("runs/demo")
    """Run folder; the capture goes to OUT-scene beside it."""
    preset: Preset = "fast"
    """Preset of the fit."""
    small: bool = False
    """Two objects in eight small photos, and a shorter fit."""


def call(command_name: str, *arguments: str | Path) -> None:
    """Run a sibling command in a process of its own; its failure ends the demo with the same exit code."""
    command = [sys.executable, "-m", "splatseg.cli", command_name, *map(str, arguments)]
    print("$ splatseg", command_name, *arguments, flush=True)
    done = subprocess.run(command)
    if done.returncode:
        raise SystemExit(done.returncode)


def main() -> None:
    arguments = parse(Arguments, description=__doc__)
    scene = arguments.out.with_name(arguments.out.name + "-scene")
    started = time.monotonic()
    if not (scene / "queries.json").is_file():  # written last
        call("synthesize", scene, *(SMALL_SCENE if arguments.small else ()))
    masks = scene / "masks_2d"
    short = SHORT_FIT if arguments.small else ()
    call("fit", scene, "--out", arguments.out, "--preset", arguments.preset, "--masks", masks, *short)
    call("evaluate", arguments.out, "--gt", scene)
    print(f"\ndemo done in {time.monotonic() - started:.0f} s")
    print(f"labeled splat   {arguments.out / 'labels.ply'}")
    print(f"contact sheet    {arguments.out / 'contact_sheet.png'}   (photo, render, feature PCA, labels)")
    print(f"open the viewer  splatseg view {arguments.out}")
