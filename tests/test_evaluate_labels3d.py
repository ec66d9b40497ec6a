"""Protocol (f): per-Gaussian labels against labeled points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement
from tiny_splat import make_gaussians, make_splat

from splatseg.core.errors import SplatsegError
from splatseg.core.label_tree import tree_from_leaves
from splatseg.evaluate.labels3d import (
    LabeledPoints,
    average_precision,
    contingency,
    evaluate_labels,
    load_points,
    nearest_solid,
)


def perfect() -> tuple[object, ...]:
    splat = make_splat()
    tree = tree_from_leaves(splat.parts.numpy(), [np.arange(6) // 2, np.arange(6)], 0)
    levels = np.stack([splat.parts.numpy() + 4, splat.objects.numpy() + 1], axis=1)
    return splat, tree, LabeledPoints(splat.gaussians.means.numpy(), levels)


def test_perfect_labels_are_perfect() -> None:
    splat, tree, points = perfect()
    report = evaluate_labels(splat.gaussians, tree, points)  # type: ignore[attr-defined, arg-type]
    assert report.miou == 1.0 and set(report.node_iou) == set(range(1, 10))
    assert report.ap[0] == {"AP": 1.0, "AP50": 1.0, "AP25": 1.0, "level": 1.0}
    assert report.ap[1]["AP"] == 1.0 and report.ap[1]["level"] == 0.0


def test_one_label_for_all_matches_nothing_well() -> None:
    splat, _, points = perfect()
    lump = tree_from_leaves(np.zeros(432, np.int64), [np.zeros(1, np.int64)], 0)
    report = evaluate_labels(splat.gaussians, lump, points)  # type: ignore[attr-defined, arg-type]
    assert report.node_iou[1] == pytest.approx(1 / 3) and report.node_iou[4] == pytest.approx(1 / 6)
    assert report.ap[1] == {"AP": 0.0, "AP50": 0.0, "AP25": 1 / 3, "level": 0.0}


def test_ignored_nodes_are_not_asked_and_cost_nothing() -> None:
    splat, tree, points = perfect()
    report = evaluate_labels(splat.gaussians, tree, points, ignored=frozenset({1, 4, 5}))  # type: ignore[attr-defined, arg-type]
    assert set(report.node_iou) == {2, 3, 6, 7, 8, 9} and report.ap[0]["AP"] == 1.0


def test_unlabeled_gaussians_are_no_cluster() -> None:
    nodes, ious = contingency(np.array([1, 1, 2]), np.array([0, 0, 5]))
    assert nodes.tolist() == [1, 2] and ious.tolist() == [[0.0], [1.0]]


def test_a_node_that_stands_at_two_levels_is_one_region() -> None:
    """Node 1 has a part (2) on half of it; its other half stands as 1 at the fine level: the node is both."""
    means = torch.arange(8.0)[:, None] * torch.tensor([1.0, 0, 0])
    levels = np.array([[2, 1]] * 4 + [[1, 1]] * 4)
    halves = tree_from_leaves(np.arange(8) // 4, [np.arange(2)], 0)
    points = LabeledPoints(means.numpy(), levels)
    report = evaluate_labels(make_gaussians(means), halves, points, min_points=1)
    assert report.node_iou == {1: 0.5, 2: 1.0}


def test_precision_and_recall() -> None:
    ious = np.array([[0.6, 0.0, 0.0], [0.0, 0.3, 0.0]])  # two objects, three detections, one of them on nothing
    assert average_precision(ious)["AP50"] == pytest.approx(1 / 2 * 1 / 3)
    assert average_precision(ious)["AP25"] == pytest.approx(1.0 * 2 / 3)
    assert average_precision(np.array([[0.26, 0.3]]))["AP25"] == pytest.approx(1.0 * 1 / 2)  # found once only
    assert average_precision(np.zeros((2, 0)))["AP"] == 0.0


def test_transparent_gaussians_hand_out_no_label() -> None:
    gaussians = make_gaussians(torch.tensor([[0.0, 0, 0], [1.0, 0, 0]]))
    gaussians.opacity_logits[0] = -10
    assert nearest_solid(gaussians, np.zeros((1, 3), np.float32), 0.1).tolist() == [1]
    assert nearest_solid(gaussians, np.zeros((1, 3), np.float32), 1.0).tolist() == [0]  # none is solid: the nearest


def write_points(path: Path, **columns: np.ndarray) -> Path:
    dtype = [(name, values.dtype.str) for name, values in columns.items()]
    records = np.empty(len(next(iter(columns.values()))), dtype)
    for name, values in columns.items():
        records[name] = values
    PlyData([PlyElement.describe(records, "vertex")]).write(str(path))
    return path


def test_points_file(tmp_path: Path) -> None:
    x = np.arange(3, dtype=np.float32)
    path = write_points(tmp_path / "p.ply", x=x, y=x, z=x, level_0=x.astype(np.uint16), level_1=x.astype(np.uint16))
    points = load_points(path)
    assert points.xyz.shape == (3, 3) and points.levels.tolist() == [[0, 0], [1, 1], [2, 2]]
    with pytest.raises(SplatsegError, match="labeled points not found"):
        load_points(tmp_path / "none.ply")
    with pytest.raises(SplatsegError, match=r"without \['level_0'\]"):
        load_points(write_points(tmp_path / "q.ply", x=x, y=x, z=x))
    with pytest.raises(SplatsegError, match="expected finite values"):
        load_points(write_points(tmp_path / "r.ply", x=x * np.float32("nan"), y=x, z=x, level_0=x.astype(np.uint16)))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(SplatsegError, match=r"p\.ply: expected a PLY with vertices"):
        load_points(path)


def test_real_points(data_dir: Path) -> None:
    points = load_points(data_dir / "dev_kitchen" / "gt" / "points.ply")
    assert points.xyz.shape == (200_000, 3) and points.levels.shape == (200_000, 5)
