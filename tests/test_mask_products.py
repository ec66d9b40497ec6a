"""Products of masks: sparse on the CPU and dense in blocks, against plain float64 tables of everything at once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse

from splatseg.fit import mask_clustering
from splatseg.fit.mask_clustering import MaskClusteringConfig, find_segments
from splatseg.fit.pixel_pools import PixelPool
from splatseg.ops import Contributions, sparse_rows
from splatseg.ops.mask_products import BlockedEvidence, MaskEvidence, vote
from splatseg.ops.mask_rows import RowEvidence, can_walk_rows
from splatseg.ops.reference.mask_products import SparseEvidence
from splatseg.ops.sparse_rows import Rows, bfloat16_terms, product

MIN_WEIGHT = 0.02
COUNT = 270  # three groups of three objects of three parts of ten Gaussians


@dataclass(frozen=True)
class Plain:
    """The definition of :class:`MaskEvidence` on full tables: ``masks`` (n, m), ``seen`` (n, views), float64."""

    masks: NDArray[np.float64]
    view: NDArray[np.int64]
    seen: NDArray[np.float64]
    weights: NDArray[np.float64]

    @staticmethod
    def gather(pools: Iterable[PixelPool], count: int, min_weight: float) -> Plain:
        masks, seen, view = [], [], []
        for number, pool in enumerate(pools):
            c = pool.contributions.to("cpu")
            table = np.zeros((len(c), count))
            np.add.at(table, (c.entry_rows().numpy(), c.ids.numpy()), c.weights.double().numpy())
            words = pool.membership.cpu().numpy()[pool.patch.cpu().numpy()]
            bits = ((words[:, :, None] >> np.arange(64)) & 1).reshape(len(words), -1)
            bits = bits[:, bits.any(axis=0)]
            weight = table.sum(axis=0)
            weight[weight <= min_weight] = 0
            masks.append((table.T @ bits > 0.5 * weight[:, None]) & (weight > 0)[:, None])
            seen.append(weight)
            view += [number] * bits.shape[1]
        together = np.stack(seen, axis=1)
        mean = together.sum(axis=1) / np.maximum((together > 0).sum(axis=1), 1)
        return Plain(np.concatenate(masks, axis=1).astype(float), np.array(view), together, mean)

    def rows(self, index: NDArray[np.int64]) -> Plain:
        return Plain(self.masks[index], self.view, self.seen[index], self.weights[index])

    def overlaps(self, sets: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        weighted = self.weights[:, None] * sets
        return self.masks.T @ weighted, weighted.T @ (self.seen > 0)

    def agreement(self, least: float) -> sparse.coo_matrix:
        shared, shown = self.overlaps(self.masks)
        there = shown[:, self.view]  # [a, b]: what b's view shows of a
        own = there.diagonal()
        union = there + there.T - shared
        fair = (there > 0.3 * own[:, None]) & (0.3 * own < there.T)
        same = fair & (self.view[:, None] != self.view) & (shared >= least * union)
        return sparse.coo_matrix(np.where(same, shared / np.maximum(union, 1e-9), 0))

    def matches(self, sets: sparse.csr_matrix, least: float) -> tuple[sparse.coo_matrix, NDArray[np.float64]]:
        shared, shown = self.overlaps(sets.toarray())
        union = (self.masks.T @ self.weights)[:, None] + shown[:, self.view].T - shared
        overlap = shared / np.maximum(union, 1e-9)
        return sparse.coo_matrix(np.where(overlap >= least, overlap, 0)), shown

    def shares(self, owner: NDArray[np.int64], least: float) -> sparse.csr_matrix:
        columns = []
        for segment in range(int(owner.max(initial=-1)) + 1):
            mine = owner == segment
            votes = (self.masks[:, mine] * self.seen[:, self.view[mine]]).sum(axis=1)
            total = self.seen[:, np.unique(self.view[mine])].sum(axis=1)
            columns.append(np.where(votes > least * total, votes / np.maximum(total, 1e-9), 0))
        empty = np.zeros((len(self.masks), 0))
        return sparse.csr_matrix(np.stack(columns, axis=1) if columns else empty, dtype=np.float32)

    def mutual(self, sets: sparse.csr_matrix) -> NDArray[np.float64]:
        return self.overlaps_of(sets.toarray())

    def shown(self, sets: sparse.csr_matrix | None = None) -> NDArray[np.float64]:
        return self.overlaps(self.masks if sets is None else sets.toarray())[1]

    def masked(self, sets: sparse.csr_matrix) -> NDArray[np.float64]:
        held = np.stack([self.masks[:, self.view == v].any(axis=1) for v in range(self.seen.shape[1])], axis=1)
        return (self.weights[:, None] * sets.toarray()).T @ held

    def agreed(self, owner: NDArray[np.int64], sets: sparse.csr_matrix) -> NDArray[np.float64]:
        agreeing = np.zeros(self.seen.shape, bool)
        for mask in np.flatnonzero(owner >= 0):
            agreeing[:, self.view[mask]] |= (self.masks[:, mask] > 0) & (sets.toarray()[:, owner[mask]] > 0)
        return agreeing.sum(axis=1) / np.maximum((self.seen > 0).sum(axis=1), 1)

    def overlaps_of(self, sets: NDArray[np.float64]) -> NDArray[np.float64]:
        return sets.T @ (self.weights[:, None] * sets)


def noisy_view(draw: np.random.Generator) -> PixelPool:
    """A view of two thirds of the parts of the scene: most masks of what it shows, wrong at 3 % of their pixels."""
    part = np.arange(COUNT) // 10
    visible = np.flatnonzero(draw.permutation(27)[part] < 18)
    front = draw.choice(visible, 600)
    ids = np.stack([front, *(10 * part[front] + draw.integers(0, 10, 600) for _ in range(2))], axis=1)
    ids[:, 1:] = np.where(ids[:, 1:] == front[:, None], (front[:, None] + 11) % COUNT, ids[:, 1:])
    levels = [(part[front] // size) for size in (1, 3, 9)]
    masks = [level == k for level in levels for k in np.unique(level) if draw.random() < 0.8]
    flipped = [mask ^ (draw.random(600) < 0.03) & (levels[2] == levels[2][mask][0]) for mask in masks if mask.any()]
    words = np.zeros((600, 2), np.int64)
    for number, mask in enumerate(flipped):
        words[mask, number // 40] |= 1 << (number % 40)  # both words are used
    present, patch = np.unique(np.concatenate([np.zeros((1, 2), np.int64), words]), axis=0, return_inverse=True)
    weights = draw.random((600, 3)) * [0.6, 0.25, 0.15] + 0.01
    contributions = Contributions(
        pixels=torch.zeros(600, 2, dtype=torch.int32),
        order=torch.arange(600),
        offsets=torch.arange(0, 1801, 3),
        ids=torch.from_numpy(ids.ravel()).int(),
        weights=torch.from_numpy(weights.ravel()).half(),
    )
    compact = torch.from_numpy(patch.ravel()[1:])
    return PixelPool(contributions, compact.nonzero()[:, 0], compact, torch.from_numpy(present))


@pytest.fixture(scope="module")
def pools() -> list[PixelPool]:
    draw = np.random.default_rng(5)
    return [noisy_view(draw) for _ in range(14)]


def moved(pools: list[PixelPool], device: torch.device) -> list[PixelPool]:
    return [
        PixelPool(p.contributions.to(device), p.rows.to(device), p.patch.to(device), p.membership.to(device))
        for p in pools
    ]


Gather = Callable[[Iterable[Any], int, float], MaskEvidence]
KINDS = {"sparse": SparseEvidence.gather, "rows": RowEvidence.gather, "blocked": BlockedEvidence.gather}


@pytest.fixture(params=KINDS)
def gather(request: pytest.FixtureRequest, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Gather:
    """Each implementation; the blocked one in blocks of some tens of Gaussians and of masks."""
    if request.param == "rows" and not can_walk_rows(torch.empty(0, device=device)):
        pytest.skip("no kernels for this device")
    monkeypatch.setattr(sparse_rows, "BLOCK_ENTRIES", 4000)
    return KINDS[request.param]


def test_segments_are_those_of_plain_tables(
    pools: list[PixelPool], gather: Gather, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = MaskClusteringConfig(min_views=2, rest=0.05, nesting=0.7)
    monkeypatch.setattr(mask_clustering, "gather", Plain.gather)
    wanted = find_segments(pools, COUNT, config)
    sampled = find_segments(pools, COUNT, MaskClusteringConfig(max_gaussians=150))
    assert len(wanted) > 30 and len(sampled) > 5
    monkeypatch.setattr(mask_clustering, "gather", gather)
    for expected, settings in ((wanted, config), (sampled, MaskClusteringConfig(max_gaussians=150))):
        found = find_segments(moved(pools, device), COUNT, settings)
        assert np.array_equal(found.inside.toarray(), expected.inside.toarray())
        assert np.array_equal(found.views, expected.views) and np.array_equal(found.could, expected.could)
        assert np.allclose(found.agreed, expected.agreed, rtol=1e-6, atol=0)
        assert np.allclose(found.weights, expected.weights, rtol=1e-6, atol=0)


class Rounded:
    """Plain tables with errors as another order of additions makes them."""

    def __init__(self, plain: Any, draw: np.random.Generator) -> None:
        self.plain, self.draw = plain, draw

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def rows(self, index: Any) -> Rounded:
        return Rounded(self.plain.rows(index), self.draw)

    def agreement(self, least: float) -> Any:
        return self.off(self.plain.agreement(least))

    def matches(self, sets: Any, least: float) -> Any:
        overlap, shown = self.plain.matches(sets, least)
        return self.off(sparse.coo_matrix(overlap)), self.off(shown)

    def mutual(self, sets: Any) -> Any:
        return self.off(self.plain.mutual(sets))

    def shown(self, sets: Any = None) -> Any:
        return self.off(self.plain.shown(sets))

    def off(self, table: Any) -> Any:
        if not sparse.issparse(table):
            return table * (1 + 1e-6 * self.draw.standard_normal(table.shape)).astype(np.float32)
        table = table.copy()
        table.data = self.off(table.data)
        return table


def test_segments_do_not_hang_on_rounding(pools: list[PixelPool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties, of which noise-free masks have many, were decided by the last bit: differently on each device."""
    config = MaskClusteringConfig(min_views=2, rest=0.05, nesting=0.7)
    monkeypatch.setattr(mask_clustering, "gather", Plain.gather)
    wanted = find_segments(pools, COUNT, config).inside.toarray()
    for seed in range(6):
        draw = np.random.default_rng(seed)
        monkeypatch.setattr(mask_clustering, "gather", lambda *a, draw=draw: Rounded(Plain.gather(*a), draw))
        assert np.array_equal(find_segments(pools, COUNT, config).inside.toarray(), wanted)


