"""The ablation: settings x scenes x seeds, each fitted on the same frozen geometry and measured by protocol (a).

A cell is one fit and its measurement. Its result is a JSON file named after everything it depends on (settings, seed,
splat, patch hierarchies, annotations, proposals), written whole or not at all: a killed ablation goes on with the
cells that are missing, a changed setting or scene never meets an old figure.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablation.rows import Row, Table
from splatseg.core.atomic import write_text
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import terminal
from splatseg.core.reading import read_json
from splatseg.core.scene import View
from splatseg.core.splat import FeatureSplat
from splatseg.evaluate.ceiling import evaluate_ceiling
from splatseg.evaluate.hierarchical import HierarchicalScene, Report, evaluate_scene
from splatseg.fit.features import FeatureConfig, fit_features
from splatseg.io.digests import digest
from splatseg.masks.hierarchy import HierarchyFolder
from splatseg.segment.levels import LevelConfig

PROTOCOL = 2  # part of every cell's name: raise it when the measurement changes
MEASURES = ("iou1", "iou2", "mean", "boundary_mean", "proposed1", "proposed2", "proposed_mean")


@dataclass(frozen=True, eq=False)
class AblationScene:
    """What all cells of a scene share: annotations, frozen splat, training views and their patch hierarchies."""

    gt: HierarchicalScene
    gaussians: Gaussians
    views: tuple[View, ...]
    hierarchies: HierarchyFolder

    @property
    def name(self) -> str:
        return self.gt.name

    @cached_property
    def key(self) -> str:
        """Changes with any input of a cell but its settings."""
        annotations = [self.gt.folder / "queries.json", self.gt.folder / "test_cameras.json"]
        annotations += [self.gt.folder / "gt" / f"{view}.npz" for view in self.gt.by_view]
        patches = [self.hierarchies.path(view.name) for view in self.views]
        settings = {"splat": self.gaussians.fingerprint(), "views": [view.name for view in self.views]}
        return digest(settings, files=[*annotations, *patches])


@dataclass(frozen=True, eq=False)
class Cell:
    """One measurement: a fit with ``config``, or the ceiling of the scene where that is None."""

    scene: AblationScene
    config: FeatureConfig | None

    @cached_property
    def settings(self) -> dict[str, Any] | None:
        return None if self.config is None else json.loads(json.dumps(asdict(self.config), default=str))

    @cached_property
    def key(self) -> str:
        content = {"protocol": PROTOCOL, "scene": self.scene.key, "features": self.settings}
        return digest({**content, "levels": asdict(LevelConfig())})

    def path(self, folder: Path) -> Path:
        """Where its result lies in the ablation's ``folder``."""
        kind = "ceiling" if self.config is None else f"seed{self.config.seed}"
        return folder / "cells" / f"{self.scene.name}_{kind}_{self.key}.json"

    def measure(self) -> dict[str, Any]:
        """Fit and measure; see :func:`read_cell` for what comes back.

        Raises:
            SplatsegError: the fit or its inputs are refused.
        """
        start = time.perf_counter()
        if self.config is None:
            report, fitted = evaluate_ceiling(self.scene.gaussians, self.scene.gt, self.scene.views), start
        else:
            hierarchies = self.scene.hierarchies
            field = fit_features(
                self.scene.gaussians, self.scene.views, lambda view: hierarchies[view.name], self.config
            )
            fitted = time.perf_counter()
            report = evaluate_scene(FeatureSplat(self.scene.gaussians, field), self.scene.gt)
        return self._record(report, fitted - start, time.perf_counter() - fitted)

    def _record(self, report: Report, fit_seconds: float, evaluate_seconds: float) -> dict[str, Any]:
        return {
            "key": self.key,
            "scene": self.scene.name,
            "seed": None if self.config is None else self.config.seed,
            "features": self.settings,
            "core": report.averages(core=True),
            "groups": report.averages(core=False),
            "queries": [[round(result.iou1, 5), round(result.iou2, 5)] for result in report.results],
            "fit_seconds": round(fit_seconds, 2),
            "evaluate_seconds": round(evaluate_seconds, 2),
            "threads": torch.get_num_threads(),
        }


def read_cell(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """What :meth:`Cell.measure` found earlier: averages over ``core`` and ``groups`` queries, the two IoUs of each
    of the ``queries`` in file order, seconds, settings.

    None where there is no result, or a file that is not one: the cell is then measured again.
    """
    try:
        content = read_json(cell.path(folder))
        return content if content["key"] == cell.key and "mean" in content["core"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@dataclass(frozen=True, eq=False)
class Plan:
    """All rows of ``tables`` on ``scenes`` with ``seeds``; ``common`` settings hold for every row."""

    scenes: Sequence[AblationScene]
    tables: Sequence[Table]
    seeds: Sequence[int]
    common: Mapping[str, Any]

    def cell(self, scene: AblationScene, row: Row, seed: int) -> Cell:
        return Cell(scene, replace(row.config(self.common), seed=seed))

    def cells(self) -> list[Cell]:
        """Every different cell once: ceilings first, then table by table, all its rows before the next seed."""
        ordered: Iterable[Cell] = [Cell(scene, None) for scene in self.scenes]
        ordered = [
            *ordered,
            *(
                self.cell(scene, row, seed)
                for table in self.tables
                for seed in self.seeds
                for scene in self.scenes
                for row in table.rows
            ),
        ]
        return list({cell.key: cell for cell in ordered}.values())


def run_plan(plan: Plan, folder: Path, after: Callable[[], object] = lambda: None, quiet: bool = False) -> list[str]:
    """Measure the cells that have no result yet.

    Args:
        after: called after every cell, to bring the report up to date.

    Returns:
        A line a cell that could not be measured (a fit that diverged): the others are measured all the same.
    """
    return measure_cells(plan.cells(), folder, after, quiet)


def measure_cells(
    cells: Sequence[Cell], folder: Path, after: Callable[[], object] = lambda: None, quiet: bool = False
) -> list[str]:
    """Those of ``cells`` that have no result yet; arguments and result as :func:`run_plan`."""
    missing = [cell for cell in cells if read_cell(cell, folder) is None]
    failures = []
    with terminal(quiet).count(len(cells), "ablation", "cell", len(cells) - len(missing)) as progress:
        for cell in missing:
            try:
                result = cell.measure()
            except SplatsegError as error:
                failures.append(f"{cell.path(folder).stem}: {error}")
            else:
                write_text(cell.path(folder), json.dumps(result, indent=1) + "\n")
                progress.advance(0, last=f"{cell.scene.name} {result['core']['mean']:.3f}")
                after()
            progress.advance()
    return failures
