"""Nested regions that need no weights: a watershed of color gradients, merged into a tree, cut at several depths.

They follow edges and colors, not meaning: an object of two colors stays two regions until late in the tree. Segment
Anything's masks give better results; these need no download and a second per image.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.segmentation import watershed

from splatseg.core.errors import SplatsegError
from splatseg.core.scene import View
from splatseg.masks import rle
from splatseg.masks.mask_set import MaskSet
from splatseg.masks.merge_tree import MergeTree, MergeWeights, RegionGraph, merge_regions

_VERSION = 1  # of the algorithm: part of the cache key


@dataclass(frozen=True)
class WatershedConfig:
    """Settings of the watershed source.

    Attributes:
        scales: standard deviations of the Gaussians whose color gradients are averaged, pixels.
        spacing: basins start at gradient minima over squares of this many pixels per side.
        cuts: the tree is cut into these many regions; every region of every cut is a mask once.
        min_area: smaller regions are left out, pixels.
        max_share: regions that cover more than this share of the image are left out.
        max_overlap: of two nested regions whose areas have a ratio above this only the larger is kept.
        border: weight of the gradient along the border of two regions, per unit of CIELAB a pixel.
        color: weight of the distance of their mean colors, per unit of CIELAB.
        size: exponent of the smaller region's pixels: larger values merge small regions sooner.
    """

    scales: tuple[float, ...] = (1.0, 2.0, 4.0)
    spacing: int = 9
    cuts: tuple[int, ...] = (64, 32, 16, 8, 4, 2)
    min_area: int = 100
    max_share: float = 0.7
    max_overlap: float = 0.85
    border: float = 1.0
    color: float = 0.05
    size: float = 0.4

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise SplatsegError(f"scales: expected positive standard deviations, found {self.scales}")
        if self.spacing < 1:
            raise SplatsegError(f"spacing: expected at least 1 pixel, found {self.spacing}")
        if not self.cuts or min(self.cuts) < 1:
            raise SplatsegError(f"cuts: expected numbers of regions of at least 1, found {self.cuts}")
        for name in ("max_share", "max_overlap"):
            if not 0 < getattr(self, name) <= 1:
                raise SplatsegError(f"{name}: expected a share in (0, 1], found {getattr(self, name)}")
        for name in ("min_area", "border", "color", "size"):
            if not getattr(self, name) >= 0:
                raise SplatsegError(f"{name}: expected at least 0, found {getattr(self, name)}")


class WatershedMasks:
    """The watershed as a mask source; deterministic, one core, no state."""

    name = "watershed"
    one_core = True

    def __init__(self, config: WatershedConfig = WatershedConfig()) -> None:
        self.config = config

    def settings(self) -> dict[str, Any]:
        return {"version": _VERSION, **asdict(self.config)}

    def masks(self, view: View) -> MaskSet:
        """Nested regions of the photograph of ``view``.

        Raises:
            SplatsegError: the image is missing, unreadable or of another size than the camera.
        """
        return watershed_masks(view.image().numpy(), self.config)


def watershed_masks(image: NDArray[np.uint8], config: WatershedConfig = WatershedConfig()) -> MaskSet:
    """Masks of an (h, w, 3) uint8 RGB ``image``; any two are nested or disjoint. Small ones first."""
    height, width = image.shape[:2]
    graph = region_graph(image, config)
    tree = merge_regions(graph, MergeWeights(config.border, config.color, config.size))
    nodes = choose_nodes(tree, config)
    if len(nodes) == 0:
        return MaskSet.empty(height, width)
    leaf_rank, begin, end = tree.leaf_ranges()
    ranks = np.asfortranarray(leaf_rank[graph.labels].astype(np.int32))  # run lengths go down columns
    return MaskSet(height, width, tuple(rle.encode_mask((ranks >= begin[n]) & (ranks < end[n])) for n in nodes))


def region_graph(image: NDArray[np.uint8], config: WatershedConfig) -> RegionGraph:
    """The basins of the image's color gradient: a few hundred to a few thousand regions of even color."""
    lab = rgb2lab(image).astype(np.float32)
    gradient = color_gradient(lab, config.scales)
    smooth = ndimage.gaussian_filter(gradient, 1.0)
    minima = smooth == ndimage.minimum_filter(smooth, size=config.spacing)
    markers, n = ndimage.label(minima, np.ones((3, 3)))
    labels = watershed(smooth, markers).astype(np.int64) - 1
    areas = np.bincount(labels.ravel(), minlength=n).astype(np.float64)
    sums = [np.bincount(labels.ravel(), lab[..., c].ravel(), minlength=n) for c in range(3)]
    borders = _borders(labels, gradient, n)
    return RegionGraph(labels, areas, np.stack(sums, 1) / areas[:, None], borders)


