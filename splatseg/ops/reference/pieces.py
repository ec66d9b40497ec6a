"""Specification of ``ops.pieces``: a sparse matrix of the edges that stay, and scipy's connected components."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor


def connected_pieces(labels: Tensor, neighbors: Tensor, distances: Tensor, longest: float) -> Tensor:
    """(n,) int64 0..c-1: the piece of each, numbered by first members."""
    n = len(labels)
    kept = ((labels[:, None] == labels[neighbors]) & (distances <= longest)).numpy()
    ends = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    graph = csr_matrix((np.ones(int(ends[-1]), np.int8), neighbors.numpy()[kept], ends), shape=(n, n))
    return torch.from_numpy(connected_components(graph, directed=False)[1].astype(np.int64))
