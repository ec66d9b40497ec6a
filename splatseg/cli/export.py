"""Write a run and its labels in the format of the next tool.

    splatseg export RUN                     RUN/labels.ply and labels.json
    splatseg export RUN --format spz        RUN/exports/labels.spz, labels.npz
    splatseg export RUN --split-by label    a file per label
    splatseg export RUN --label 1.2         one of them; --without 1.2 the rest
    splatseg export RUN --panoptic DIR      the labels in every photo

The PLY is the splat in INRIA's layout, then the integers label and label_0,
label_1, ..., coarse to fine; labels.json holds the tree with names and colors.
A GLB has the labels as feature ids; other formats hold none, so they go to an
.npz beside it, and 'splatseg labels attach' puts them back after other tools.
Labels that are there already, with names given in the viewer, are taken as they
are unless --again or a setting of the clustering asks for new ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from splatseg.cli.endings import is_given, parse
from splatseg.cli.finished_run import load_fitted, print_notes
from splatseg.cli.options import IntOrNone, PathOrNone, TextOrNone
from splatseg.core.atomic import remove_leftovers
from splatseg.core.errors import SplatsegError, naming
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree
from splatseg.core.progress import Percent, terminal
from splatseg.core.splat import FeatureSplat
from splatseg.io.labels import labels_beside, load_labels, save_labels, save_selection, save_without
from splatseg.io.run import Run
from splatseg.io.run_scene import load_run_scene
from splatseg.io.splats import SUFFIXES, SplatFormat
from splatseg.io.split import save_by_label
from splatseg.segment.discretize import ClusterConfig, discretize
from splatseg.segment.panoptic import save_panoptic


@dataclass(frozen=True)
class Arguments:
    """Write a finished run, with its labels, for other tools."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, made by 'splatseg fit'."""
    out: PathOrNone = None
    """File to write, RUN/labels.ply if not given (RUN/exports/... for other formats); JSON and NPZ get the same name.
    With --split-by a folder, RUN/exports/by_label if not given."""
    format: SplatFormat = "ply"
    """Format of the splats written."""
    split_by: Literal["nothing", "label"] = "nothing"
    """One file per label at --level, named as the tree names them."""
    label: TextOrNone = None
    """Only the Gaussians of this label: its name or id."""
    without: TextOrNone = None
    """The scene without the Gaussians of this label: its name or id."""
    panoptic: PathOrNone = None
    """Folder for the labels as seen in every photo: PNGs and a JSON as COCO's panoptic task has them."""
    level: IntOrNone = None
    """Level of the label tree for --split-by and --panoptic, 0 coarsest; that of the column 'label' if not given."""
    scene: PathOrNone = None
    """For --panoptic: where the capture lies now, if it was moved after the fit."""
    sidecar: bool = False
    """Write a plain PLY and the labels to an .npz beside it."""
    confidence: bool = False
    """Also write the property 'confidence': percent of the views of a Gaussian that agree on what it lies in."""
    again: bool = False
    """Cluster anew even if the run has labels."""
    quiet: bool = False
    """No progress on stderr."""
    clusters: ClusterConfig = field(default_factory=ClusterConfig)


def cluster(splat: FeatureSplat, config: ClusterConfig, quiet: bool) -> LabelTree:
    """A new tree, with progress in percent."""
    with Percent(terminal(quiet), "labels") as reporter:
        return discretize(splat, config, reporter.report)


def main() -> None:
    arguments = parse(Arguments, description=__doc__)
    run = Run.existing(arguments.run)
    out = _target(arguments, run)
    splat = load_fitted(run)
    gaussians = splat.gaussians
    reuse = run.labels_json.is_file() and not arguments.again and not is_given("--clusters.")
    tree = load_labels(run.labels, gaussians) if reuse else cluster(splat, arguments.clusters, arguments.quiet)
    remove_leftovers(out.parent)  # what a killed call was writing
    if arguments.panoptic is not None:
        views = load_run_scene(run, arguments.scene).in_frame(gaussians.offset).views
        with Percent(terminal(arguments.quiet), "panoptic") as reporter:
            written = [save_panoptic(out, gaussians, tree, _level(arguments, tree), views, reporter.report)]
    elif arguments.split_by == "label":
        written = save_by_label(out, gaussians, tree, _level(arguments, tree), arguments.format)
    elif arguments.label is not None or arguments.without is not None:
        written = [_one(out, gaussians, tree, arguments)]
    else:
        confidence = splat.field.confidence if arguments.confidence else None
        written = save_labels(out, gaussians, tree, arguments.sidecar, confidence=confidence)
        for level in range(tree.levels):
            shown = " (label)" if level == tree.default_level else ""
            print(f"label_{level}  {len(tree.at_level(level))} labels{shown}")
    if arguments.panoptic is None:
        print_notes(arguments.format, gaussians)
    for path in written:
        print(f"written  {path}")


def _target(arguments: Arguments, run: Run) -> Path:
    """Where to write; options that contradict each other, and places of what is read, are refused before anything is
    read."""
    out, part = _chosen_target(arguments, run)
    with naming("--panoptic" if arguments.panoptic is not None else "--out"):
        if part:
            run.check_output(out)
        elif out.resolve() != run.labels.resolve():  # those labels are the run's own, made anew
            run.check_output(out, *labels_beside(out, arguments.sidecar))
    return out


def _chosen_target(arguments: Arguments, run: Run) -> tuple[Path, bool]:
    """Where to write, and whether it is less than the labels of the whole scene."""
    chosen = [name for name in ("label", "without") if getattr(arguments, name) is not None]
    chosen += ["split_by"] * (arguments.split_by == "label")
    if len(chosen) > 1:
        raise SplatsegError(f"--{chosen[1].replace('_', '-')}: expected to stand alone, found it beside --{chosen[0]}")
    if arguments.level is not None and arguments.split_by == "nothing" and arguments.panoptic is None:
        raise SplatsegError("--level: expected --split-by label or --panoptic beside it, found none")
    if arguments.panoptic is not None:
        if chosen or arguments.out is not None:
            raise SplatsegError("--panoptic: expected to stand alone, found another output beside it")
        return arguments.panoptic, True
    if arguments.split_by == "label":
        out = arguments.out or run.exports / "by_label"
        if out.is_file():
            raise SplatsegError(f"--out: expected a folder with --split-by, found the file {out}")
        return out, True
    suffix = SUFFIXES[arguments.format]
    plain = run.labels if arguments.format == "ply" else run.exports / f"labels{suffix}"
    if chosen:
        plain = run.exports / f"{'scene_without_' if chosen == ['without'] else ''}label{suffix}"
    out = arguments.out or plain
    if not out.name.lower().endswith(suffix):
        raise SplatsegError(f"--out: expected a name that ends in {suffix}, found {out}")
    return out, bool(chosen)


def _level(arguments: Arguments, tree: LabelTree) -> int:
    level = tree.default_level if arguments.level is None else arguments.level
    if not 0 <= level < tree.levels:
        raise SplatsegError(f"--level: expected 0..{tree.levels - 1}, found {level}")
    return level


def _one(out: Path, gaussians: Gaussians, tree: LabelTree, arguments: Arguments) -> Path:
    """One label, or the scene without it."""
    selection = tree.selection(tree.named(arguments.label or arguments.without or "").id)
    (save_without if arguments.without is not None else save_selection)(out, gaussians, selection)
    return out
