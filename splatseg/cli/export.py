"""Label the whole scene: ``python scripts/export.py RUN [--out F.ply] [--sidecar]``.

Writes the splat with a label a Gaussian at several nested levels (``labels.ply``: INRIA layout, then the integers
``label`` and ``label_0`` .. coarse to fine) and the tree of labels with names and colors (``labels.json``). Labels
that are there already are taken as they are (with names given in the viewer) unless ``--again`` or a setting of the
clustering asks for new ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from splatseg.cli.endings import is_given, parse
from splatseg.cli.finished_run import load_splat
from splatseg.core.atomic import remove_leftovers
from splatseg.core.errors import SplatsegError
from splatseg.core.label_tree import LabelTree
from splatseg.core.progress import Percent, terminal
from splatseg.core.splat import FeatureSplat
from splatseg.io.labels import load_labels, save_labels
from splatseg.io.run import Run
from splatseg.segment.discretize import ClusterConfig, discretize


@dataclass(frozen=True)
class Arguments:
    """Write the labels of a finished run."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder made by scripts/fit.py."""
    out: Path | None = None
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


def cluster(splat: FeatureSplat, config: ClusterConfig, quiet: bool) -> LabelTree:
    """A new tree, with progress in percent."""
    with Percent(terminal(quiet), "labels") as reporter:
        return discretize(splat, config, reporter.report)


def main() -> None:
    arguments = parse(Arguments, description=__doc__)
    run = Run.existing(arguments.run)
    out = arguments.out or run.labels
    if out.suffix.lower() != ".ply":
        raise SplatsegError(f"--out: expected a name that ends in .ply, found {out}")
    splat = load_splat(run)
    gaussians = splat.gaussians
    reuse = run.labels_json.is_file() and not arguments.again and not is_given("--clusters.")
    tree = load_labels(run.labels, gaussians) if reuse else cluster(splat, arguments.clusters, arguments.quiet)
    remove_leftovers(out.parent)  # what a killed call was writing
    written = save_labels(
        out, gaussians, tree, arguments.sidecar, confidence=splat.field.confidence if arguments.confidence else None
    )
    for level in range(tree.levels):
        shown = " (label)" if level == tree.default_level else ""
        print(f"label_{level}  {len(tree.at_level(level))} labels{shown}")
    for path in written:
        print(f"written  {path}")
