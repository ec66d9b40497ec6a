"""Compare settings of the feature fit on annotated scenes.

    PYTHONPATH=. python benchmarks/ablation/__main__.py SCENE... --out FOLDER

(``python -m benchmarks.ablation`` in the project's root is the same.) Every row of every table (``--tables``; the rows
are in ``benchmarks/ablation/rows.py``) is fitted with every seed on each scene, on one frozen splat a scene, with the
masks in SCENE/masks_2d, and measured by part and object point queries at the best threshold and at the proposed
levels; the ceiling of the splat is a row of every table. The table ``stress`` has other masks in its rows, simulated
from SCENE/gt (``benchmarks/ablation/stress.py``), and goes to ``stress.md`` and ``stress.json``. ``--geometry RUN...``,
one a scene, takes finished splats; else they are fitted first.

Writes ``ablation.json``, ``ablation.md`` and ``ablation.png`` to FOLDER. A cell that has its result there is not
measured again, so the same command goes on after a kill. ``--set steps=500`` changes a setting in all rows.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from benchmarks.ablation.cells import AblationScene, Plan, run_plan
from benchmarks.ablation.plot import save_plot
from benchmarks.ablation.report import summarize, to_json, to_markdown
from benchmarks.ablation.rows import TABLES
from benchmarks.ablation.stress import StressRow, run_stress, stress_to_json, stress_to_markdown
from splatseg.core.atomic import write_text
from splatseg.core.errors import SplatsegError
from splatseg.core.progress import terminal
from splatseg.evaluate.hierarchical import load_hierarchical
from splatseg.fit.geometry import GeometryConfig
from splatseg.fit.pipeline import Fit
from splatseg.fit.settings import FitConfig, FitInputs
from splatseg.io.colmap import load_colmap
from splatseg.io.run_scene import take_capture
from splatseg.io.test_cameras import load_test_views

STRESS = "stress"  # the table whose rows are kinds of masks, not settings


@dataclass(frozen=True)
class Arguments:
    """Compare settings of the feature fit."""

    scenes: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Annotated scenes with simulated masks, as docs/reference/files.md describes and splatseg synthesize writes."""
    out: Path
    """Folder of the results."""
    geometry: tuple[Path, ...] = ()
    """Run folder (or PLY) of each scene's splat, in the scenes' order; fitted where none are given."""
    masks: str = "masks_2d"
    """Folder of masks inside each scene."""
    tables: tuple[str, ...] = ("main", "decay", "dimension")
    """Any of main, decay, dimension, segments, ideas, stress."""
    seeds: tuple[int, ...] = (0, 1, 2)
    set: tuple[str, ...] = ()
    """NAME=VALUE settings for all rows, e.g. steps=500 or loss.phi_min=0.2; a row's own settings win."""
    measure: bool = True
    """Measure what is missing; --no-measure only writes the report of what is there."""
    quiet: bool = False
    """No progress on stderr."""
    fit: GeometryConfig = field(default_factory=GeometryConfig)
    """Settings of the geometry fits."""


