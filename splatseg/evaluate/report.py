"""Results as JSON and as a Markdown table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from splatseg.core.atomic import write_text
from splatseg.core.errors import SplatsegError
from splatseg.core.reading import read_json
from splatseg.evaluate.hierarchical import Report
from splatseg.evaluate.labels3d import LabelReport
from splatseg.evaluate.reference import ReferenceReport

# Row of the table -> its three averages in Report.averages().
THRESHOLDS = {"oracle": ("iou1", "iou2", "mean"), "proposed": ("proposed1", "proposed2", "proposed_mean")}
BOUNDARY = "boundary_mean"  # at the oracle's thresholds

Value = str | float | int | None


def report_to_json(report: Report) -> dict[str, Any]:
    """Averages over core and group queries and one record per query, as JSON holds it."""
    return {
        "scene": report.scene,
        "core": _finite(report.averages(core=True)),
        "groups": _finite(report.averages(core=False)),
        "seconds": round(report.seconds, 2),
        "queries": [asdict(result.query) | _without_query(result) for result in report.results],
    }


def _without_query(result: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(result).items() if name != "query"}


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def hierarchical_table(report: Report, ceiling: Report | None = None) -> str:
    """Markdown: core and group queries, with the ceiling and the share of it where it was measured."""
    rows: list[list[Value]] = []
    for core in (True, False):
        kind = "core" if core else "groups"
        found = report.averages(core)
        best = ceiling.averages(core) if ceiling is not None else None
        for name, keys in THRESHOLDS.items():
            if keys[0] not in found:
                continue
            values = [found[key] for key in keys]
            share = values[2] / best["mean"] if best and best["mean"] > 0 else None
            boundary = found[BOUNDARY] if name == "oracle" else None
            rows.append([report.scene, kind, name, int(found["queries"]), *values, boundary, share])
        if best is not None:
            values = [best[key] for key in (*THRESHOLDS["oracle"], BOUNDARY)]
            rows.append([report.scene, kind, "ceiling", int(best["queries"]), *values, 1.0])
    header = ["scene", "queries", "threshold", "number", "IoU1", "IoU2", "mean", "boundary IoU", "of ceiling"]
    return markdown_table(header, rows)


def labels_table(scene: str, report: LabelReport) -> str:
    """Markdown: mIoU over nodes and AP at each ground-truth level, 0 finest."""
    header = ["scene", "truth level", "mIoU", "AP", "AP50", "AP25", "at label level"]
    rows: list[list[Value]] = [[scene, "all nodes", report.miou, None, None, None, None]]
    for level, found in sorted(report.ap.items()):
        rows.append([scene, str(level), None, found["AP"], found["AP50"], found["AP25"], int(found["level"])])
    return markdown_table(header, rows)


def labels_to_json(report: LabelReport) -> dict[str, Any]:
    return {"miou": _finite({"miou": report.miou})["miou"], "node_iou": dict(report.node_iou), "ap": dict(report.ap)}


def reference_table(report: ReferenceReport) -> str:
    """Markdown: a row per task (mean over its target views) and the mean over tasks."""
    names = ("iou", "boundary_iou", "accuracy")
    rows: list[list[Value]] = []
    for task, found in report.task_averages().items():
        rows.append([report.protocol, task, *(found[name] for name in names), report.references[task].iou])
    mean = report.averages()
    rows.append([report.protocol, "mean", *(mean[name] for name in names), None])
    return markdown_table(["protocol", "object", "IoU", "boundary IoU", "accuracy", "reference IoU"], rows)


def reference_to_json(report: ReferenceReport) -> dict[str, Any]:
    return {
        "protocol": report.protocol,
        "mean": report.averages(),
        "references": {task: asdict(best) for task, best in report.references.items()},
        "targets": [asdict(result) for result in report.results],
    }


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """A table: floats with three digits, ``None`` and NaN as a dash, numbers to the right."""
    numeric = [all(not isinstance(row[k], str) for row in rows) for k in range(len(header))]
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---:" if right else "---" for right in numeric) + "|"]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def update_metrics(path: Path, name: str, content: Mapping[str, Any]) -> None:
    """Put ``content`` under ``name`` in the JSON file at ``path``; what else stands there stays.

    Raises:
        SplatsegError: the file holds something else than a JSON object, or cannot be written.
    """
    metrics: dict[str, Any] = {}
    if path.is_file():
        try:
            metrics = read_json(path)
        except (OSError, ValueError, RecursionError) as error:
            raise SplatsegError(f"{path}: expected JSON, found {error}") from None
        if not isinstance(metrics, dict):
            raise SplatsegError(f"{path}: expected a JSON object, found a {type(metrics).__name__}")
    metrics[name] = content
    write_text(path, json.dumps(metrics, indent=1) + "\n")
