"""The ceiling: what the geometry alone allows.

Every Gaussian is labeled with the truth, the majority of the ground-truth ids under its blending weights in the
training views; a query's mask is then rendered from the labels and thresholded like any score. What is missing to 1
is the splat's own: Gaussians that straddle borders, soft edges, surfaces no training view saw. Quality is read as a
share of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import torch
from torch import Tensor

import splatseg.render as rendering
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import Report as ToReport
from splatseg.core.scene import View
from splatseg.evaluate.hierarchical import HierarchicalScene, QueryResult, Report, checked_levels
from splatseg.evaluate.metrics import best_threshold, boundary_iou
from splatseg.segment.clicks import EMPTY_ALPHA


def evaluate_ceiling(
    gaussians: Gaussians,
    gt: HierarchicalScene,
    train_views: Sequence[View],
    stride: int = 2,
    report: ToReport | None = None,
) -> Report:
    """Protocol (a) with labels from the truth in place of features.

    Args:
        train_views: views with ground truth (``gt/<stem>.npz``) that the geometry was fitted on, in its frame.
        stride: every ``stride``-th pixel of every ``stride``-th row votes.
        report: called with a view's name and the share done.

    Raises:
        SplatsegError: ground truth of a view is missing or of another size, or there is no view.
    """
    start = time.perf_counter()
    gt = gt.in_frame_of(gaussians)
    labels = truth_labels(node_weights(gaussians, gt, train_views, stride, report), gt)
    results: dict[int, QueryResult] = {}
    position = {id(query): k for k, query in enumerate(gt.queries)}
    for name, queries in gt.by_view.items():
        camera = gt.views[name].camera.to(gaussians.device)
        levels = torch.from_numpy(checked_levels(gt, name).astype(np.int64)).to(gaussians.device)
        ids = sorted({node for query in queries for node in (query.l1, query.l2)})
        indicators = torch.stack([in_subtree(labels, node, gt) for node in ids], dim=1).float()
        rendered = rendering.render(gaussians, camera, indicators)
        assert rendered.features is not None
        shares = rendered.features / rendered.alpha.clamp_min(EMPTY_ALPHA)[..., None]
        best, boundary = {}, {}
        for k, node in enumerate(ids):
            truth = (levels == node).any(0)
            best[node] = best_threshold(shares[..., k], truth)
            boundary[node] = boundary_iou(shares[..., k] > best[node].threshold, truth)
        for query in queries:
            first, second = best[query.l1], best[query.l2]
            results[position[id(query)]] = QueryResult(
                query,
                first.iou,
                second.iou,
                first.threshold,
                second.threshold,
                boundary[query.l1],
                boundary[query.l2],
            )
    ordered = tuple(results[k] for k in sorted(results))
    return Report(gt.name, ordered, time.perf_counter() - start)


def node_weights(
    gaussians: Gaussians,
    gt: HierarchicalScene,
    views: Sequence[View],
    stride: int,
    report: ToReport | None = None,
) -> Tensor:
    """(n, m + 1) blending weight of each Gaussian on pixels whose finest label is node 1..m (column 0: no surface)."""
    if not views:
        raise SplatsegError("ceiling: expected training views with ground truth, found none")
    columns = max(gt.nodes) + 1
    weights = torch.zeros(len(gaussians), columns, device=gaussians.device)
    for number, view in enumerate(views, 1):
        camera = view.camera.to(gaussians.device)
        finest = _finest(gt, view)
        rows, cols = np.mgrid[0 : finest.shape[0] : stride, 0 : finest.shape[1] : stride]
        pixels = torch.from_numpy(np.stack([cols.ravel(), rows.ravel()], 1).astype(np.int32)).to(gaussians.device)
        found = rendering.trace(gaussians, camera, pixels)
        labels = torch.from_numpy(finest[::stride, ::stride].ravel().astype(np.int64)).to(gaussians.device)
        found.add_by_label(weights, labels)
        if report is not None:
            report(view.name, number / len(views))
    return weights


def _finest(gt: HierarchicalScene, view: View) -> np.ndarray:
    levels = gt.levels(PurePosixPath(view.name).stem)
    if levels.shape[1:] != (view.camera.height, view.camera.width):
        raise SplatsegError(
            f"ground truth of '{view.name}': expected {view.camera.width}x{view.camera.height} labels, "
            f"found {levels.shape[2]}x{levels.shape[1]}"
        )
    return levels[0]


def truth_labels(weights: Tensor, gt: HierarchicalScene) -> Tensor:
    """(n,) int64 node of each Gaussian: from the top down, the child that holds most weight, or the node's own rest.

    A majority at every step, not over the leaves: a Gaussian of a cup on a table is the cup's where the cup's parts
    together outweigh the table, even if none of them does alone. 0 where nothing was seen.
    """
    children: dict[int, list[int]] = {0: []}
    for node in gt.nodes.values():
        children.setdefault(node.parent, []).append(node.id)
    by_depth = sorted(gt.nodes.values(), key=lambda node: node.depth)
    subtree = weights.clone()
    for node in reversed(by_depth):
        if node.parent:
            subtree[:, node.parent] += subtree[:, node.id]
    labels = torch.zeros(len(weights), dtype=torch.int64, device=weights.device)
    for parent in [0, *(node.id for node in by_depth)]:
        options = children.get(parent, [])
        here = (labels == parent).nonzero()[:, 0]
        if not options or not len(here):
            continue
        held = torch.cat([weights[here][:, parent, None], subtree[here][:, options]], dim=1)
        labels[here] = torch.tensor([parent, *options], device=weights.device)[held.argmax(1)]
    return labels


def in_subtree(labels: Tensor, node: int, gt: HierarchicalScene) -> Tensor:
    """(n,) bool: the Gaussians whose label is ``node`` or lies below it."""
    inside = {node}
    for other in sorted(gt.nodes.values(), key=lambda n: n.depth):
        if other.parent in inside:
            inside.add(other.id)
    return torch.isin(labels, torch.tensor(sorted(inside), device=labels.device))
