"""Plan views of a splat that has no photos, and render them.

    splatseg views SPLAT --out DIR
    splatseg views SPLAT --out DIR --views 120 --width 1024 --height 768
    splatseg fit DIR --splat SPLAT --masks MASKS    masks that any tool made

DIR becomes a capture: images and a COLMAP model of the cameras (text), in the
splat's frame. 'splatseg fit --splat SPLAT' alone does all of it in one go.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from splatseg.cli.endings import parse
from splatseg.core.progress import terminal
from splatseg.fit.given import read_splat
from splatseg.fit.stages import views_stage
from splatseg.fit.views.config import ViewPlanConfig
from splatseg.fit.views.folder import check_place, planned, summary, write_views
from splatseg.render import choose_device


@dataclass(frozen=True)
class Arguments:
    """Plan views of a splat and render them."""

    splat: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SPLAT")]
    """PLY of any tool, compressed PLY, spz, sog, splat, ksplat."""
    out: Path
    """Folder for the views; a new or empty one, or one of planned views, which are replaced."""
    plan: Annotated[ViewPlanConfig, tyro.conf.arg(name="")] = field(default_factory=ViewPlanConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to draw; auto takes CUDA where a GPU and the kernels for it are there."""
    quiet: bool = False
    """No progress on stderr."""


def main() -> None:
    arguments = parse(Arguments, description=__doc__)
    check_place(arguments.out, arguments.splat)
    gaussians = read_splat(arguments.splat)
    stage = views_stage(gaussians, arguments.plan)
    told = planned(arguments.out, stage.key)
    kept = told is not None
    if told is None:
        drawn = replace(gaussians, extra={}).to(choose_device(arguments.device))
        told = write_views(arguments.out, drawn, arguments.plan, stage.key, terminal(arguments.quiet))
    print(f"{arguments.out}: {summary(told)}{' (already there)' if kept else ''}")
