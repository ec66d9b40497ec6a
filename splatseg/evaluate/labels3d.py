"""Protocol (f): the labels of the Gaussians against labeled points of the surface.

A ground-truth point takes the label of the Gaussian nearest to it, at every level of the label tree (transparent
Gaussians do not count). mIoU: every ground-truth node is matched with the cluster, of any level, that overlaps it
best; mean over nodes. AP: at the level of the tree that fits it best, the clusters are detections of the objects of
one ground-truth level; all have the same confidence (a discretization has none), so that AP at a threshold is
precision x recall, as evaluations of class-agnostic instance masks do; AP is the mean over IoU 0.5, 0.55 .. 0.95
(ScanNet's), AP50 and AP25 single thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyData, PlyParseError
from scipy.spatial import cKDTree

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree
from splatseg.core.reading import regular

AP_THRESHOLDS = np.arange(0.5, 1.0, 0.05)


@dataclass(frozen=True, eq=False)
class LabeledPoints:
    """``xyz`` (m, 3) float64 in the capture's frame, ``levels`` (m, K) int64 node ids, finest first; 0 is no label."""

    xyz: NDArray[np.float64]
    levels: NDArray[np.int64]


def load_points(path: Path | str) -> LabeledPoints:
    """Read a PLY with x, y, z and ``level_0`` .. ``level_{K-1}`` (``gt/points.ply`` of a hierarchical scene).

    Raises:
        SplatsegError: the file is missing, broken, lacks a property, or holds no or non-finite points.
    """
    path = Path(path)
    if not path.is_file():
        raise SplatsegError(f"{path}: labeled points not found")
    try:
        vertices = PlyData.read(str(regular(path)))["vertex"].data
    except (PlyParseError, KeyError, ValueError, EOFError, OSError) as error:
        raise SplatsegError(f"{path}: expected a PLY with vertices, found {error}") from None
    names = vertices.dtype.names or ()
    levels = [f"level_{k}" for k in range(len(names)) if f"level_{k}" in names]
    missing = [name for name in ("x", "y", "z", "level_0") if name not in names]
    if missing or len(vertices) == 0:
        raise SplatsegError(
            f"{path}: expected points with x, y, z and level_0, found {len(vertices)} without {missing}"
        )
    xyz = np.stack([vertices[axis] for axis in "xyz"], axis=1).astype(np.float64)
    if not np.isfinite(xyz).all():
        raise SplatsegError(f"{path}: x, y, z: expected finite values, found others")
    return LabeledPoints(xyz, np.stack([vertices[name] for name in levels], axis=1).astype(np.int64))


@dataclass(frozen=True)
class LabelReport:
    """Protocol (f) on one scene.

    Attributes:
        node_iou: ground-truth node -> IoU with its best cluster.
        ap: ground-truth level (0 finest) -> ``AP``, ``AP50``, ``AP25`` and ``level`` of the tree they were reached at.
    """

    node_iou: Mapping[int, float]
    ap: Mapping[int, Mapping[str, float]]

    @property
    def miou(self) -> float:
        return float(np.mean(list(self.node_iou.values()))) if self.node_iou else float("nan")


def evaluate_labels(
    gaussians: Gaussians,
    tree: LabelTree,
    points: LabeledPoints,
    ignored: frozenset[int] = frozenset(),
    min_opacity: float = 0.1,
    min_points: int = 20,
) -> LabelReport:
    """Run protocol (f).

    Args:
        ignored: nodes that are not asked for (floor and walls: ``stuff``); their points still count against clusters.
        min_opacity: more transparent Gaussians hand no point their label.
        min_points: nodes with fewer points are not asked for.

    Raises:
        SplatsegError: the tree labels another number of Gaussians.
    """
    if len(tree) != len(gaussians):
        raise SplatsegError(f"labels: expected one for each of {len(gaussians)} Gaussians, found {len(tree)}")
    predicted = tree.labels[nearest_solid(gaussians, points.xyz - gaussians.offset, min_opacity)]
    counts = [np.bincount(predicted[:, level]) for level in range(tree.levels)]
    node_iou = {}
    for node in np.unique(points.levels).tolist():
        inside = (points.levels == node).any(axis=1)
        if node != 0 and node not in ignored and inside.sum() >= min_points:
            node_iou[node] = max(_best_iou(inside, predicted[:, k], counts[k]) for k in range(tree.levels))
    asked = frozenset(node_iou)
    ap = {}
    for gt_level in range(points.levels.shape[1]):
        truth = points.levels[:, gt_level]
        tries = [_level_ap(truth, predicted[:, k], asked) | {"level": float(k)} for k in range(tree.levels)]
        if asked & set(truth.tolist()):
            ap[gt_level] = max(tries, key=lambda found: found["AP"])
    return LabelReport(node_iou, ap)


