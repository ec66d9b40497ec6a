"""Whole-scene discretization: every Gaussian gets a label at several nested levels.

1. hdbscan (leaf clusters) on unit features of a spatially fair sample: what is one thing, and what is noise.
2. Every Gaussian takes the cluster of the nearest mean, as its 3D neighbors do: the cosine plus a bonus for agreeing
   with them.
3. A cluster that lies in several places is split into connected pieces, crumbs go to what surrounds them: the leaves.
4. The leaves are joined by average linkage over feature distance plus a penalty for gaps in space, so that alike things
   far apart do not become one object. Cutting the tree where it is most stable gives the levels.

Where the field knows what the masks of several views agree on, every such segment is a label
(:mod:`splatseg.segment.agreed`): the leaves above are read where no segment is, and the linkage joins the segments
that lie in no other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.label_tree import LabelTree, tree_from_leaves
from splatseg.core.numbering import numbered
from splatseg.core.progress import Report
from splatseg.core.segments import nest
from splatseg.core.splat import FeatureSplat
from splatseg.ops.spanning_tree import reachability_tree
from splatseg.segment.agreed import Leaves, family_leaves
from splatseg.segment.neighbors import (
    LONG_EDGE,
    absorb_small,
    box_gaps,
    fair_sample,
    nearest_neighbors,
    scene_size,
    split_components,
)

CPU = torch.device("cpu")
CHUNK = 1 << 14  # Gaussians that look at their neighbors at a time
COMPARED = 1 << 9  # ... that are compared with all means: a table that stays in the cache


@dataclass(frozen=True)
class ClusterConfig:
    """How a scene is discretized.

    Attributes:
        samples: Gaussians that hdbscan sees.
        channels: principal components of their features that it sees; its time doubles from 16 to 24.
        min_cluster: smallest cluster among them.
        min_samples: neighbors that make a sample dense; larger calls more of them noise.
        min_opacity: more transparent Gaussians are not sampled (they are labeled like all others).
        neighbours: size of the 3D neighborhood.
        agreement: cosine that full agreement with the neighborhood is worth.
        min_gaussians: smallest connected piece.
        gap_penalty: feature distance that a gap in space of a tenth of the scene (or more) is worth.
        levels: most levels.
        seed: of the sample; the same seed gives the same labels.
    """

    samples: int = 40000
    channels: int = 16
    min_cluster: int = 10
    min_samples: int = 5
    min_opacity: float = 0.1
    neighbours: int = 8
    agreement: float = 0.15
    min_gaussians: int = 30
    gap_penalty: float = 0.5
    levels: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        least_of = {"samples": 2, "channels": 1, "min_cluster": 2, "min_samples": 1, "neighbours": 1, "levels": 1}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise SplatsegError(f"clusters.{name}: expected at least {least}, found {getattr(self, name)}")


def discretize(splat: FeatureSplat, config: ClusterConfig | None = None, report: Report | None = None) -> LabelTree:
    """Label every Gaussian.

    Args:
        splat: hdbscan's tree is made on the device of its Gaussians.
        report: called with the name of the step and the share done in [0, 1]; it may raise to stop the work.

    Returns:
        A tree of 1..``config.levels`` levels; no Gaussian is left unlabeled.

    Raises:
        SplatsegError: there are no Gaussians.
    """
    config, report = config or ClusterConfig(), report or (lambda step, share: None)
    gaussians, field = splat.gaussians, splat.field
    if len(splat) == 0:
        raise SplatsegError("clusters: expected Gaussians, found none")
    means = gaussians.means.detach().cpu().numpy()
    unit = field.unit.cpu().numpy()
    report("sampling", 0.0)
    solid = np.flatnonzero((gaussians.opacities.detach() >= config.min_opacity).cpu().numpy())
    candidates = solid if len(solid) > config.min_cluster else np.arange(len(means))
    sample = fair_sample(means, candidates, config.samples, np.random.default_rng(config.seed))
    report("clustering", 0.05)
    centers = cluster_centers(unit[sample], config, gaussians.device)
    report("neighbours", 0.4)
    neighbors, distances = nearest_neighbors(means, config.neighbours)
    report("assigning", 0.7)
    labels = assign(unit, centers, neighbors, config.agreement)
    report("splitting", 0.85)
    size = scene_size(means)
    pieces = split_components(labels, neighbors, distances, LONG_EDGE * size)
    smallest = min(config.min_gaussians, len(means))
    report("levels", 0.95)
    if field.segments is None or not len(field.segments):
        leaves = absorb_small(pieces, labels, neighbors, smallest)
        leaves = numbered(leaves)[1]
        cuts, default = cut_levels(leaf_distances(means, unit, leaves, size, config.gap_penalty), config.levels)
        tree = tree_from_leaves(leaves, cuts, default)
    else:
        family = nest(field.segments)
        found = family_leaves(field.segments, family, pieces, neighbors, smallest)
        middle = int(np.median(family.depth)) if len(family) else 0
        tree = _family_tree(
            found, middle, lambda items: leaf_distances(means, unit, items, size, config.gap_penalty), config
        )
    report("done", 1.0)
    return tree


def _family_tree(
    leaves: Leaves, middle: int, distances: Callable[[NDArray[np.int64]], NDArray[np.float64]], config: ClusterConfig
) -> LabelTree:
    """Cuts of the tree of what stands at the family's top, then the family depth by depth, then the leaves.

    As many levels as the family is deep and two above, where ``config.levels`` are fewer. Shown first is depth
    ``middle`` of the family: where half of what views agree on lies at or above it, whole objects are found.
    """
    deep = leaves.chain.shape[1]
    top = np.unique(leaves.chain[:, 0], return_inverse=True)[1].ravel().astype(np.int64)
    cuts = cut_levels(distances(top[leaves.leaf]), max(config.levels - deep + 1, 3))[0]
    levels = [cut[top] for cut in cuts] + [np.unique(c, return_inverse=True)[1].ravel() for c in leaves.chain.T[1:]]
    last = np.arange(len(leaves.chain))
    if len(np.unique(levels[-1])) < len(last):
        levels.append(last)
    return tree_from_leaves(leaves.leaf, levels, len(cuts) - 1 + min(middle, deep - 1))


def cluster_centers(
    unit: NDArray[np.float32], config: ClusterConfig, device: torch.device = CPU
) -> NDArray[np.float32]:
    """(k, d) unit mean features of hdbscan's leaf clusters, k >= 1 (one mean of all where it finds no cluster)."""
    if len(unit) > max(config.min_cluster, config.min_samples):
        labels, weights = leaf_clusters(unit, config, device)
    else:
        labels, weights = np.zeros(len(unit), np.int64), np.ones(len(unit))
    if labels.max() < 0:
        labels, weights = np.zeros(len(unit), np.int64), np.ones(len(unit))
    sums = np.zeros((labels.max() + 1, unit.shape[1]))
    member = labels >= 0
    np.add.at(sums, labels[member], unit[member] * weights[member, None])
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return (sums / np.maximum(lengths, 1e-12)).astype(np.float32)


