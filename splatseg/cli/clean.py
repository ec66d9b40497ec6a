"""Write a splat without its floaters: what hangs in the air and belongs to no surface.

    splatseg clean RUN                      RUN/exports/cleaned.ply
    splatseg clean RUN --out chair.spz      in another format
    splatseg clean SPLAT --out F.ply        a splat of any format, without its photos

A floater is a piece of few Gaussians that is far from the surfaces and, where
the photos' cameras are known, in front of what they see or hardly seen. The run
itself stays as it is; the viewer's Clean proposes the same and lets you look first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from splatseg.cli.endings import parse
from splatseg.cli.finished_run import print_notes
from splatseg.cli.options import PathOrNone
from splatseg.core.atomic import remove_leftovers
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError, naming
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import Percent, terminal
from splatseg.io.labels import save_without
from splatseg.io.ply import load_gaussians
from splatseg.io.run import Run
from splatseg.io.run_scene import load_run_scene
from splatseg.io.splats import format_by_name, load_splat
from splatseg.segment.floaters import FloaterConfig, find_floaters


@dataclass(frozen=True)
class Arguments:
    """Write a splat without what hangs in the air."""

    splat: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|SPLAT")]
    """Run folder, made by 'splatseg fit', or a splat's file."""
    out: PathOrNone = None
    """File to write, its format by its suffix; RUN/exports/cleaned.ply if not given. A splat's file needs it."""
    scene: PathOrNone = None
    """Where the capture of the run lies now, if it was moved after the fit."""
    no_photos: bool = False
    """Do not ask the photos' cameras: what is isolated and far from surfaces goes."""
    quiet: bool = False
    """No progress on stderr."""
    floaters: FloaterConfig = field(default_factory=FloaterConfig)


def main() -> None:
    arguments = parse(Arguments, description=__doc__)
    out = _target(arguments)
    gaussians, cameras = _load(arguments)
    with Percent(terminal(arguments.quiet), "floaters") as reporter:
        found = find_floaters(gaussians, cameras, arguments.floaters, report=reporter.report)
    remove_leftovers(out.parent)  # what a killed call was writing
    save_without(out, gaussians, found)
    print(f"asked    {len(cameras)} cameras" if cameras else "asked    no cameras, only the splat")
    print(f"removed  {len(found)} of {len(gaussians)} Gaussians")
    print_notes(format_by_name(out), gaussians)
    print(f"written  {out}")


def _target(arguments: Arguments) -> Path:
    """Where to write; what cannot be is refused before anything is read."""
    given, is_run = arguments.out, arguments.splat.is_dir()
    if given is None and not is_run:
        raise SplatsegError(f"--out: expected the file to write for the splat {arguments.splat}, found none")
    if not is_run and arguments.scene is not None:
        raise SplatsegError("--scene: expected beside a run folder only, found it beside a splat's file")
    out = given if given is not None else Run.existing(arguments.splat).exports / "cleaned.ply"
    with naming("--out"):
        format_by_name(out)
    source = Run.existing(arguments.splat).geometry if is_run else arguments.splat
    if out.exists() and source.exists() and out.samefile(source):
        raise SplatsegError(f"--out: expected another file than the splat itself, found {out}")
    if is_run:
        with naming("--out"):
            Run.existing(arguments.splat).check_output(out)
    return out


def _load(arguments: Arguments) -> tuple[Gaussians, Sequence[Camera]]:
    """The splat, and the cameras in its frame that are asked."""
    if not arguments.splat.is_dir():
        return load_splat(arguments.splat).gaussians, ()
    run = Run.existing(arguments.splat)
    if not run.geometry.is_file():
        raise SplatsegError(f"{run.geometry}: expected the splat of a fit (scripts/fit.py), found no such file")
    gaussians = load_gaussians(run.geometry)
    if arguments.no_photos:
        return gaussians, ()
    scene = load_run_scene(run, arguments.scene).in_frame(gaussians.offset)
    return gaussians, [view.camera for view in scene.views]
