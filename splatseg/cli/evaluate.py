"""Measure a run against ground truth.

    splatseg evaluate RUN --gt SCENE                  part and object IoU
    splatseg evaluate RUN --gt NVOS_ROOT/fern --protocol nvos

What --gt is depends on the protocol. hierarchical, the default: a scene with
nested ground truth, such as 'splatseg synthesize' writes; nvos: ROOT/NAME in
NVOS' folders; mvseg: the folder of masks; replica, lerf: the scene's folder.
Figures go to RUN/metrics.json and RUN/evaluation.md, contact sheets of the
worst and the best ten queries to RUN/evaluation_worst.png and
evaluation_best.png (right: green, too much: red, missed: blue).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from splatseg.cli.endings import parse
from splatseg.cli.finished_run import load_fitted
from splatseg.cli.options import PathOrNone
from splatseg.core.atomic import write_text
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import terminal
from splatseg.core.splat import FeatureSplat
from splatseg.evaluate.ceiling import evaluate_ceiling
from splatseg.evaluate.datasets import load_lerf_mask, load_mvseg, load_nvos, load_replica
from splatseg.evaluate.hierarchical import HierarchicalScene, Report, evaluate_scene, load_hierarchical
from splatseg.evaluate.labels3d import evaluate_labels, load_points
from splatseg.evaluate.reference import evaluate_tasks
from splatseg.evaluate.report import (
    hierarchical_table,
    labels_table,
    labels_to_json,
    reference_table,
    reference_to_json,
    report_to_json,
    update_metrics,
)
from splatseg.evaluate.sheets import extreme_queries, query_sheet, save_sheet
from splatseg.io.colmap import load_colmap
from splatseg.io.labels import load_labels
from splatseg.io.run import Run
from splatseg.io.run_scene import load_run_scene

Protocol = Literal["hierarchical", "nvos", "mvseg", "replica", "lerf"]


@dataclass(frozen=True)
class Arguments:
    """Measure a finished run."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, made by 'splatseg fit'."""
    gt: Path
    """Annotated scene; what it is depends on the protocol."""
    protocol: Protocol = "hierarchical"
    """Point queries against nested ground truth, or the rules of a published set."""
    proposals: bool = True
    """hierarchical: also measure at the levels that a click proposes."""
    ceiling: bool = True
    """hierarchical: also measure what the geometry allows (labels from the truth)."""
    sheets: bool = True
    """hierarchical: write contact sheets."""
    scene: PathOrNone = None
    """Where the capture of the run lies now, if it was moved after the fit."""
    quiet: bool = False
    """No progress on stderr."""


def measure_ceiling(gaussians: Gaussians, gt: HierarchicalScene, quiet: bool) -> Report:
    views = load_colmap(gt.folder).in_frame(gaussians.offset).views
    with terminal(quiet).count(len(views), "ceiling", unit="view") as progress:
        return evaluate_ceiling(gaussians, gt, views, report=lambda name, share: progress.advance())


def hierarchical(arguments: Arguments, run: Run, splat: FeatureSplat) -> tuple[str, dict[str, Any]]:
    """Table and JSON of protocol (a), and of (f) where the run has labels and the scene labeled points."""
    gt = load_hierarchical(arguments.gt)
    report = evaluate_scene(splat, gt, arguments.proposals)
    ceiling = measure_ceiling(splat.gaussians, gt, arguments.quiet) if arguments.ceiling else None
    table, content = hierarchical_table(report, ceiling), report_to_json(report)
    if ceiling is not None:
        content["ceiling"] = report_to_json(ceiling)
    points = arguments.gt / "gt" / "points.ply"
    if run.labels_json.is_file() and points.is_file():
        stuff = frozenset(node.id for node in gt.nodes.values() if node.stuff)
        labels = evaluate_labels(splat.gaussians, load_labels(run.labels, splat.gaussians), load_points(points), stuff)
        table += "\n" + labels_table(gt.name, labels)
        content["labels"] = labels_to_json(labels)
    if arguments.sheets:
        for name, chosen in zip(("worst", "best"), extreme_queries(report), strict=True):
            save_sheet(run.folder / f"evaluation_{name}.png", query_sheet(splat, gt, chosen))
            print(f"written  {run.folder / f'evaluation_{name}.png'}")
    return table, content


def by_reference(arguments: Arguments, run: Run, splat: FeatureSplat) -> tuple[str, dict[str, Any]]:
    """Table and JSON of protocols (b)-(e)."""
    views = load_run_scene(run, arguments.scene).in_frame(splat.gaussians.offset).views
    gt = arguments.gt
    if arguments.protocol == "nvos":
        tasks = load_nvos(gt.parent, gt.name, views)
    elif arguments.protocol == "mvseg":
        tasks = load_mvseg(gt, views)
    elif arguments.protocol == "replica":
        tasks = load_replica(gt, views)
    else:
        tasks = load_lerf_mask(gt, views)
    report = evaluate_tasks(splat, {view.name: view for view in views}, tasks, arguments.protocol)
    return reference_table(report), reference_to_json(report)


def main() -> None:
    arguments = parse(Arguments, description=__doc__)
    run = Run.existing(arguments.run)
    splat = load_fitted(run)
    measure = hierarchical if arguments.protocol == "hierarchical" else by_reference
    table, content = measure(arguments, run, splat)
    update_metrics(run.metrics, arguments.protocol, content)
    write_text(run.folder / "evaluation.md", table)
    print(table)
    print(f"written  {run.metrics}")
    print(f"written  {run.folder / 'evaluation.md'}")
