"""Metrics against brute force, and at their edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splatseg.core.errors import SplatsegError
from splatseg.evaluate.metrics import accuracy, best_threshold, boundary_iou, iou


def brute_force(scores: torch.Tensor, truth: torch.Tensor) -> float:
    cuts = torch.cat([scores.flatten(), torch.tensor([-math.inf])])
    return max(iou(scores > cut, truth) for cut in cuts)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 300), st.sampled_from([0, 1, 2, 5]), st.floats(0.0, 1.0))
def test_best_threshold_is_exact(seed: int, count: int, digits: int, quality: float) -> None:
    """Random scores and truth; ``digits`` makes ties (0 digits: two or three values only)."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(count, generator=generator) < 0.3
    truth[int(torch.randint(count, (1,), generator=generator))] = True
    noise = torch.rand(count, generator=generator)
    scores = torch.round(quality * truth.float() + (1 - quality) * noise, decimals=digits)
    best = best_threshold(scores, truth)
    assert best.iou == pytest.approx(brute_force(scores, truth), abs=1e-12)
    assert iou(scores > best.threshold, truth) == pytest.approx(best.iou, abs=1e-12)  # the threshold reaches it


def test_best_threshold_with_one_distinct_score_selects_everything() -> None:
    truth = torch.tensor([True, False, False, False])
    best = best_threshold(torch.full((4,), 0.5), truth)
    assert best.iou == 0.25 and best.threshold < 0.5


def test_best_threshold_sees_a_gap_that_its_bins_do_not() -> None:
    """Two scores closer than a bin apart: the exact pass must still cut between them."""
    scores = torch.tensor([-1.0, 0.5, torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)), 1.0])
    best = best_threshold(scores, torch.tensor([False, False, True, True]))
    assert best.iou == 1.0 and best.threshold == 0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_best_threshold_rejects_poison_and_empty_truth(bad: float) -> None:
    with pytest.raises(SplatsegError, match="scores: expected finite"):
        best_threshold(torch.tensor([0.0, bad]), torch.tensor([True, False]))
    with pytest.raises(SplatsegError, match="truth: expected at least one"):
        best_threshold(torch.zeros(2), torch.zeros(2, dtype=torch.bool))


def test_iou_and_accuracy() -> None:
    a = torch.tensor([True, True, False, False])
    b = torch.tensor([True, False, True, False])
    assert iou(a, b) == pytest.approx(1 / 3) and accuracy(a, b) == 0.5
    empty = torch.zeros(4, dtype=torch.bool)
    assert iou(empty, empty) == 1.0 and iou(empty, a) == 0.0
    with pytest.raises(SplatsegError, match="predicted"):
        iou(a[:3], b)


def test_boundary_iou_counts_only_the_rim() -> None:
    """A hole in the middle of a large disc barely changes its IoU, and its rim not at all where the band ends short
    of it."""
    rows, columns = torch.meshgrid(torch.arange(100), torch.arange(100), indexing="ij")
    radius = ((rows - 50) ** 2 + (columns - 50) ** 2).float().sqrt()
    disc = radius < 40
    assert boundary_iou(disc, disc) == 1.0
    assert boundary_iou(disc, torch.zeros_like(disc)) == 0.0
    shifted = disc.roll(3, dims=1)
    assert boundary_iou(disc, shifted) < iou(disc, shifted)  # the rim suffers more than the area


def test_boundary_iou_of_known_shapes() -> None:
    """Squares in 150 x 200 pixels: the diagonal is 250, so that the bands are five pixels wide; areas by hand."""

    def square(top: int, left: int, side: int) -> torch.Tensor:
        mask = torch.zeros(150, 200, dtype=torch.bool)
        mask[top : top + side, left : left + side] = True
        return mask

    big, ring = square(40, 40, 60), 60**2 - 50**2
    assert boundary_iou(big, square(45, 45, 50)) == 0.0 < iou(big, square(45, 45, 50))  # the bands only touch
    assert boundary_iou(big, square(42, 42, 56)) == pytest.approx((56**2 - 50**2) / (ring + 50**2 - 46**2))
    shared = (
        2 * 55 * 5
    )  # moved right by a band's width: upper and lower sides overlap over 55 columns, the others never
    assert boundary_iou(big, square(40, 45, 60)) == pytest.approx(shared / (2 * ring - shared))
    corner = square(0, 0, 60)  # the image's edge counts as outside
    assert boundary_iou(corner, square(40, 40, 60)) < boundary_iou(corner, square(0, 0, 58)) < 1
    assert boundary_iou(square(0, 0, 4), square(0, 0, 4)) == 1.0  # thinner than the band: all of it is border


def test_boundary_band_follows_the_authors_erosion() -> None:
    """The band equals mask minus d erosions with a 3x3 square, image border as outside."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(40, 60, generator=generator) < 0.95
    distance = max(1, round(0.02 * math.hypot(40, 60)))
    eroded = mask.clone()
    for _ in range(distance):
        padded = torch.nn.functional.pad(eroded.float()[None, None], [1] * 4)
        eroded = -torch.nn.functional.max_pool2d(-padded, 3, 1)[0, 0] > 0.5
    band = mask & ~eroded
    other = torch.zeros_like(mask)
    other[:20] = True
    other_eroded = torch.zeros_like(other)
    other_eroded[distance : 20 - distance, distance:-distance] = True
    assert boundary_iou(mask, other) == pytest.approx(iou(band, other & ~other_eroded))
