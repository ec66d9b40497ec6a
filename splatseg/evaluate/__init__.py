"""Protocols and metrics: hierarchical clicks, reference masks, 3D labels, the ceiling of a splat."""

from splatseg.evaluate.ceiling import evaluate_ceiling
from splatseg.evaluate.hierarchical import HierarchicalScene, evaluate_scene, load_hierarchical
from splatseg.evaluate.labels3d import LabeledPoints, evaluate_labels, load_points
from splatseg.evaluate.metrics import accuracy, iou
from splatseg.evaluate.reference import ReferenceTask, evaluate_tasks

__all__ = [
    "HierarchicalScene",
    "LabeledPoints",
    "ReferenceTask",
    "accuracy",
    "evaluate_ceiling",
    "evaluate_labels",
    "evaluate_scene",
    "evaluate_tasks",
    "iou",
    "load_hierarchical",
    "load_points",
]