def color_gradient(lab: NDArray[np.float32], scales: tuple[float, ...]) -> NDArray[np.float32]:
    """(h, w) gradient magnitude of an (h, w, 3) CIELAB image, averaged over ``scales``.

    A scale's gradient is multiplied by its root: an edge blurred over s pixels has a slope of 1 / s, so plain gradients
    would ignore the coarse scales and gradients times s the fine ones.
    """
    total = np.zeros(lab.shape[:2], np.float32)
    for scale in scales:
        squared = np.zeros_like(total)
        for channel in range(3):
            blurred = ndimage.gaussian_filter(lab[..., channel], scale)
            squared += ndimage.sobel(blurred, 0) ** 2 + ndimage.sobel(blurred, 1) ** 2
        total += np.sqrt(squared * np.float32(scale)) / 8  # a Sobel filter gives 8 times the slope
    return (total / len(scales)).astype(np.float32)


def _borders(labels: NDArray[np.int64], gradient: NDArray[np.float32], n: int) -> list[dict[int, tuple[float, float]]]:
    """Length and mean gradient of the border of every two regions that touch along a pixel's side."""
    keys, values = [], []
    for near, far in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = labels[near], labels[far]
        differ = a != b
        keys.append(np.minimum(a, b)[differ] * n + np.maximum(a, b)[differ])
        values.append(np.maximum(gradient[near], gradient[far])[differ])
    pairs, index = np.unique(np.concatenate(keys), return_inverse=True)
    lengths = np.bincount(index, minlength=len(pairs))
    sums = np.bincount(index, np.concatenate(values), minlength=len(pairs))
    borders: list[dict[int, tuple[float, float]]] = [{} for _ in range(n)]
    for pair, length, mean in zip(pairs.tolist(), lengths.tolist(), (sums / lengths).tolist(), strict=True):
        a, b = divmod(pair, n)
        borders[a][b] = borders[b][a] = (length, mean)
    return borders


def choose_nodes(tree: MergeTree, config: WatershedConfig) -> NDArray[np.int64]:
    """The nodes to take as masks, children before parents: those of all cuts, but the too small, the too large and
    those that a chosen ancestor covers with little else."""
    wanted = np.unique(np.concatenate([tree.cut(regions) for regions in config.cuts]))
    areas = tree.areas
    size = areas[-1]
    chosen: list[int] = []
    nearest = np.full(len(areas), -1, np.int64)  # the smallest chosen node that holds each node
    is_wanted = np.zeros(len(areas), bool)
    is_wanted[wanted] = True
    for node in range(len(areas) - 1, -1, -1):
        parent = tree.parents[node]
        above = nearest[parent] if parent >= 0 else -1
        fits = config.min_area <= areas[node] <= config.max_share * size
        if is_wanted[node] and fits and (above < 0 or areas[node] <= config.max_overlap * areas[above]):
            chosen.append(node)
            above = node
        nearest[node] = above
    return np.array(chosen[::-1], np.int64)
