"""Contact sheets: the best and the worst queries as pictures a person can judge.

True positives are green, false positives red, false negatives blue, the rest is the photo in gray.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from splatseg.core.atomic import atomic_write
from splatseg.core.splat import FeatureSplat
from splatseg.draw.layout import Cell, contact_sheet
from splatseg.evaluate.hierarchical import HierarchicalScene, QueryResult, Report, score_view

COLORS = {"hit": (40, 200, 70), "extra": (230, 60, 50), "missed": (60, 100, 240)}


def overlay(image: Tensor, predicted: Tensor, truth: Tensor, pixel: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """(h, w, 3) uint8: the photo (h, w, 3) uint8 in gray under the hits and misses of two (h, w) bool masks.

    ``pixel`` [column, row], where given, is marked by a cross.
    """
    gray = image.float().mean(-1, keepdim=True).expand(-1, -1, 3).cpu().numpy() * 0.7 + 40
    predicted_, truth_ = predicted.cpu().numpy(), truth.cpu().numpy()
    masks = {"hit": predicted_ & truth_, "extra": predicted_ & ~truth_, "missed": ~predicted_ & truth_}
    for name, mask in masks.items():
        gray[mask] = 0.45 * gray[mask] + 0.55 * np.array(COLORS[name])
    picture = Image.fromarray(gray.clip(0, 255).astype(np.uint8))
    if pixel is not None:
        draw = ImageDraw.Draw(picture)
        column, row = pixel
        for width, color in ((5, (0, 0, 0)), (2, (255, 255, 0))):
            draw.line([(column - 8, row), (column + 8, row)], fill=color, width=width)
            draw.line([(column, row - 8), (column, row + 8)], fill=color, width=width)
    return np.array(picture)


def save_sheet(path: Path, sheet: Image.Image) -> None:
    with atomic_write(path) as partial:
        sheet.save(partial)


def extreme_queries(report: Report, count: int = 10) -> tuple[list[QueryResult], list[QueryResult]]:
    """The ``count`` worst and the ``count`` best core queries by mean IoU, each the most extreme first."""
    ordered = sorted((r for r in report.results if r.query.core), key=lambda r: r.mean)
    return ordered[:count], ordered[::-1][:count]


def query_sheet(splat: FeatureSplat, gt: HierarchicalScene, results: Sequence[QueryResult]) -> Image.Image:
    """A row a query, in the order given: level 1 and level 2 at the thresholds of the results."""
    cells: dict[int, list[Cell]] = {}
    wanted = {id(result.query): (k, result) for k, result in enumerate(results)}
    for view in sorted({result.query.view for result in results}):
        photo = gt.views[view].image()
        for scored in score_view(splat, gt, view):
            if id(scored.query) not in wanted:
                continue
            k, result = wanted[id(scored.query)]
            levels = (
                ("part", result.threshold1, result.iou1, scored.truth1, scored.query.l1),
                ("whole", result.threshold2, result.iou2, scored.truth2, scored.query.l2),
            )
            cells[k] = [
                Cell(
                    overlay(photo, scored.scores > threshold, truth, scored.query.pixel),
                    f"{view} {label} {gt.nodes[node].name[-28:]}: IoU {value:.2f}",
                )
                for label, threshold, value, truth, node in levels
            ]
    return contact_sheet([cell for k in sorted(cells) for cell in cells[k]], columns=4)