def leaf_clusters(
    unit: NDArray[np.float32], config: ClusterConfig, device: torch.device
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Leaf cluster (n,) of each row, -1 for noise, and how firmly (n,) it belongs there, by hdbscan.

    Many rows are equal where features are codes. hdbscan is given the exact tree of ``ops.spanning_tree``: equal rows
    then stay together, while its own search tree meets them in any order, cuts large heaps of them into several
    clusters and calls the remainder noise.
    """
    # It and scikit-learn take most of a second, and many who import this module cluster nothing.
    from hdbscan._hdbscan_linkage import label
    from hdbscan.hdbscan_ import _tree_to_labels

    _, first, copy_of = np.unique(unit, axis=0, return_index=True, return_inverse=True)
    # Equal rows stay equal bit by bit, which a product with all of them does not promise.
    points = principal(unit.astype(np.float64), config.channels)[first[copy_of.ravel()]]
    edges, lengths = reachability_tree(torch.from_numpy(points).to(device), config.min_samples)
    tree = label(np.column_stack([edges.numpy(), lengths.numpy()]))
    labels, weights, *_ = _tree_to_labels(points, tree, config.min_cluster, "leaf")
    return labels, weights


def principal(x: NDArray[np.float64], channels: int) -> NDArray[np.float64]:
    """(n, channels) coordinates of ``x`` (n, d) along its axes of most variance; ``x`` itself where d is no more."""
    if x.shape[1] <= channels:
        return x
    centered = x - x.mean(axis=0)
    axes = np.linalg.eigh(centered.T @ centered).eigenvectors  # by rising variance
    return np.asarray(centered @ axes[:, -channels:])


def assign(
    unit: NDArray[np.float32], centers: NDArray[np.float32], neighbors: NDArray[np.int32], agreement: float
) -> NDArray[np.int64]:
    """The center (n,) of each Gaussian: the nearest by cosine, then two rounds of the nearest in cosine plus agreement.

    A round offers each Gaussian its own label and those of its neighbors, at cosine + ``agreement`` x the share of
    neighbors that hold it. Most have nothing but neighbors of their own label, and keep it.
    """
    features, means = torch.from_numpy(unit), torch.from_numpy(centers)
    labels = _nearest_center(features, means)
    around = torch.from_numpy(neighbors)
    if around.shape[1] == 0:
        return labels.numpy()
    for _ in range(2):
        updated = labels.clone()
        for start in range(0, len(unit), CHUNK):
            offers = torch.cat([labels[start : start + CHUNK, None], labels[around[start : start + CHUNK]]], dim=1)
            mixed = (offers[:, 1:] != offers[:, :1]).any(1).nonzero()[:, 0]
            offers, rows = offers[mixed], mixed + start
            shares = (offers[:, :, None] == offers[:, None, 1:]).float().mean(2)
            worth = torch.einsum("nd,nkd->nk", features[rows], means[offers]) + agreement * shares
            updated[rows] = offers.gather(1, worth.argmax(1, keepdim=True))[:, 0]
        labels = updated
    return labels.numpy()


def _nearest_center(features: Tensor, means: Tensor) -> Tensor:
    """(n,) int64: the row of ``means`` with which each of ``features`` has the largest product.

    Into one table: tables that come and go between results that stay leave holes that the next does not fit into, which
    once came to 10 GB.
    """
    labels, table = torch.empty(len(features), dtype=torch.int64), torch.empty(COMPARED, len(means))
    for start in range(0, len(features), COMPARED):
        part = features[start : start + COMPARED]
        products = torch.mm(part, means.T, out=table[: len(part)])
        torch.argmax(products, 1, out=labels[start : start + len(part)])
    return labels


def leaf_distances(
    means: NDArray[np.float32], unit: NDArray[np.float32], leaves: NDArray[np.int64], size: float, penalty: float
) -> NDArray[np.float64]:
    """(c, c) distances of leaves: 1 - cosine of their mean features + ``penalty`` x min(1, gap / a tenth of the
    scene)."""
    count = int(leaves.max()) + 1
    sums = _sums(unit, leaves, count)
    centers = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    apart = np.minimum(box_gaps(means, leaves) / max(0.1 * size, 1e-12), 1)
    distances = np.clip(1 - centers @ centers.T, 0, 2) + penalty * apart
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return distances


def _sums(unit: NDArray[np.float32], leaves: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """(count, d) summed features of each leaf; in one pass, where a column after another reads all of them each."""
    sums = torch.zeros(count, unit.shape[1], dtype=torch.float64)
    for rows, leaf in zip(torch.from_numpy(unit).split(CHUNK), torch.from_numpy(leaves).split(CHUNK), strict=True):
        sums.index_add_(0, leaf, rows.double())
    return sums.numpy()


def cut_levels(distances: NDArray[np.float64], levels: int) -> tuple[list[NDArray[np.int64]], int]:
    """Groups (c,) of the leaves at each level, coarse to fine, and the level to show first.

    The finest level is the leaves. The others cut the average-linkage tree: the numbers of groups between 2 and c -
    1 are divided into bands of equal ratio, and each band is cut where the distance to the next merge grows most.
    The level shown first is the middle one, of an even number the coarser: there whole objects are found best.
    """
    count = len(distances)
    leaves = np.arange(count)
    if count <= 2 or levels == 1:
        return [leaves], 0
    tree = linkage(squareform(distances, checks=False), method="average")
    heights = tree[:, 2]
    bands = np.unique(np.geomspace(2, count, levels).round().astype(int))
    cuts = []
    for low, high in itertools.pairwise(bands):
        # g groups stand after count - g merges: until the next merge, at heights[count - g].
        groups = np.arange(low, high)
        rise = heights[count - groups] - heights[count - groups - 1]
        best = int(groups[int(np.argmax(rise))])
        cuts.append(fcluster(tree, best, criterion="maxclust").astype(np.int64) - 1)
    cuts.append(leaves)
    return cuts, (len(cuts) - 1) // 2
