"""Select an object by clicks in one photo of a run.

    splatseg segment RUN --view IMG_0001.jpg --pixel 412 300
    splatseg segment RUN --view IMG_0001.jpg --pixel 412 300 --out chair.ply
                     --add 500 280 --subtract 120 90

Writes the selected Gaussians as a PLY and, beside it, the masks they project to
in every view as PNGs. Without --threshold the selection is one of the proposed
levels, --level: 0 is the part, higher ones are larger. All levels are printed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from splatseg.cli.endings import parse
from splatseg.cli.finished_run import load_fitted, print_notes
from splatseg.cli.options import FloatOrNone, PathOrNone
from splatseg.core.atomic import remove_leftovers
from splatseg.core.errors import SplatsegError, naming
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import terminal
from splatseg.core.scene import Scene
from splatseg.core.selection import Selection
from splatseg.io.labels import save_selection
from splatseg.io.run import Run
from splatseg.io.run_scene import load_run_scene
from splatseg.io.splats import format_by_name
from splatseg.segment.mask_images import mask_paths, save_masks
from splatseg.session import Pick, Session, Workspace

Pixel = tuple[float, float]


@dataclass(frozen=True)
class Arguments:
    """Select Gaussians by clicks in a view of a finished run."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, made by 'splatseg fit'."""
    view: str
    """View that is clicked: image name, or its stem."""
    pixel: Pixel
    """Click: column and row."""
    add: Annotated[list[Pixel], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Another click, its thing added: Shift-click in the viewer; repeatable."""
    subtract: Annotated[list[Pixel], tyro.conf.UseAppendAction] = field(default_factory=list)
    """A click whose thing is taken out: Alt-click in the viewer; repeatable."""
    threshold: FloatOrNone = None
    """Score in [-1, 1] above which a Gaussian is selected, for each thing added; a proposed level if not given."""
    level: int = 0
    """Which proposed level, from part to group."""
    out: PathOrNone = None
    """File to write, its format by its suffix (.ply, .spz, .sog, ...); RUN/exports/selection.ply if not given. Masks go
    to a folder of the same name."""
    scene: PathOrNone = None
    """Where the capture lies now, if it was moved after the fit."""
    quiet: bool = False
    """No progress on stderr."""


def clicked(arguments: Arguments, session: Session) -> Pick:
    """Do the clicks as a person does them in the viewer; the first thing clicked, as it was then."""
    session.click(arguments.view, *arguments.pixel)
    first = session.active
    assert first is not None
    if arguments.threshold is None and not 0 <= arguments.level < len(first.levels):
        raise SplatsegError(
            f"--level: expected one of the {len(first.levels)} proposed levels, found {arguments.level}"
        )
    if arguments.threshold is not None:
        session.set_threshold(arguments.threshold)
    for pixel in arguments.add:
        session.click(arguments.view, *pixel, "add")
        if arguments.threshold is not None:
            session.set_threshold(arguments.threshold)
    for pixel in arguments.subtract:
        session.click(arguments.view, *pixel, "subtract")
    return first


def write(out: Path, gaussians: Gaussians, selection: Selection, scene: Scene, quiet: bool) -> None:
    """The selection as a PLY at ``out`` and its masks in a folder of the same name."""
    for folder in {out.parent, *(path.parent for path in mask_paths(out.with_suffix(""), scene.views).values())}:
        remove_leftovers(folder)  # what a killed call was writing
    save_selection(out, gaussians, selection)
    with terminal(quiet).count(len(scene.views), "masks", unit="view") as progress:
        save_masks(out.with_suffix(""), gaussians, selection, scene.views, lambda name, share: progress.advance())


def main() -> None:
    arguments = parse(Arguments, description=__doc__)
    run = Run.existing(arguments.run)
    out = arguments.out or run.exports / "selection.ply"
    with naming("--out"):
        format_by_name(out)
        run.check_output(out, out.with_suffix(""))
    run.remove_leftovers()  # what a killed call was writing; photos may be shrunk again
    splat = load_fitted(run)
    gaussians = splat.gaussians
    scene = load_run_scene(run, arguments.scene).in_frame(gaussians.offset)
    session = Session(Workspace(run, splat, scene), max(arguments.level, 0))
    first = clicked(arguments, session)
    write(out, gaussians, session.selection, scene, arguments.quiet)
    for number, level in enumerate(first.levels):
        count = len(first.scores.above(level.threshold))
        print(f"level {number}    threshold {level.threshold:.4f}, {count} Gaussians")
    print(f"selected   {len(session.selection)} of {len(gaussians)} Gaussians")
    if not first.confirmed(splat.field):
        print("known      no masks of several views hold what was clicked: it follows color and shape alone")
    print_notes(format_by_name(out), gaussians)
    print(f"selection  {out}")
    print(f"masks      {out.with_suffix('')} ({len(scene.views)} views)")
