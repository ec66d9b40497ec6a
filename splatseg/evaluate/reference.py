"""Protocols (b)-(e): an object is shown in one reference view and looked for in the others.

The engine that NVOS, SPIn-NeRF/MVSeg, Replica and LERF-Mask share; `evaluate.datasets` reads their layouts.
Features are taken from the rendered reference view under the prompt, summed up by at most eight that differ, and
every pixel of every view is scored as a click is (`selection.scores`). Nothing but the reference view decides: the
threshold is the best one there, and negatives from the surroundings are used if they do better there than none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import splatseg.render as rendering
from splatseg.core.errors import SplatsegError
from splatseg.core.field import unit_features
from splatseg.core.scene import View
from splatseg.core.splat import FeatureSplat
from splatseg.evaluate.metrics import Best, accuracy, best_threshold, boundary_iou, iou
from splatseg.segment.clicks import EMPTY_ALPHA, Query, representatives
from splatseg.segment.scores import score_features

PROMPT_SAMPLES = 1024  # pixels of a prompt that are looked at


@dataclass(frozen=True, eq=False)
class ReferenceTask:
    """One object to find.

    Attributes:
        name: for the report.
        reference: name of the view that is prompted.
        positive: (h, w) bool pixels of the reference view on the object: its mask, or scribbles.
        negative: (h, w) bool pixels known not to be on it; with a mask, its complement.
        targets: view name -> (h, w) bool mask to be found.
    """

    name: str
    reference: str
    positive: Tensor
    negative: Tensor
    targets: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for label, prompt in (("positive", self.positive), ("negative", self.negative)):
            if not bool(prompt.any()):
                raise SplatsegError(f"task '{self.name}': expected {label} pixels in '{self.reference}', found none")
        if not self.targets:
            raise SplatsegError(f"task '{self.name}': expected at least one target view, found none")


@dataclass(frozen=True)
class TargetResult:
    """How well a task's object was found in one view."""

    task: str
    view: str
    iou: float
    boundary_iou: float
    accuracy: float


@dataclass(frozen=True)
class ReferenceReport:
    """Results of a protocol: one row per task and target view, and the threshold and reference IoU of each task."""

    protocol: str
    results: tuple[TargetResult, ...]
    references: Mapping[str, Best]

    def task_averages(self) -> dict[str, dict[str, float]]:
        """Task -> mean over its target views of ``iou``, ``boundary_iou`` and ``accuracy``."""
        found = {}
        for task in self.references:
            rows = [result for result in self.results if result.task == task]
            found[task] = {
                name: float(np.mean([getattr(row, name) for row in rows]))
                for name in ("iou", "boundary_iou", "accuracy")
            }
        return found

    def averages(self) -> dict[str, float]:
        """Mean over tasks of their means: every object counts alike, however many views show it."""
        tasks = self.task_averages().values()
        return {name: float(np.mean([task[name] for task in tasks])) for name in ("iou", "boundary_iou", "accuracy")}


def evaluate_tasks(
    splat: FeatureSplat,
    views: Mapping[str, View],
    tasks: Sequence[ReferenceTask],
    protocol: str,
) -> ReferenceReport:
    """Run ``tasks`` of one scene; each needed view is rendered once.

    Raises:
        SplatsegError: no task, a view is unknown, or a mask has another size than it.
    """
    if not tasks:
        raise SplatsegError(f"{protocol}: expected at least one task, found none")
    for task in tasks:
        _check_sizes(task, views)
    prompts: dict[str, tuple[Query, Best]] = {}
    for name in sorted({task.reference for task in tasks}):
        unit = rendered_unit(splat, views[name])
        for task in tasks:
            if task.reference == name:
                prompts[task.name] = learn_prompt(unit, task)
    rows: dict[tuple[int, str], TargetResult] = {}
    for name in sorted({view for task in tasks for view in task.targets}):
        unit = rendered_unit(splat, views[name])
        for number, task in enumerate(tasks):
            if name in task.targets:
                query, best = prompts[task.name]
                mask = score_unit(unit, query) > best.threshold
                truth = task.targets[name].to(mask.device)
                rows[number, name] = TargetResult(
                    task.name, name, iou(mask, truth), boundary_iou(mask, truth), accuracy(mask, truth)
                )
    references = {task.name: prompts[task.name][1] for task in tasks}
    return ReferenceReport(protocol, tuple(rows[key] for key in sorted(rows)), references)


def rendered_unit(splat: FeatureSplat, view: View) -> Tensor:
    """(h, w, d) unit features of a view; zero where it shows empty space."""
    rendered = rendering.render(splat.gaussians, view.camera.to(splat.gaussians.device), splat.field.features)
    assert rendered.features is not None
    return unit_features(rendered.features) * (rendered.alpha >= EMPTY_ALPHA)[..., None]


def score_unit(unit: Tensor, query: Query) -> Tensor:
    """(h, w) scores; -1 where ``unit`` is zero (empty space)."""
    values = score_features(unit, query)
    return torch.where(unit.abs().amax(-1) > 0, values, values.new_tensor(-1.0))


def learn_prompt(unit: Tensor, task: ReferenceTask) -> tuple[Query, Best]:
    """The query and threshold that separate the task's positive from its negative pixels best in the reference view.

    Raises:
        SplatsegError: the object lies on empty space in the reference view.
    """
    positive, negative = task.positive.to(unit.device), task.negative.to(unit.device)
    wanted = prompt_features(unit, positive)
    if len(wanted) == 0:
        raise SplatsegError(
            f"task '{task.name}': expected the object on the splat in '{task.reference}', found empty space"
        )
    judged = positive | negative
    tries = []
    for unwanted in (wanted[:0], prompt_features(unit, negative)):
        query = Query(wanted, unwanted)
        tries.append((query, best_threshold(score_unit(unit, query)[judged], positive[judged])))
    return max(tries, key=lambda found: found[1].iou)


def prompt_features(unit: Tensor, mask: Tensor) -> Tensor:
    """(k, d) features that stand for the pixels of ``mask``; none if all of them show empty space."""
    features = unit[mask]
    features = features[features.abs().amax(-1) > 0]
    if len(features) == 0:
        return features
    picked = torch.linspace(0, len(features) - 1, min(PROMPT_SAMPLES, len(features))).round().long()
    return representatives(features[picked.to(features.device)])


def _check_sizes(task: ReferenceTask, views: Mapping[str, View]) -> None:
    masks = {**task.targets, task.reference: task.positive}
    for name, mask in masks.items():
        if name not in views:
            raise SplatsegError(f"task '{task.name}': view '{name}': not in the scene")
        camera = views[name].camera
        if tuple(mask.shape) != (camera.height, camera.width):
            raise SplatsegError(
                f"task '{task.name}': mask of '{name}': expected {camera.width}x{camera.height} pixels, "
                f"found {mask.shape[1]}x{mask.shape[0]}"
            )
