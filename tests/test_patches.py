"""The patch op against its PyTorch specification, the published vectors, and laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.masks import MaskSet
from splatseg.ops import extension
from splatseg.ops.levels import votes as count_votes
from splatseg.ops.patches import patches
from splatseg.ops.reference import levels as reference_levels
from splatseg.ops.reference import patches as reference

needs_op = pytest.mark.skipif(not extension.compiled(), reason="splatseg._C is not built")


def runs_of(masks: np.ndarray) -> tuple[Tensor, Tensor]:
    """Concatenated run lengths and offsets of (n, h, w) masks."""
    counts = MaskSet.from_dense(masks).counts
    joined = np.concatenate([np.zeros(0, np.uint32), *counts]).astype(np.int32)
    return torch.from_numpy(joined), torch.tensor([0, *np.cumsum([len(c) for c in counts])], dtype=torch.int64)


def rectangles(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, height, width), bool)
    for mask in masks:
        top, left = rng.integers(0, height), rng.integers(0, width)
        mask[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)] = True
    return masks


def by_area(masks: np.ndarray) -> np.ndarray:
    return masks[np.argsort(masks.sum((1, 2)), kind="stable")]


NOISE = np.random.default_rng(5).random((6, 9, 11)) < 0.5
CASES = {
    "no masks": np.zeros((0, 5, 7), bool),
    "one empty mask": np.zeros((1, 5, 7), bool),
    "one full mask": np.ones((1, 5, 7), bool),
    "one pixel": np.ones((2, 1, 1), bool),
    "one row": rectangles(5, 1, 40),
    "one column": rectangles(5, 40, 1),
    "first and last pixel": np.eye(2, dtype=bool)[None].repeat(2, 0),
    "one-pixel patches": NOISE,
    "the same mask twice": rectangles(3, 6, 6)[[0, 1, 1, 2]],
    "64 masks fill a word": rectangles(64, 20, 30),
    "65 masks need two": rectangles(65, 20, 30),
    "more than 512 masks": rectangles(520, 16, 24),
    "more patches than the first table holds": np.random.default_rng(2).random((30, 64, 64)) < 0.5,
}


@needs_op
@pytest.mark.parametrize("nesting", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_specification(case: str, nesting: float):
    masks = by_area(CASES[case])
    if len(masks) > 500 and nesting < 1:
        masks = masks[:130]  # the specification compares every pair at full size
    counts, offsets = runs_of(masks)
    size = masks.shape[1:]
    ids, membership = patches(counts, offsets, *size, nesting)
    expected_ids, expected_membership = reference.patches(counts, offsets, *size, nesting)
    assert torch.equal(ids, expected_ids)
    assert torch.equal(membership, expected_membership)
    assert torch.equal(count_votes(membership), reference_levels.votes(membership, torch.arange(len(membership))))


@pytest.mark.parametrize("case", CASES)
def test_patches_partition_the_image_by_membership(case: str):
    masks = CASES[case]
    counts, offsets = runs_of(masks)
    ids, membership = patches(counts, offsets, *masks.shape[1:])
    bits = reference.unpack_bits(membership)
    # Every pixel's patch lies in exactly the masks the pixel lies in; rows are distinct, so patches are maximal.
    assert torch.equal(bits[ids.long()][..., : len(masks)].permute(2, 0, 1), torch.from_numpy(masks))
    assert not bits[:, len(masks) :].any() and not bits[0].any()
    assert len(torch.unique(membership, dim=0)) == len(membership)
    used = torch.bincount(ids.flatten(), minlength=len(membership))
    assert bool((used[1:] > 0).all()) and int(used.sum()) == ids.numel()


@pytest.mark.parametrize("case", CASES)
def test_votes_are_symmetric_and_their_diagonal_counts_masks(case: str):
    masks = CASES[case]
    counts, offsets = runs_of(masks)
    ids, membership = patches(counts, offsets, *masks.shape[1:])
    votes = count_votes(membership)
    assert torch.equal(votes, votes.T)
    covered = torch.from_numpy(masks.sum(0)).to(torch.int32)
    assert torch.equal(votes.diagonal()[ids.long()], covered)
    assert int(votes[0].sum()) == 0


@pytest.mark.parametrize("name", ["covered", "dim32", "dim4", "nested", "tiny", "typical", "wide"])
def test_published_patches_and_votes(vectors_dir: Path, name: str):
    """Equal up to relabeling, with absorption above 90 % by area; the published ids start at 0 even where every pixel
    is covered, ours at 1 there."""
    content = np.load(vectors_dir / f"{name}.npz")
    n, height, width = (int(v) for v in content["masks_shape"])
    masks = np.unpackbits(content["masks"], axis=-1)[..., :width].astype(bool).reshape(n, height, width)
    ids, membership = patches(*runs_of(by_area(masks)), height, width, 0.9)
    published = torch.from_numpy(content["patch_ids"]).long()
    pairs = torch.unique(torch.stack([published.flatten(), ids.flatten().long()], 1), dim=0)
    assert pairs[:, 0].tolist() == list(range(len(content["votes"])))  # one of ours for each of theirs
    assert len(pairs[:, 1].unique()) == len(pairs)  # and back
    assert torch.equal(count_votes(membership[pairs[:, 1]]).long(), torch.from_numpy(content["votes"]))


def absorbed_areas(masks: np.ndarray) -> list[int]:
    """Pixels of each (h, w) mask after absorption above 90 %, read off the membership."""
    ids, membership = patches(*runs_of(masks), *masks.shape[1:], 0.9)
    return reference.unpack_bits(membership)[ids.long()].sum((0, 1))[: len(masks)].tolist()


def test_a_mask_absorbs_what_it_nearly_covers_and_what_that_absorbed():
    masks = np.zeros((4, 1, 100), bool)
    masks[0, 0, 0:10] = True
    masks[1, 0, 0:20] = True  # covers all of mask 0
    masks[2, 0, 1:40] = True  # covers 90 % of mask 0, which is not more than 90 %, but 95 % of mask 1, and so gets both
    masks[3, 0, 22:95] = True  # covers 45 % of mask 2
    assert absorbed_areas(masks) == [10, 20, 40, 73]
    assert absorbed_areas(masks[[0, 2]]) == [10, 39]


def test_absorption_sees_masks_as_they_have_grown():
    masks = np.zeros((3, 1, 100), bool)
    masks[0, 0, 0:20] = True
    masks[1, 0, 15:36] = True  # covers 25 % of mask 0
    masks[2, 0, 1:35] = True  # covers 95 % of mask 0; of mask 1 20 / 21 = 95 %: gets both
    assert absorbed_areas(masks) == [20, 21, 36]
    masks[1, 0, 0] = True
    masks[2, 0, 33:35] = False  # of mask 1, 18 / 22 before and 19 / 22 = 86 % after it got mask 0's first pixel
    assert absorbed_areas(masks) == [20, 22, 33]
    masks[1, 0, 34:36] = False  # 18 / 20 = 90 % of mask 1 before, 19 / 20 = 95 % after
    assert absorbed_areas(masks) == [20, 20, 34]


def test_areas_beyond_a_float_are_exact():
    """The share is compared in double: a patch of 2^24 + 1 pixels would lose its last pixel in float32."""
    size = 2**24 + 1
    counts = torch.tensor([0, size, 0, size - 1, 1], dtype=torch.int32)
    offsets = torch.tensor([0, 2, 5])
    ids, membership = patches(counts, offsets, 1, size, 0.9999999999)
    assert len(membership) == 3  # neither covers the other wholly in order: mask 1 lacks a pixel of mask 0
    assert int((ids == 2).sum()) == 1


@pytest.mark.parametrize(
    ("counts", "offsets", "message"),
    [
        ([5, 4], [0, 2], "runs of mask 0 to sum to 10, found 9"),
        ([10, 5, 6], [0, 1, 3], "runs of mask 1 to sum to 10, found 11"),
        ([11, -1], [0, 2], "run lengths >= 0, found -1"),
        ([10], [0, 2], "ascending positions from 0 to 1"),
        ([10, 10], [0, 2, 1, 2], "ascending positions"),
        ([10], [1], "ascending positions"),
    ],
)
def test_bad_runs_are_refused_before_they_are_followed(counts, offsets, message):
    with pytest.raises(SplatsegError, match=message):
        patches(torch.tensor(counts, dtype=torch.int32), torch.tensor(offsets), 2, 5)
    if extension.compiled():
        with pytest.raises(RuntimeError, match="patches: expected run lengths"):
            torch.ops.splatseg.patches(torch.tensor(counts, dtype=torch.int32), torch.tensor(offsets), 2, 5, 1.0)


@pytest.mark.parametrize("nesting", [0.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(nesting: float):
    with pytest.raises(SplatsegError, match="nesting"):
        patches(torch.tensor([4], dtype=torch.int32), torch.tensor([0, 1]), 2, 2, nesting)


@needs_op
def test_opcheck():
    counts, offsets = runs_of(rectangles(9, 8, 9))
    # Faketensor checks only: the ops have no gradient.
    torch.library.opcheck(torch.ops.splatseg.patches, (counts, offsets, 8, 9, 0.9))
    torch.library.opcheck(torch.ops.splatseg.votes, (torch.randint(0, 2**40, (7, 3)), torch.tensor([6, 0, 6])))


def test_votes_of_membership_on_any_device(device: torch.device):
    membership = torch.randint(-(2**62), 2**62, (9, 3), generator=torch.Generator().manual_seed(0)).to(device)
    bits = reference.unpack_bits(membership).cpu().long()
    assert torch.equal(count_votes(membership).cpu().long(), bits @ bits.T)