def test_tables_are_those_of_plain_tables(pools: list[PixelPool], gather: Gather, device: torch.device) -> None:
    """float32 sums of at most 270 terms: 270 x 2^-24 of the sum, at most."""
    plain, found = Plain.gather(pools, COUNT, MIN_WEIGHT), gather(moved(pools, device), COUNT, MIN_WEIGHT)
    owner = np.random.default_rng(0).integers(-1, 12, len(plain.view))
    sets = vote(plain, owner)
    assert np.array_equal(found.view, plain.view)
    assert np.array_equal(vote(found, owner).toarray(), sets.toarray())
    for least in (0.0, 0.15, 0.5):
        found_shares, shares = found.shares(owner, least).toarray(), plain.shares(owner, least).toarray()
        assert np.array_equal(found_shares > 0, shares > 0) and np.allclose(found_shares, shares, rtol=1e-6, atol=0)
    assert np.allclose(found.mutual(sets), plain.mutual(sets), rtol=2e-5, atol=0)
    assert np.allclose(found.agreement(0.5).toarray(), plain.agreement(0.5).toarray(), rtol=2e-5, atol=0)
    assert np.allclose(found.shown(sets), plain.shown(sets), rtol=2e-5, atol=1e-7)
    assert np.allclose(found.shown(), plain.shown(), rtol=2e-5, atol=1e-7)
    assert np.allclose(found.masked(sets), plain.masked(sets), rtol=2e-5, atol=1e-7)
    assert (found.masked(sets) < 0.9 * found.shown(sets)).any(), "not all that is seen lies in masks"
    assert np.allclose(found.agreed(owner, sets), plain.agreed(owner, sets), rtol=1e-6, atol=0)
    for mine, theirs in zip(found.matches(sets, 0.1), plain.matches(sets, 0.1), strict=True):
        mine, theirs = (one.toarray() if sparse.issparse(one) else one for one in (mine, theirs))
        assert np.allclose(mine, theirs, rtol=2e-5, atol=1e-7)


