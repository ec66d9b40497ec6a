"""Steps of the discretization that look at space: a fair sample, the neighbor graph, connected pieces, gaps."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray

from splatseg.core.numbering import numbered
from splatseg.ops.nearest import nearest_others
from splatseg.ops.pieces import connected_pieces

CHUNK = 1 << 16  # Gaussians whose neighbors are compared at a time
SCANNED = 1 << 18  # ... whose voxels are counted at a time
MOST_PIECES = 4096  # ten times what scenes of a million Gaussians fall into
LONG_EDGE = 0.05  # of the scene's size: Gaussians further apart are never neighbors
VOXELS_PER_SAMPLE = 0.25  # several samples share a voxel, so that a fine part in it has more than one


def scene_size(means: NDArray[np.float32]) -> float:
    """Diagonal of the box that holds the middle 98 % of the Gaussians along each axis; floaters do not count."""
    low, high = np.percentile(means, (1, 99), axis=0)
    return float(np.linalg.norm(high - low))


def fair_sample(
    means: NDArray[np.float32], candidates: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """``count`` of ``candidates`` (ids), ascending, drawn so that every occupied voxel has the same expected number.

    Densification puts most Gaussians where the texture is fine; clustering all alike would hear only those. Weighted
    sampling without replacement (Efraimidis and Spirakis 2006) with weight 1 / (Gaussians in the same voxel).
    """
    if len(candidates) <= count:
        return candidates
    points = means[candidates].astype(np.float64)
    low, high = np.percentile(points, (1, 99), axis=0)
    # Three times that box: sparse regions keep their place, floaters far outside end in the cells of its faces.
    unit = np.clip(((points - low) / max(float((high - low).max()), 1e-12) + 1) / 3, 0, 1)
    wanted, coarse, fine = VOXELS_PER_SAMPLE * count, 1.0, 4096.0
    for _ in range(12):
        middle = (coarse * fine) ** 0.5
        coarse, fine = (coarse, middle) if _fills(unit, middle, wanted) else (middle, fine)
    voxels, voxel = numbered(_voxels(unit, fine))
    occupancy = np.bincount(voxel, minlength=len(voxels))
    keys = np.log(rng.random(len(points))) * occupancy[voxel]
    return np.sort(candidates[np.argpartition(-keys, count)[:count]])


def _fills(unit: NDArray[np.float64], resolution: float, wanted: float) -> bool:
    """Whether the points lie in as many voxels as ``wanted``, without looking at more of them than that takes."""
    found = np.zeros(0, np.int64)
    for start in range(0, len(unit), SCANNED):
        there = numbered(_voxels(unit[start : start + SCANNED], resolution))[0]
        found = np.union1d(found, there)
        if len(found) >= wanted:
            return True
    return False


def _voxels(unit: NDArray[np.float64], resolution: float) -> NDArray[np.int64]:
    cells = (unit * resolution).astype(np.int64)
    side = int(resolution) + 1
    return (cells[:, 0] * side + cells[:, 1]) * side + cells[:, 2]


def nearest_neighbors(means: NDArray[np.float32], count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ids (n, count) and distances of the nearest other Gaussians; fewer columns for fewer Gaussians."""
    count = min(count, len(means) - 1)
    if count < 1:
        return np.zeros((len(means), 0), np.int32), np.zeros((len(means), 0), np.float32)
    return nearest_others(means, count)


def split_components(
    labels: NDArray[np.int64], neighbors: NDArray[np.int32], distances: NDArray[np.float32], longest: float
) -> NDArray[np.int64]:
    """Connected pieces (n,) 0..c-1 of the neighbor graph without edges between labels or longer than ``longest``."""
    graph = torch.from_numpy(neighbors), torch.from_numpy(distances)
    return connected_pieces(torch.from_numpy(labels), *graph, longest).numpy()


def absorb_small(
    pieces: NDArray[np.int64],
    labels: NDArray[np.int64],
    neighbors: NDArray[np.int32],
    smallest: int,
    kept: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Hand the Gaussians of pieces with fewer than ``smallest`` members to the large pieces around them.

    Each goes to the large piece that most of its neighbors belong to, in rounds from the rim inward; what no large
    piece touches goes to the largest piece of its own label, or of all where its label has none. ``kept`` (c,) pieces
    stay, however small; of the others at most :data:`MOST_PIECES` do, the largest, since every two pieces are compared
    later on. Returns the number of the piece (n,) that each Gaussian ends in.
    """
    counts = np.bincount(pieces)
    large = counts >= smallest if kept is None else (counts >= smallest) & ~kept
    if large.sum() > MOST_PIECES:
        order = np.argsort(-np.where(large, counts, 0), kind="stable")
        large[order[MOST_PIECES:]] = False
    large = large if kept is None else large | kept
    if not large.any():
        large = np.arange(len(counts)) == counts.argmax()
    result = np.where(large[pieces], pieces, -1)
    for _ in range(32):
        orphans = np.flatnonzero(result < 0)
        best = [
            _most_offered(result[neighbors[part]]) for part in np.array_split(orphans, -(-len(orphans) // CHUNK) or 1)
        ]
        result[orphans] = np.concatenate(best)
        if not (result[orphans] >= 0).any():
            break
    home = _largest_piece(pieces, labels, large)
    return np.where(result < 0, home[labels], result)


def _most_offered(offered: NDArray[np.int64]) -> NDArray[np.int64]:
    """(m,) the piece that most of ``offered`` (m, k) are, -1 being none; -1 where there is none but that."""
    if offered.shape[1] == 0:
        return np.full(len(offered), -1)
    votes = ((offered[:, :, None] == offered[:, None, :]) & (offered >= 0)[:, :, None]).sum(2)
    return np.asarray(np.take_along_axis(offered, votes.argmax(1)[:, None], 1)[:, 0])


def _largest_piece(pieces: NDArray[np.int64], labels: NDArray[np.int64], large: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The largest large piece of each label; the largest of all where a label has none."""
    counts = np.bincount(pieces)
    home = np.full(int(labels.max()) + 1, int(np.argmax(counts)))
    owner = np.zeros(len(counts), np.int64)
    owner[pieces] = labels
    order = np.argsort(counts, kind="stable")
    order = order[large[order]]
    home[owner[order]] = order  # the last, i.e. largest, assignment stays
    return home


def box_gaps(means: NDArray[np.float32], pieces: NDArray[np.int64]) -> NDArray[np.float64]:
    """(c, c) distances between the boxes (middle 90 % along each axis) of the pieces; 0 where they overlap."""
    count = int(pieces.max()) + 1
    order = np.argsort(pieces.astype(np.uint16 if count <= 2**16 else np.int64), kind="stable")  # of 16 bits by radix
    bounds = np.searchsorted(pieces[order], np.arange(count + 1))
    rows = [order[first:last] for first, last in itertools.pairwise(bounds)]
    boxes = np.stack([np.percentile(means[row], (5, 95), axis=0) for row in rows])
    low, high = boxes[:, 0], boxes[:, 1]
    squares = np.zeros((count, count), boxes.dtype)
    for bottom, top in zip(low.T, high.T, strict=True):  # a table an axis: of all at once 4000 pieces took 1.2 GB
        gap = np.maximum(bottom[:, None] - top, bottom - top[:, None])
        np.maximum(gap, 0, out=gap)
        np.multiply(gap, gap, out=gap)
        squares += gap
    return np.sqrt(squares, out=squares)
