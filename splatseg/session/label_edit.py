"""Label trees as a person edits them: the label under a pixel, labels that are selected, splitting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree, build_nodes
from splatseg.core.palette import hue_color
from splatseg.core.progress import Report
from splatseg.core.selection import Selection
from splatseg.segment.clicks import EMPTY_ALPHA
from splatseg.segment.picking import trace_few
from splatseg.session.shared import Content

ROUNDS = 30  # of 2-means, at most; it settles in a few


def object_color(key: int) -> tuple[int, int, int]:
    """The color an object gets if none is chosen: successive ids far apart in hue."""
    return hue_color(key)


def divided(content: Content) -> LabelTree:
    """The label tree of ``content``.

    Raises:
        SplatsegError: the scene is not divided yet.
    """
    if content.tree is None:
        raise SplatsegError("labels: expected the scene divided into labels, found none; divide it first")
    return content.tree


def label_at(gaussians: Gaussians, column: NDArray[np.int32], camera: Camera, u: float, v: float) -> int:
    """The label (> 0) with most of the blending weight of the pixel at (u, v).

    Args:
        column: (n,) label of each Gaussian.

    Raises:
        SplatsegError: outside the image, empty space, or nothing labeled there.
    """
    pixel = camera.check_pixel(u, v)
    pixels = torch.tensor([pixel], dtype=torch.int32, device=gaussians.device)
    seen = trace_few(gaussians, camera, pixels)
    if float(seen.weights.sum()) < EMPTY_ALPHA:
        raise SplatsegError(
            f"click at column {pixel[0]}, row {pixel[1]}: expected something under it, found empty space"
        )
    found = torch.from_numpy(column)[seen.ids.long().cpu()].long()
    totals = torch.bincount(found, weights=seen.weights.cpu())
    totals[:1] = 0
    if not float(totals.max()) > 0:
        raise SplatsegError("click: expected a labeled thing, found unlabeled Gaussians")
    return int(totals.argmax())


def covered(column: NDArray[np.int32], selection: Selection) -> tuple[int, ...]:
    """The labels whose Gaussians are all selected, ascending; 0 is not one."""
    mask = selection.mask.cpu().numpy()
    total = np.bincount(column)
    inside = np.bincount(column[mask], minlength=len(total))
    return tuple(int(label) for label in np.flatnonzero((inside == total) & (total > 0)) if label != 0)


def split(tree: LabelTree, label: int, unit: Tensor, report: Report | None = None) -> tuple[LabelTree, tuple[int, ...]]:
    """Divide ``label``: where it has parts they take its place at every level, else it is cut in two by feature.

    Args:
        unit: (n, d) unit features.
        report: called with a step's name and the share done; it may raise to stop.

    Returns:
        The new tree and the labels that are there now, the one that kept most first.

    Raises:
        SplatsegError: no such label, or its features are all alike.
    """
    node = tree.node(label)
    children = tree.children(label)
    if children:
        return _promote(tree, label), tuple(c.id for c in sorted(children, key=lambda c: -c.count))
    ids = np.flatnonzero(tree.labels[:, node.level] == label)
    new = tree.split(label, two_parts(unit[torch.from_numpy(ids).to(unit.device)].cpu(), report))
    known = {n.id for n in tree.nodes}
    return new, (label, *(n.id for n in new.nodes if n.id not in known))


def _promote(tree: LabelTree, label: int) -> LabelTree:
    """The tree with the parts of ``label`` in its place, wherever it stood."""
    levels = tree.labels.copy()
    for level in reversed(range(tree.levels - 1)):
        here = levels[:, level] == label
        levels[here, level] = levels[here, level + 1]
    kept = {node.id: node for node in tree.nodes}
    nodes = tuple(replace(fresh, name=kept[fresh.id].name, color=kept[fresh.id].color) for fresh in build_nodes(levels))
    return LabelTree(levels, nodes, tree.default_level)


def two_parts(unit: Tensor, report: Report | None = None) -> NDArray[np.int64]:
    """(m,) 0 or 1: features (m, d) parted by 2-means, begun at the ends of their main direction; 0 is the larger part.

    ``report`` is called in every round, as :func:`split` says.

    Raises:
        SplatsegError: there are not two different features.
    """
    centered = unit - unit.mean(0)
    spread = centered.norm(dim=1)
    if len(unit) < 2 or float(spread.max()) < 1e-4:
        raise SplatsegError("split: expected Gaussians that differ in feature, found all alike")
    direction = torch.linalg.svd(
        centered[torch.linspace(0, len(unit) - 1, min(len(unit), 20_000)).long()], full_matrices=False
    )[2][0]
    part = (centered @ direction) > 0
    for number in range(ROUNDS):
        if report is not None:
            report("finding two parts", number / ROUNDS)
        if bool(part.all()) or not bool(part.any()):
            raise SplatsegError("split: expected Gaussians that differ in feature, found all alike")
        means = torch.stack([unit[~part].mean(0), unit[part].mean(0)])
        updated = torch.cdist(unit, means).argmin(1).bool()
        if torch.equal(updated, part):
            break
        part = updated
    if int(part.sum()) * 2 > len(part):
        part = ~part
    return part.long().numpy()