def test_no_segment_yet(pools: list[PixelPool], gather: Gather, device: torch.device) -> None:
    found = gather(moved(pools, device), COUNT, MIN_WEIGHT)
    nothing = vote(found, np.full(len(found.view), -1))
    assert nothing.shape == (COUNT, 0) and found.mutual(nothing).shape == (0, 0)
    assert not found.agreed(np.full(len(found.view), -1), nothing).any()
    overlap, shown = found.matches(nothing, 0.6)
    assert overlap.nnz == 0 and overlap.shape == (len(found.view), 0) and shown.shape == (0, len(pools))
    assert found.masked(nothing).shape == (0, len(pools))


def test_views_without_masks_still_see(gather: Gather, device: torch.device) -> None:
    """A pool none of whose pixels lies in a mask, between two with masks: it votes against, and has no mask itself."""
    draw = np.random.default_rng(1)
    bare = noisy_view(draw)
    bare = PixelPool(bare.contributions, bare.rows[:0], torch.zeros_like(bare.patch), bare.membership[:1])
    mixed = [noisy_view(draw), bare, noisy_view(draw)]
    found, plain = gather(moved(mixed, device), COUNT, MIN_WEIGHT), Plain.gather(mixed, COUNT, MIN_WEIGHT)
    assert np.array_equal(found.view, plain.view) and 1 not in found.view
    everything = sparse.csr_matrix(np.ones((COUNT, 1), np.float32))
    assert np.allclose(found.matches(everything, 0.5)[1], plain.matches(everything, 0.5)[1], rtol=2e-5)
    assert np.allclose(found.masked(everything), plain.masked(everything), rtol=2e-5)
    assert found.masked(everything)[0, 1] == 0 < found.shown(everything)[0, 1]


