"""Protocol (a): hierarchical point queries (OmniSeg3D, Ying et al., CVPR 2024, section 4.1).

A query is one pixel of a held-out view and two nested ground-truth masks, a part (level 1) and what it belongs to
(level 2). The view's features are rendered (blended along the ray, then normalized), every pixel is scored by its
cosine to the query pixel, and IoU1 and IoU2 are the best IoU over all thresholds with either mask: a threshold for
each, chosen with the truth in hand, as in the paper. The headline is (IoU1 + IoU2) / 2, averaged over the core
queries (an object or a part of one); semantic groups come on their own line. ``proposed_*`` is what a user gets: the
levels that the product itself proposes from the click (`segment.propose_levels`), which know nothing of the truth, as
Gaussians, and the masks that it exports of those (`segment.project_selection`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import splatseg.render as rendering
from splatseg.core.camera import Camera
from splatseg.core.errors import DAMAGED, SplatsegError
from splatseg.core.field import unit_features
from splatseg.core.gaussians import Gaussians
from splatseg.core.reading import read_npz
from splatseg.core.scene import NEAR_SHARE, View, frame_size
from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.core.truth import TruthNode
from splatseg.evaluate.metrics import best_threshold, boundary_iou, iou
from splatseg.io.test_cameras import held_out_views, read_object
from splatseg.segment.clicks import EMPTY_ALPHA, Query
from splatseg.segment.levels import propose_levels, surface_weights
from splatseg.segment.scores import project_selections, score_features, scores

_MEANS = 20_000  # Gaussians that say how large a splat is
ALWAYS = ("iou1", "iou2", "mean", "boundary1", "boundary2")  # averages that every report has


@dataclass(frozen=True)
class PointQuery:
    """One line of ``queries.json``: node ids ``l1`` (inside ``l2``) and the pixel [column, row] that was clicked."""

    view: str
    pixel: tuple[int, int]
    l1: int
    l2: int
    kind: str
    core: bool


@dataclass(frozen=True)
class HierarchicalScene:
    """A scene with nested ground truth, in the layout that ``docs/reference/files.md`` describes.

    Its cameras are in a frame of its own, see ``offset``; :meth:`in_frame_of` takes them to that of a splat.

    Attributes:
        folder: where it lies.
        views: the held-out views, by name (stem of the image file).
        nodes: the tree, by id.
        queries: all of them, in file order.
        offset: where the origin of the views' cameras lies in the capture's frame, as :attr:`Scene.offset`.
    """

    folder: Path
    views: dict[str, View]
    nodes: dict[int, TruthNode]
    queries: tuple[PointQuery, ...]
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def in_frame_of(self, gaussians: Gaussians) -> HierarchicalScene:
        """The scene with its cameras in the frame of ``gaussians``, drawing from a depth that suits their size."""
        means = gaussians.means[:: max(1, len(gaussians) // _MEANS)].detach().double().cpu().numpy()
        origin = (np.array(gaussians.offset) - np.array(self.offset)).tolist()
        moved = {name: view.camera.with_origin(origin) for name, view in self.views.items()}
        centers = np.stack([camera.position.double().numpy() for camera in moved.values()])
        near = NEAR_SHARE * frame_size(centers, means)
        views = {name: replace(view, camera=replace(moved[name], near=near)) for name, view in self.views.items()}
        return replace(self, views=views, offset=gaussians.offset)

    @property
    def name(self) -> str:
        return self.folder.name

    def levels(self, view: str) -> np.ndarray:
        """(K, h, w) uint16 node ids of a view, finest first; 0 = no surface.

        Raises:
            SplatsegError: the file is missing, broken or holds no ``levels``.
        """
        path = self.folder / "gt" / f"{view}.npz"
        try:
            levels = read_npz(path)["levels"]
        except FileNotFoundError:
            raise SplatsegError(f"{path}: ground truth of view '{view}' not found") from None
        except DAMAGED as error:
            raise SplatsegError(f"{path}: expected an npz with an array 'levels', found {error}") from None
        if levels.ndim != 3 or not np.issubdtype(levels.dtype, np.integer):
            raise SplatsegError(f"{path}: levels: expected integers (K, h, w), found {levels.dtype} {levels.shape}")
        return levels

    @cached_property
    def by_view(self) -> dict[str, list[PointQuery]]:
        """The queries of each view that has any, views in order of their names."""
        names = sorted({query.view for query in self.queries})
        return {name: [query for query in self.queries if query.view == name] for name in names}


def load_hierarchical(folder: Path | str) -> HierarchicalScene:
    """Read ``test_cameras.json``, ``gt/tree.json`` and ``queries.json``; label maps are read when they are needed.

    Raises:
        SplatsegError: a file is missing, not JSON, lacks a field, or a query names a view or node that is not there.
    """
    folder = Path(folder)
    offset, test_views = held_out_views(folder)
    views = {Path(view.name).stem: view for view in test_views}
    nodes = _read_nodes(folder / "gt" / "tree.json")
    read = _read_queries(folder / "queries.json")
    for query in read:
        if query.view not in views:
            raise SplatsegError(f"{folder / 'queries.json'}: view '{query.view}': not in test_cameras.json")
        if query.l1 not in nodes or query.l2 not in nodes:
            raise SplatsegError(f"{folder / 'queries.json'}: node {query.l1} or {query.l2}: not in gt/tree.json")
    return HierarchicalScene(folder, views, nodes, read, offset)


def _read_nodes(path: Path) -> dict[int, TruthNode]:
    content = read_object(path)
    try:
        nodes = [
            TruthNode(n["id"], n["name"], n["parent"], n["depth"], bool(n.get("stuff", False)))
            for n in content["nodes"]
        ]
        return {node.id: node for node in nodes}
    except DAMAGED as error:
        raise SplatsegError(f"{path}: expected the fields of nodes, found a fault at {error!r}") from None


def _read_queries(path: Path) -> tuple[PointQuery, ...]:
    content = read_object(path)
    try:
        read = []
        for q in content["queries"]:
            (column, row), l1, l2 = q["pixel"], int(q["l1"]), int(q["l2"])
            read.append(PointQuery(str(q["view"]), (int(column), int(row)), l1, l2, q["kind"], q["core"]))
        return tuple(read)
    except DAMAGED as error:
        raise SplatsegError(f"{path}: expected the fields of queries, found a fault at {error!r}") from None


@dataclass(frozen=True)
class QueryResult:
    """What one query reached: IoUs in [0, 1] and the thresholds of the oracle; ``boundary*`` are the boundary IoUs at
    these thresholds (`metrics.boundary_iou`); ``proposed_*`` is None if not asked for."""

    query: PointQuery
    iou1: float
    iou2: float
    threshold1: float
    threshold2: float
    boundary1: float
    boundary2: float
    proposed1: float | None = None
    proposed2: float | None = None

    @property
    def mean(self) -> float:
        return (self.iou1 + self.iou2) / 2


@dataclass(frozen=True)
class Report:
    """Protocol (a) on one scene: a result per query, in file order, and averages over core queries and others."""

    scene: str
    results: tuple[QueryResult, ...]
    seconds: float

    def averages(self, core: bool = True) -> dict[str, float]:
        """``queries`` (their number), ``iou1``, ``iou2``, ``mean``, ``boundary1``, ``boundary2``, ``boundary_mean``
        and, where measured, ``proposed1``, ``proposed2``, ``proposed_mean``; NaN without queries."""
        rows = [result for result in self.results if result.query.core == core]
        found: dict[str, float] = {"queries": len(rows)}
        for name in (*ALWAYS, "proposed1", "proposed2"):
            values = [value for row in rows if (value := getattr(row, name)) is not None]
            if values or name in ALWAYS:
                found[name] = float(np.mean(values)) if values else float("nan")
        found["boundary_mean"] = (found["boundary1"] + found["boundary2"]) / 2
        if "proposed1" in found:
            found["proposed_mean"] = (found["proposed1"] + found["proposed2"]) / 2
        return found

    @property
    def headline(self) -> float:
        """(IoU1 + IoU2) / 2 over the core queries."""
        return self.averages()["mean"]


@dataclass(frozen=True, eq=False)
class ScoredQuery:
    """A query with its (h, w) pixel scores, its two (h, w) bool masks, and its query feature (d,)."""

    query: PointQuery
    scores: Tensor
    truth1: Tensor
    truth2: Tensor
    feature: Tensor


def evaluate_scene(splat: FeatureSplat, gt: HierarchicalScene, proposals: bool = True) -> Report:
    """Run protocol (a). ``proposals=False`` leaves out the product's own thresholds (about half of the time).

    Raises:
        SplatsegError: ground truth is missing or of another size than its camera.
    """
    start = time.perf_counter()
    weights = surface_weights(splat.gaussians) if proposals else None
    results = {}
    for view in gt.by_view:
        found = list(score_view(splat, gt, view))
        camera = gt.in_frame_of(splat.gaussians).views[view].camera.to(splat.gaussians.device)
        shown = [None] * len(found) if weights is None else proposed_masks(splat, camera, found, weights)
        for scored, masks in zip(found, shown, strict=True):
            results[scored.query] = _result(scored, masks)
    return Report(gt.name, tuple(results[query] for query in gt.queries), time.perf_counter() - start)


def score_view(splat: FeatureSplat, gt: HierarchicalScene, view: str) -> Iterator[ScoredQuery]:
    """Render one view's features once and score its pixels for each of the view's queries."""
    gaussians, field = splat.gaussians, splat.field
    camera = gt.in_frame_of(gaussians).views[view].camera.to(gaussians.device)
    levels = torch.from_numpy(checked_levels(gt, view).astype(np.int64)).to(gaussians.device)
    rendered = rendering.render(gaussians, camera, field.features)
    assert rendered.features is not None
    unit = unit_features(rendered.features)
    empty = rendered.alpha < EMPTY_ALPHA
    for query in gt.by_view[view]:
        column, row = camera.check_pixel(*query.pixel)
        feature = unit[row, column]
        values = score_features(unit, Query(feature[None], feature.new_zeros((0, field.dim))))
        values[empty] = -1
        yield ScoredQuery(query, values, (levels == query.l1).any(0), (levels == query.l2).any(0), feature)


def checked_levels(gt: HierarchicalScene, view: str) -> np.ndarray:
    """``gt.levels(view)`` if it has the size of the view's camera.

    Raises:
        SplatsegError: it has not.
    """
    camera = gt.views[view].camera
    levels = gt.levels(view)
    if levels.shape[1:] != (camera.height, camera.width):
        raise SplatsegError(
            f"{gt.folder / 'gt' / view}.npz: expected {camera.width}x{camera.height} labels as its camera says, "
            f"found {levels.shape[2]}x{levels.shape[1]}"
        )
    return levels


def proposed_masks(
    splat: FeatureSplat, camera: Camera, found: Sequence[ScoredQuery], weights: Tensor
) -> list[list[Tensor]]:
    """(h, w) bool masks of each query's proposed levels, as the product exports them; drawn together."""
    selections: list[list[Selection]] = []
    for scored in found:
        query = Query(scored.feature[None], scored.feature.new_zeros((0, splat.field.dim)))
        values = scores(splat.field, query)
        levels = propose_levels(values, weights, segments=splat.field.segments)
        selections.append([values.above(level.threshold) for level in levels])
    shown = iter(project_selections(splat.gaussians, [one for levels in selections for one in levels], camera))
    return [[next(shown) for _ in levels] for levels in selections]


def _result(scored: ScoredQuery, proposed: Sequence[Tensor] | None) -> QueryResult:
    first = best_threshold(scored.scores, scored.truth1)
    second = best_threshold(scored.scores, scored.truth2)
    best: tuple[float | None, float | None] = (None, None)
    if proposed is not None:
        best = (max(iou(m, scored.truth1) for m in proposed), max(iou(m, scored.truth2) for m in proposed))
    ious, thresholds = (first.iou, second.iou), (first.threshold, second.threshold)
    boundary1 = boundary_iou(scored.scores > first.threshold, scored.truth1)
    boundary2 = boundary_iou(scored.scores > second.threshold, scored.truth2)
    return QueryResult(scored.query, *ious, *thresholds, boundary1, boundary2, *best)
