"""The ablation as a picture: a panel a table, both scenes, mean and deviation, the ceiling as a line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.ablation.report import AVERAGE, Summary, TableResult, deviation
from splatseg.core.atomic import atomic_write
from splatseg.core.errors import SplatsegError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colors, which people with any color vision tell apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
MEASURES = {"mean": ("o", "best threshold"), "proposed_mean": ("D", "proposed levels")}
PANEL = (6.0, 3.6)  # inches


def save_plot(path: Path, results: list[TableResult]) -> None:
    """Draw ``results`` to a PNG.

    Raises:
        SplatsegError: matplotlib is not installed, or nothing has been measured.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SplatsegError("plot: expected matplotlib (pip install 'splatseg[plots]'), found none") from None
    shown = [result for result in results if any(summary.seeds for rows in result.scenes.values() for summary in rows)]
    if not shown:
        raise SplatsegError("plot: expected at least one measured cell, found none")
    columns = min(2, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * lines), layout="constrained", dpi=120)
    # A figure of its own for each panel: long names of rows in one must not push the axes of another.
    parts = figure.subfigures(lines, columns, squeeze=False).flatten()
    panels = [part.subplots() for part, _ in zip(parts, shown, strict=False)]
    for panel, result in zip(panels, shown, strict=True):
        _draw(panel, result)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary)


def _draw(panel: Axes, result: TableResult) -> None:
    panel.set_title(result.table.title, fontsize=10)
    scenes = [name for name in result.scenes if name != AVERAGE]
    for number, scene in enumerate(scenes):
        color = COLORS[number % len(COLORS)]
        measured = [(k, s) for k, s in enumerate(result.scenes[scene]) if s.seeds]
        shift = (number - (len(scenes) - 1) / 2) / len(scenes)
        if measured:
            _draw_rows(panel, measured, scene, color, shift if result.table.axis is None else None)
        top = result.ceilings[scene].get("mean")
        if top is not None:
            line = panel.axvline if result.table.axis is None else panel.axhline
            line(top, color=color, linestyle=":", linewidth=1.2, label=f"{scene}: ceiling")
    if result.table.axis is None:
        panel.set_yticks(range(len(result.table.rows)), [row.name for row in result.table.rows], fontsize=8)
        panel.set_ylim(len(result.table.rows) - 0.5, -0.5)
        panel.set_xlabel("(IoU1 + IoU2) / 2, core queries", fontsize=8)
        panel.grid(axis="x", alpha=0.3)
    else:
        _ticks(panel, result)
        panel.set_xlabel(result.table.axis, fontsize=8)
        panel.set_ylabel("(IoU1 + IoU2) / 2, core queries", fontsize=8)
        panel.grid(alpha=0.3)
    panel.tick_params(labelsize=8)


def _ticks(panel: Axes, result: TableResult) -> None:
    """A tick a row; powers of two are spaced evenly."""
    places = [row.x for row in result.table.rows if row.x is not None]
    if min(places) > 0 and max(places) / min(places) > 8:
        panel.set_xscale("log", base=2)
    panel.set_xticks(places, [f"{place:g}" for place in places])
    panel.minorticks_off()


def _points(measured: list[tuple[int, Summary]], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (0 for one seed) of each row."""
    series = [summary.values[measure] for _, summary in measured]
    return np.array([np.mean(one) for one in series]), np.array([deviation(one) or 0.0 for one in series])


def _draw_rows(panel: Axes, measured: list[tuple[int, Summary]], scene: str, color: str, shift: float | None) -> None:
    """Means with their deviation: joined over the rows' ``x``, or beside the rows' names, moved by ``shift`` rows."""
    for measure, (marker, label) in MEASURES.items():
        center, spread = _points(measured, measure)
        if shift is None:
            places = np.array([summary.row.x for _, summary in measured])
            drawn = panel.errorbar(places, center, yerr=spread, capsize=2, color=color)
            line = "-" if measure == "mean" else "--"
        else:
            places = np.array([number for number, _ in measured]) + 0.4 * shift
            drawn = panel.errorbar(center, places, xerr=spread, capsize=2, color=color)
            line = "none"
        fill = color if measure == "mean" else "white"
        drawn.lines[0].set(marker=marker, markersize=5, markerfacecolor=fill, linewidth=1.2, linestyle=line)
        drawn.set_label(f"{scene}: {label}")
