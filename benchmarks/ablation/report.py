"""What an ablation found, over its seeds: JSON and Markdown."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablation.cells import MEASURES, AblationScene, Cell, Plan, read_cell
from benchmarks.ablation.rows import Row, Table
from benchmarks.machine import machine
from splatseg.evaluate.report import markdown_table

COLUMNS = {
    "iou1": "IoU1",
    "iou2": "IoU2",
    "mean": "mean",
    "boundary_mean": "boundary IoU",
    "proposed_mean": "at proposed levels",
}


@dataclass(frozen=True, eq=False)
class Summary:
    """A row on one scene (``BOTH`` stands for the average over scenes).

    Attributes:
        seeds: those that are measured, in the plan's order.
        values: measure -> (seeds,) averages over the core queries; fewer where a record lacks the measure.
        share: (seeds,) mean as a share of the ceiling's.
        gain: (seeds,) points of the mean over the reference row with the same seed; empty where that is not measured.
        fit_seconds: (seeds,) time of the fits.
    """

    row: Row
    seeds: tuple[int, ...]
    values: dict[str, np.ndarray]
    share: np.ndarray
    gain: np.ndarray
    fit_seconds: np.ndarray


@dataclass(frozen=True)
class TableResult:
    """A table's summaries on each scene, and on their average where there are several and all rows are complete."""

    table: Table
    ceilings: dict[str, dict[str, float]]
    scenes: dict[str, list[Summary]]


AVERAGE = "average"


def summarize(plan: Plan, folder: Path) -> list[TableResult]:
    """The results that lie in ``folder``, table by table."""
    ceilings = {scene.name: _ceiling(scene, folder) for scene in plan.scenes}
    results = []
    for table in plan.tables:
        records = {
            (scene.name, row.name, seed): record
            for scene in plan.scenes
            for row in table.rows
            for seed in plan.seeds
            if (record := read_cell(plan.cell(scene, row, seed), folder)) is not None
        }
        names = [scene.name for scene in plan.scenes]
        groups = {name: [name] for name in names} | ({AVERAGE: names} if len(names) > 1 else {})
        tops = {group: _average([ceilings[name] for name in members]) for group, members in groups.items()}
        scenes = {
            group: [_summary(table, row, plan.seeds, members, records, tops[group]) for row in table.rows]
            for group, members in groups.items()
        }
        results.append(TableResult(table, tops, scenes))
    return results


def _ceiling(scene: AblationScene, folder: Path) -> dict[str, float]:
    record = read_cell(Cell(scene, None), folder)
    return record["core"] if record else {}


def _average(found: list[dict[str, float]]) -> dict[str, float]:
    shared = [name for name in MEASURES if all(name in one for one in found)]
    return {name: float(np.mean([one[name] for one in found])) for name in shared}


def _summary(
    table: Table, row: Row, seeds: Any, members: list[str], records: dict[Any, Any], ceiling: dict[str, float]
) -> Summary:
    def averaged(name: str, seed: int) -> dict[str, float] | None:
        found = [records.get((member, name, seed)) for member in members]
        return _average([one["core"] for one in found if one]) if all(found) else None

    measured = {seed: found for seed in seeds if (found := averaged(row.name, seed)) is not None}
    series = {name: np.array([found[name] for found in measured.values() if name in found]) for name in MEASURES}
    gains = [
        100 * (found["mean"] - base["mean"])
        for seed, found in measured.items()
        if (base := averaged(table.reference, seed)) is not None
    ]
    seconds = [sum(records[member, row.name, seed]["fit_seconds"] for member in members) for seed in measured]
    share = series["mean"] / ceiling.get("mean", float("nan"))
    return Summary(row, tuple(measured), series, share, np.array(gains), np.array(seconds))


def to_json(results: list[TableResult], plan: Plan) -> dict[str, Any]:
    """Everything a reader needs to judge or redo it: machine, settings, figures of each seed, mean and deviation."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "seeds": list(plan.seeds),
        "common": dict(plan.common),
        "tables": [
            {
                "name": result.table.name,
                "title": result.table.title,
                "reference": result.table.reference,
                "ceilings": result.ceilings,
                "rows": [
                    {"scene": scene, **_row_to_json(summary, plan)}
                    for scene, summaries in result.scenes.items()
                    for summary in summaries
                ],
            }
            for result in results
        ],
    }


def _row_to_json(summary: Summary, plan: Plan) -> dict[str, Any]:
    series = {**summary.values, "share": summary.share, "gain": summary.gain, "fit_seconds": summary.fit_seconds}
    return {
        "row": summary.row.name,
        "settings": {"published": summary.row.published, **summary.row.settings},
        "features": Cell(plan.scenes[0], summary.row.config(plan.common)).settings,
        "seeds": list(summary.seeds),
        **{
            name: {"mean": mean(values), "deviation": deviation(values), "values": [round(v, 5) for v in values]}
            for name, values in series.items()
        },
    }


def to_markdown(results: list[TableResult]) -> str:
    """A section a table: mean +- deviation over the seeds, the ceiling last on each scene."""
    parts = []
    for result in results:
        header = ["scene", "setting", "seeds", *COLUMNS.values(), "of ceiling", f"points over {result.table.reference}"]
        rows: list[list[str | float | int | None]] = []
        for scene, summaries in result.scenes.items():
            for summary in summaries:
                cells = [_spread(summary.values[name]) for name in COLUMNS]
                gain = None if summary.row.name == result.table.reference else _spread(summary.gain, "+.1f")
                share = None if not len(summary.seeds) else f"{100 * np.mean(summary.share):.1f} %"
                rows.append([scene, summary.row.name, len(summary.seeds), *cells, share, gain])
            top = [result.ceilings[scene].get(name) for name in COLUMNS]
            rows.append([scene, "ceiling", None, *top, None if top[2] is None else "100 %", None])
        parts.append(f"### {result.table.name}: {result.table.title}\n\n{markdown_table(header, rows)}")
    return "\n".join(parts)


def _spread(values: np.ndarray, form: str = ".3f") -> str | None:
    """As in "0.907 ± 0.004"; without the deviation where there is one value, None where there is none."""
    if not len(values):
        return None
    spread = deviation(values)
    return f"{np.mean(values):{form}}" + ("" if spread is None else f" ± {spread:{form.removeprefix('+')}}")


def mean(values: np.ndarray) -> float | None:
    return round(float(np.mean(values)), 5) if len(values) else None


def deviation(values: np.ndarray) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two values."""
    return round(float(np.std(values, ddof=1)), 5) if len(values) > 1 else None
