"""The whole product on a small scene that it makes itself: ``make demo``.

Writes a synthetic COLMAP capture (objects with parts, exact labels), runs ``splatseg fit`` on it as a user would,
measures part and object IoU on held-out views, and prints where the results are. A second run reuses what is done.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from splatseg.cli.endings import parse


@dataclass(frozen=True)
class Arguments:
    """Make a scene, fit it, measure it."""

    out: Path = Path("runs/demo")
    """Run folder; the capture goes to OUT-scene beside it."""
    preset: str = "fast"


def call(command_name: str, *arguments: str | Path) -> None:
    """Run a sibling command in a process of its own; its failure ends the demo with the same exit code."""
    command = [sys.executable, "-m", "splatseg.cli", command_name, *map(str, arguments)]
    print("$ splatseg", command_name, *arguments, flush=True)
    done = subprocess.run(command)
    if done.returncode:
        raise SystemExit(done.returncode)


def main() -> None:
    arguments = parse(Arguments)
    scene = arguments.out.with_name(arguments.out.name + "-scene")
    started = time.monotonic()
    if not (scene / "queries.json").is_file():  # written last
        call("synthesize", scene)
    call("fit", scene, "--out", arguments.out, "--preset", arguments.preset, "--masks", scene / "masks_2d")
    call("evaluate", arguments.out, "--gt", scene)
    print(f"\ndemo done in {time.monotonic() - started:.0f} s")
    print(f"labeled splat   {arguments.out / 'labels.ply'}")
    print(f"contact sheet    {arguments.out / 'contact_sheet.png'}   (photo, render, feature PCA, labels)")
    print(f"open the viewer  splatseg view {arguments.out}")