def common_settings(words: tuple[str, ...]) -> dict[str, Any]:
    """``NAME=VALUE`` words as settings; values are read as YAML, so that numbers are numbers."""
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise SplatsegError(f"--set: expected NAME=VALUE, found '{word}'")
        try:
            settings[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise SplatsegError(f"--set: expected a plain value for '{name}', found '{value}'") from None
    return settings


def check(arguments: Arguments) -> None:
    """Refuse wrong arguments before anything is fitted."""
    if not arguments.scenes or not arguments.seeds:
        raise SplatsegError("ablate: expected at least one scene and one seed, found none")
    if arguments.geometry and len(arguments.geometry) != len(arguments.scenes):
        raise SplatsegError(
            f"--geometry: expected one for each of {len(arguments.scenes)} scenes, found {len(arguments.geometry)}"
        )
    if len({scene.resolve().name for scene in arguments.scenes}) < len(arguments.scenes):
        raise SplatsegError("scenes: expected different names, found one twice")
    for name in arguments.tables:
        if name not in TABLES and name != STRESS:
            raise SplatsegError(f"--tables: expected some of {', '.join([*TABLES, STRESS])}, found '{name}'")
    if STRESS in arguments.tables and arguments.set:
        raise SplatsegError("--set: expected none with the table stress, whose rows are the default and the loss alone")


def prepare(arguments: Arguments, index: int) -> AblationScene:
    """Splat and patch hierarchies of a scene, made by the stages of the main job in ``OUT/SCENE`` where missing."""
    folder = arguments.scenes[index].resolve()
    gt = load_hierarchical(folder)
    splat = arguments.geometry[index] if arguments.geometry else None
    if splat is not None and splat.is_dir():
        splat = splat / "geometry.ply"
    inputs = FitInputs(folder, arguments.out / folder.name, str(folder / arguments.masks), splat)
    job = Fit(inputs, FitConfig(geometry=arguments.fit), terminal(arguments.quiet))
    with job.run.lock():
        scene = load_colmap(folder)
        take_capture(job.run, folder, scene.views)
        gaussians = job.geometry(scene, scene.views, load_test_views(folder, scene) if splat is None else ())
        hierarchies = job.hierarchies(scene.views)
    return AblationScene(gt, gaussians, tuple(scene.views), hierarchies)


def write_report(plan: Plan, out: Path) -> str:
    results = summarize(plan, out)
    table = to_markdown(results)
    write_text(out / "ablation.json", json.dumps(to_json(results, plan), indent=1) + "\n")
    write_text(out / "ablation.md", table)
    return table


def ablate(arguments: Arguments) -> int:
    """Measure and report; 1 where a cell could not be measured.

    Raises:
        SplatsegError: wrong arguments, scenes or splats.
    """
    check(arguments)
    common = common_settings(arguments.set)
    tables = [TABLES[name] for name in arguments.tables if name != STRESS]
    for table in tables:
        for row in table.rows:
            row.config(common)  # a wrong setting is found before the geometry is fitted
    scenes = [prepare(arguments, index) for index in range(len(arguments.scenes))]
    failures = stress(arguments, scenes) if STRESS in arguments.tables else []
    if tables:
        failures += compare(arguments, Plan(scenes, tables, arguments.seeds, common))
    for line in failures:
        print(f"not measured: {line}", file=sys.stderr)
    return 1 if failures else 0


def stress(arguments: Arguments, scenes: list[AblationScene]) -> list[str]:
    """The table ``stress``; a line for each cell that could not be measured."""
    out, seeds = arguments.out, arguments.seeds

    def write(rows: list[StressRow]) -> None:
        write_text(out / "stress.md", stress_to_markdown(rows, seeds))
        write_text(out / "stress.json", json.dumps(stress_to_json(rows, seeds), indent=1) + "\n")

    rows, failures = run_stress(scenes, seeds, out, write, arguments.quiet, arguments.measure)
    print(stress_to_markdown(rows, seeds))
    for name in ("stress.md", "stress.json"):
        print(f"written  {out / name}")
    return failures


def compare(arguments: Arguments, plan: Plan) -> list[str]:
    """The tables of settings; a line for each cell that could not be measured."""
    failures = []
    if arguments.measure:
        failures = run_plan(plan, arguments.out, lambda: write_report(plan, arguments.out), arguments.quiet)
    print(write_report(plan, arguments.out))
    try:
        save_plot(arguments.out / "ablation.png", summarize(plan, arguments.out))
        print(f"written  {arguments.out / 'ablation.png'}")
    except SplatsegError as error:
        print(f"no plot: {error}", file=sys.stderr)
    for name in ("ablation.md", "ablation.json"):
        print(f"written  {arguments.out / name}")
    return failures


def main() -> int:
    """The command's exit code: 2 for bad input, said in one line."""
    try:
        return ablate(tyro.cli(Arguments, description=__doc__))
    except SplatsegError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