def test_bfloat16_terms_sum_to_the_weights_exactly() -> None:
    values = torch.cat([torch.rand(10_000), torch.tensor([0.0, 1.0, 1 / 3, 1 - 2.0**-24, 2.0**-60, 1e30])])
    assert torch.equal(sum(term.double() for term in bfloat16_terms(values)), values.double())


def test_products_are_summed_in_float32(device: torch.device) -> None:
    """3001 ones: bfloat16 would say 3008, or stop at 256."""
    ones = torch.ones(3001, 1, dtype=torch.bfloat16, device=device)
    found = product(ones.T, ones)
    assert found.dtype == torch.float32 and float(found) == 3001


def test_rows_of_a_sparse_matrix(device: torch.device) -> None:
    """A row without entries first, in the middle and last; a range of rows and of columns; rows chosen twice."""
    row, column = torch.tensor([3, 1, 3, 1]), torch.tensor([0, 4, 2, 1])
    values = torch.tensor([5.0, 6.0, 7.0, 8.0])
    rows = Rows.of(row.to(device), column.to(device), (5, 6), values.to(device))
    table = torch.zeros(5, 6)
    table[row, column] = values
    assert torch.equal(rows.dense(0, 5, torch.float32).cpu(), table)
    assert torch.equal(rows.dense(1, 4, torch.float32, (1, 3)).cpu(), table[1:4, 1:3])
    assert torch.equal(rows.dense(2, 2, torch.float32).cpu(), table[2:2])
    chosen = torch.tensor([3, 0, 3, 1])
    assert torch.equal(rows.select(chosen.to(device)).dense(0, 4, torch.float32).cpu(), table[chosen])


def test_evidence_takes_no_memory_of_gaussians_that_a_view_does_not_see() -> None:
    """Row offsets of a matrix per view took 8 bytes for each Gaussian and view, half of all that was held."""
    draw = np.random.default_rng(3)
    pools = [noisy_view(draw) for _ in range(8)]
    few = SparseEvidence.gather(pools, COUNT, MIN_WEIGHT)
    tracemalloc.start()
    many = SparseEvidence.gather(pools, 100 * COUNT, MIN_WEIGHT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(many.masks[:COUNT].toarray(), few.masks.toarray()) and many.masks.nnz == few.masks.nnz
    assert np.array_equal(many.seen[:COUNT].toarray(), few.seen.toarray())
    assert peak < 8 * 100 * COUNT * len(pools), "less than those offsets alone"