def _best_iou(inside: NDArray[np.bool_], predicted: NDArray[np.integer], counts: NDArray[np.int64]) -> float:
    """IoU of a region (m,) with the cluster of one level that fits it best; label 0 is no cluster."""
    shared = np.bincount(predicted[inside], minlength=len(counts))
    ious = shared / np.maximum(inside.sum() + counts - shared, 1)
    return float(ious[1:].max(initial=0.0))


def _level_ap(truth: NDArray[np.int64], predicted: NDArray[np.integer], asked: frozenset[int]) -> dict[str, float]:
    """AP of the clusters of one level as detections of the ``asked`` nodes of one ground-truth level."""
    nodes, ious = contingency(truth, predicted)
    wanted = np.isin(nodes, list(asked))
    if not wanted.any():
        return average_precision(np.zeros((0, 0)))
    # Clusters that lie mostly on what is not asked for are no false positives.
    counted = ious[wanted].max(axis=0) >= ious[~wanted].max(axis=0, initial=0.0)
    return average_precision(ious[wanted][:, counted])


def nearest_solid(gaussians: Gaussians, xyz: NDArray[np.float64], min_opacity: float) -> NDArray[np.int64]:
    """(m,) id of the Gaussian nearest to each of ``xyz`` (m, 3), in the splat's frame, that is not transparent; of the
    nearest at all where none is solid."""
    solid = np.flatnonzero((gaussians.opacities.detach() >= min_opacity).cpu().numpy())
    candidates = solid if len(solid) else np.arange(len(gaussians))
    means = gaussians.means.detach().cpu().numpy()[candidates]
    return candidates[cKDTree(means).query(xyz, workers=-1)[1]]


def contingency(
    truth: NDArray[np.int64], predicted: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Node ids (t,) and the IoU (t, p) of each with each cluster, over points; unlabeled (0) is no cluster."""
    nodes, rows = np.unique(truth, return_inverse=True)
    clusters, columns = np.unique(predicted, return_inverse=True)
    shared = np.zeros((len(nodes), len(clusters)))
    np.add.at(shared, (rows, columns), 1)
    union = shared.sum(1, keepdims=True) + shared.sum(0, keepdims=True) - shared
    return nodes, (shared / union)[:, clusters != 0]


def average_precision(ious: NDArray[np.float64]) -> dict[str, float]:
    """``AP``, ``AP50``, ``AP25`` of equally confident detections, from the IoU (objects, detections).

    Above 0.5 no detection can hit two disjoint objects, nor an object be hit twice; at 0.25 an object counts once
    and so does a detection (matched greedily by IoU).
    """

    def precision_times_recall(threshold: float) -> float:
        left, hits = ious.copy(), 0
        while left.size and left.max() >= threshold:
            row, column = np.unravel_index(int(left.argmax()), left.shape)
            left[row, :] = left[:, column] = -1
            hits += 1
        return hits / ious.shape[0] * hits / ious.shape[1] if ious.size else 0.0

    return {
        "AP": float(np.mean([precision_times_recall(t) for t in AP_THRESHOLDS])),
        "AP50": precision_times_recall(0.5),
        "AP25": precision_times_recall(0.25),
    }
