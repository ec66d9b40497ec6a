"""Write the labels of a whole scene as PLY.

    splatseg export RUN                 RUN/labels.ply and labels.json
    splatseg export RUN --sidecar       a plain PLY, the labels in an .npz

The PLY is the splat in INRIA's layout, then the integers label and label_0,
label_1, ..., coarse to fine; labels.json holds the tree with names and colors.
Labels that are there already, with names given in the viewer, are taken as they
are unless --again or a setting of the clustering asks for new ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from splatseg.cli.endings import is_given, parse
from splatseg.cli.finished_run import load_field
from splatseg.cli.options import PathOrNone
from splatseg.core.atomic import remove_leftovers
from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree
from splatseg.core.progress import Progress
from splatseg.io.labels import load_labels, save_labels
from splatseg.io.run import Run
from splatseg.segment.discretize import ClusterConfig, discretize


@dataclass(frozen=True)
class Arguments:
    """Write the labels of a finished run."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, made by 'splatseg fit'."""
    out: PathOrNone = None
    """PLY to write; RUN/labels.ply if not given. JSON and NPZ get the same name."""
    sidecar: bool = False
    """Write a plain PLY and the labels to an .npz beside it."""
    confidence: bool = False
    """Also write the property 'confidence': percent of the views of a Gaussian that agree on what it lies in."""
    again: bool = False
    """Cluster anew even if the run has labels."""
    quiet: bool = False
    """No progress on stderr."""
    clusters: ClusterConfig = field(default_factory=ClusterConfig)


def cluster(gaussians: Gaussians, features: FeatureField, config: ClusterConfig, quiet: bool) -> LabelTree:
    """A new tree, with progress in percent."""
    with Progress(100, "labels", unit="%", quiet=quiet) as progress:
        done = 0

        def report(step: str, share: float) -> None:
            nonlocal done
            progress.advance(round(100 * share) - done, step=step)
            done = round(100 * share)

        return discretize(gaussians, features, config, report)


def main() -> None:
    arguments = parse(Arguments, description=__doc__)
    run = Run.existing(arguments.run)
    out = arguments.out or run.labels
    if out.suffix.lower() != ".ply":
        raise SplatsegError(f"--out: expected a name that ends in .ply, found {out}")
    gaussians, features = load_field(run)
    reuse = run.labels_json.is_file() and not arguments.again and not is_given("--clusters.")
    if reuse:
        tree = load_labels(run.labels, gaussians)
    else:
        tree = cluster(gaussians, features, arguments.clusters, arguments.quiet)
    remove_leftovers(out.parent)  # what a killed call was writing
    written = save_labels(
        out, gaussians, tree, arguments.sidecar, confidence=features.confidence if arguments.confidence else None
    )
    for level in range(tree.levels):
        shown = " (label)" if level == tree.default_level else ""
        print(f"label_{level}  {len(tree.at_level(level))} labels{shown}")
    for path in written:
        print(f"written  {path}")
