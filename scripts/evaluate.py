"""Measure a run against nested ground truth: ``python scripts/evaluate.py RUN --gt SCENE``.

SCENE is annotated as ``../shared/data/README.md`` says (also what ``scripts/synthesize.py`` writes). Prints IoU1 and
IoU2 at the best threshold and at the proposed levels, core queries first, and the ceiling of the geometry. Writes to
RUN: ``metrics.json`` (under ``hierarchical``), ``evaluation.md``, and the worst and best ten queries as
    ``evaluation_worst.png``
and ``evaluation_best.png`` (true positives green, false positives red, false negatives blue).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from _cli import run as run_script
from _run import load_field

from splatseg.evaluate.ceiling import evaluate_ceiling
from splatseg.evaluate.hierarchical import HierarchicalScene, Report, evaluate_scene, load_hierarchical
from splatseg.evaluate.report import hierarchical_table, report_to_json, update_metrics
from splatseg.evaluate.sheets import extreme_queries, query_sheet, save_sheet
from splatseg.gaussians import Gaussians
from splatseg.io.atomic import write_text
from splatseg.io.colmap import load_colmap
from splatseg.io.run import Run
from splatseg.progress import Progress


@dataclass(frozen=True)
class Arguments:
    """Measure a finished run by hierarchical point queries."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder made by scripts/fit.py."""
    gt: Path
    """Annotated scene: test_cameras.json, queries.json, gt/."""
    proposals: bool = True
    """Also measure at the levels that a click proposes."""
    ceiling: bool = True
    """Also measure what the geometry allows (labels from the truth)."""
    sheets: bool = True
    """Write contact sheets."""
    quiet: bool = False
    """No progress on stderr."""


def measure_ceiling(gaussians: Gaussians, gt: HierarchicalScene, quiet: bool) -> Report:
    views = load_colmap(gt.folder).views
    with Progress(len(views), "ceiling", unit="view", quiet=quiet) as progress:
        return evaluate_ceiling(gaussians, gt, views, report=lambda name, share: progress.advance())


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    run = Run.existing(arguments.run)
    gt = load_hierarchical(arguments.gt)
    gaussians, features = load_field(run)
    report = evaluate_scene(gaussians, features, gt, arguments.proposals)
    ceiling = measure_ceiling(gaussians, gt, arguments.quiet) if arguments.ceiling else None
    table = hierarchical_table(report, ceiling)
    content = report_to_json(report)
    if ceiling is not None:
        content["ceiling"] = report_to_json(ceiling)
    update_metrics(run.metrics, "hierarchical", content)
    write_text(run.folder / "evaluation.md", table)
    written = [run.metrics, run.folder / "evaluation.md"]
    if arguments.sheets:
        for name, chosen in zip(("worst", "best"), extreme_queries(report), strict=True):
            written.append(run.folder / f"evaluation_{name}.png")
            save_sheet(written[-1], query_sheet(gaussians, features, gt, chosen))
    print(table)
    for path in written:
        print(f"written  {path}")


if __name__ == "__main__":
    run_script(main)
