"""Specification of :mod:`splatseg.ops.mask_products`: the same on sparse matrices of scipy. It serves the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
CHUNK = 16384  # Gaussians handled at a time where a table of Gaussians x views is needed


@dataclass(frozen=True, eq=False)
class SparseEvidence:
    """Masks of all views on the same Gaussians (:class:`splatseg.ops.mask_products.MaskEvidence`).

    Attributes:
        masks: (n, m) bool.
        view: (m,) of each mask.
        seen: (n, views) summed blending weights where above ``min_weight``.
        weights: (n,) mean of those that a Gaussian has; 0 where it has none.
    """

    masks: sparse.csr_matrix
    view: Ints
    seen: sparse.csr_matrix
    weights: Floats

    @staticmethod
    def gather(pools: Iterable[Any], count: int, min_weight: float) -> SparseEvidence:
        """What all of ``pools``, at least one, say.

        Held are what views say of the Gaussians that they see, twice while it is put together: some 7 bytes for each
        mask that a Gaussian lies in and 16 for each view that sees it. Nothing has a row for each Gaussian and view.
        """
        masks, seen, view = [], [], []
        first = 0
        for number, pool in enumerate(pools):
            ids, inside, weight = observe(pool, count)
            kept = weight > min_weight
            ids, inside, weight = ids[kept], inside[np.flatnonzero(kept)], weight[kept]
            width = inside.shape[1]
            narrow = np.uint16 if width <= 2**16 else np.int32
            masks.append(_Part(ids, np.diff(inside.indptr), inside.indices.astype(narrow), first, None))
            seen.append(_Part(ids, np.ones(len(ids), np.int32), np.zeros(len(ids), np.uint8), number, weight))
            view.append(np.full(width, number, np.int64))
            first += width
        together, weights = _stacked(masks, (count, first)), _stacked(seen, (count, len(view)))
        mean = np.asarray(weights.sum(axis=1)).ravel() / np.maximum(np.diff(weights.indptr), 1)
        return SparseEvidence(together, np.concatenate(view), weights, mean.astype(np.float32))

    def rows(self, index: Ints) -> SparseEvidence:
        return SparseEvidence(self.masks[index], self.view, self.seen[index], self.weights[index])

    def agreement(self, least: float) -> sparse.coo_matrix:
        shown, view = self.shown(), self.view
        own = shown[np.arange(len(view)), view]
        found = []
        for row, col, shared in self._shared_with_later_views():
            here, there = shown[row, view[col]], shown[col, view[row]]
            union = here + there - shared
            # A view that sees only a corner of a mask can neither confirm nor refute it.
            fair = (here > 0.3 * own[row]) & (there > 0.3 * own[col])
            same = fair & (shared >= least * union)
            row, col, value = row[same], col[same], shared[same] / union[same]
            found += [(row, col, value), (col, row, value)]
        shape = (len(view), len(view))
        if not found:
            return sparse.coo_matrix(shape, dtype=np.float32)
        rows, cols, values = (np.concatenate(part) for part in zip(*found, strict=True))
        return sparse.coo_matrix((values, (rows, cols)), shape=shape)

    def _shared_with_later_views(self) -> Iterator[tuple[Ints, Ints, Floats]]:
        """Mask, mask of a later view and the weight that both hold, of all pairs that share some, a view at a time:
        all at once they take a hundred times the memory of the masks."""
        by_mask, number = self.masks.tocsc(), np.empty(self.masks.shape[0], np.int32)
        ends = np.searchsorted(self.view, np.arange(self.seen.shape[1]), side="right").tolist()
        for first, end in itertools.pairwise([0, *ends]):
            block = by_mask[:, first:end]
            held = np.zeros(self.masks.shape[0], bool)
            held[block.indices] = True
            rows = np.flatnonzero(held)
            number[rows] = np.arange(len(rows), dtype=np.int32)
            all_there = self.masks[rows]
            later = all_there.indices >= end
            counts = np.concatenate([[0], np.cumsum(later)])[all_there.indptr]
            weights = np.repeat(self.weights[rows], np.diff(counts))
            shape = (len(rows), self.masks.shape[1] - end)
            there = sparse.csr_matrix((weights, all_there.indices[later] - end, counts), shape=shape)
            ones = np.ones(len(block.indices), np.float32)
            here = sparse.csr_matrix((ones, number[block.indices], block.indptr), shape=(end - first, len(rows)))
            shared = (here @ there).tocoo()
            yield shared.row.astype(np.int64) + first, shared.col.astype(np.int64) + end, shared.data

    def matches(self, sets: sparse.csr_matrix, least: float) -> tuple[sparse.coo_matrix, Floats]:
        shared, shown = self._overlaps(sets)
        own = np.asarray(self.masks.T @ self.weights).ravel()
        overlap = shared.data / np.maximum(
            own[shared.row] + shown[shared.col, self.view[shared.row]] - shared.data, 1e-9
        )
        enough = overlap >= least
        return sparse.coo_matrix((overlap[enough], (shared.row[enough], shared.col[enough])), shape=shared.shape), shown

    def shares(self, owner: Ints, least: float) -> sparse.csr_matrix:
        used = np.flatnonzero(owner >= 0)
        count, segments, views = self.masks.shape[0], int(owner.max(initial=-1)) + 1, self.seen.shape[1]
        in_view = np.zeros((views, segments))
        in_view[self.view[used], owner[used]] = 1
        hand = sparse.csr_matrix((np.ones(len(used)), (used, owner[used])), (len(owner), segments))
        blocks = []
        for first in range(0, count, CHUNK):
            masks = self.masks[first : first + CHUNK].tocoo()
            seen = self.seen[first : first + CHUNK].toarray().astype(np.float64)
            held = sparse.csr_matrix((seen[masks.row, self.view[masks.col]], (masks.row, masks.col)), masks.shape)
            votes = (held @ hand).tocoo()
            total = (seen @ in_view)[votes.row, votes.col]
            enough = votes.data > least * total
            share = (votes.data[enough] / total[enough]).astype(np.float32)
            blocks.append(sparse.csr_matrix((share, (votes.row[enough], votes.col[enough])), votes.shape))
        return sparse.vstack(blocks).tocsr()

    def mutual(self, sets: sparse.csr_matrix) -> Floats:
        return np.asarray((sets.T @ (sparse.diags(self.weights) @ sets)).toarray())

    def shown(self, sets: sparse.csr_matrix | None = None) -> Floats:
        weighted = sparse.diags(self.weights) @ (self.masks if sets is None else sets)
        return np.asarray((weighted.T @ (self.seen > 0).astype(np.float32)).toarray(), np.float32)

    def masked(self, sets: sparse.csr_matrix) -> Floats:
        m = len(self.view)
        by_view = sparse.csr_matrix((np.ones(m, np.float32), self.view, np.arange(m + 1)), (m, self.seen.shape[1]))
        held = self.masks.astype(np.float32) @ by_view
        held.data[:] = 1
        return np.asarray(((sparse.diags(self.weights) @ sets).T @ held).toarray(), np.float32)

    def agreed(self, owner: Ints, sets: sparse.csr_matrix) -> Floats:
        count, views = self.seen.shape
        agreeing = np.zeros(count, np.int64)
        for first in range(0, count, CHUNK):
            masks = self.masks[first : first + CHUNK].tocoo()
            member = sets[first : first + CHUNK].toarray() != 0
            used = owner[masks.col] >= 0
            row, mask = masks.row[used], masks.col[used]
            held = member[row, owner[mask]]
            in_view = np.zeros((len(member), views), bool)
            in_view[row[held], self.view[mask[held]]] = True
            agreeing[first : first + CHUNK] = in_view.sum(axis=1)
        return (agreeing / np.maximum(np.diff(self.seen.indptr), 1)).astype(np.float32)

    def _overlaps(self, sets: sparse.csr_matrix) -> tuple[sparse.coo_matrix, Floats]:
        """Shared weight (m, s) of masks and sets of Gaussians, and the weight (s, views) that each view sees of a
        set."""
        return (self.masks.T @ (sparse.diags(self.weights) @ sets)).tocoo(), self.shown(sets)


@dataclass(frozen=True, eq=False)
class _Part:
    """Entries of some rows of a sparse matrix, row by row.

    Attributes:
        rows: (k,) ascending.
        counts: (k,) entries of each.
        columns: (e,) of the entries, less ``first``.
        first: number of the part's first column.
        values: (e,) float32; None: all True.
    """

    rows: Ints
    counts: NDArray[np.int32]
    columns: NDArray[np.integer]
    first: int
    values: Floats | None


def _stacked(parts: list[_Part], shape: tuple[int, int]) -> sparse.csr_matrix:
    """The matrix of all ``parts``, whose columns follow one another; takes them out of the list."""
    counts = np.zeros(shape[0], np.int64)
    for part in parts:
        counts[part.rows] += part.counts
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    number = np.int32 if max(total, *shape) < 2**31 else np.int64
    indices: NDArray[Any] = np.empty(total, number)
    values: NDArray[Any] = np.empty(total, bool if not parts or parts[0].values is None else np.float32)
    values.fill(True)
    cursor = ends - counts
    parts.reverse()
    while parts:
        part = parts.pop()
        within = np.arange(len(part.columns)) - np.repeat(np.cumsum(part.counts) - part.counts, part.counts)
        place = np.repeat(cursor[part.rows], part.counts) + within
        indices[place] = part.columns
        indices[place] += part.first
        if part.values is not None:
            values[place] = part.values
        cursor[part.rows] += part.counts
    indptr = np.concatenate([[0], ends]).astype(number)
    return sparse.csr_matrix((values, indices, indptr), shape=shape)


def observe(pool: Any, count: int) -> tuple[Ints, sparse.csr_matrix, Floats]:
    """What a view says of the Gaussians that it shows.

    Returns:
        Their ids (k,), ascending; (k, masks) 0/1: most of the Gaussian's weight lies on pixels of the mask; and its
        weight (k,).
    """
    c = pool.contributions
    pixels, entries = len(c), c.ids.cpu().numpy()
    shows = np.zeros(count, bool)
    shows[entries] = True
    ids = np.flatnonzero(shows)
    number = np.empty(count, np.int32)
    number[ids] = np.arange(len(ids), dtype=np.int32)
    shown = sparse.csr_matrix(
        (c.weights.float().cpu().numpy(), number[entries], c.offsets.cpu().numpy()), shape=(pixels, len(ids))
    )
    patch = pool.patch.cpu().numpy()
    of_patch = sparse.csr_matrix(
        (np.ones(pixels, np.float32), (patch, np.arange(pixels))), shape=(len(pool.membership), pixels)
    )
    on_patch = (of_patch @ shown).T.tocsr()
    weight = np.asarray(on_patch.sum(axis=1), np.float32).ravel()
    words = pool.membership.cpu().numpy()
    bits = ((words[:, :, None] >> np.arange(64)) & 1).reshape(len(words), -1)
    on_mask = on_patch @ sparse.csr_matrix(bits[:, bits.any(axis=0)].astype(np.float32))
    on_mask.sort_indices()
    on_mask.data = on_mask.data > 0.5 * np.repeat(weight, np.diff(on_mask.indptr))
    on_mask.eliminate_zeros()
    return ids, on_mask, weight
