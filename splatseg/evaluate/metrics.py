"""Measures on masks and images. All of them take tensors and return plain floats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims

SCORE_BINS = 4096  # resolution of the first pass of best_threshold; the result does not depend on it


def iou(predicted: Tensor, truth: Tensor) -> float:
    """Intersection over union of two bool masks of one shape; 1 where both are empty."""
    check_dims("predicted", predicted, tuple(truth.shape))
    union = int((predicted | truth).sum())
    return int((predicted & truth).sum()) / union if union else 1.0


def accuracy(predicted: Tensor, truth: Tensor) -> float:
    """Share of pixels on which two bool masks of one shape agree (NVOS' second number)."""
    check_dims("predicted", predicted, tuple(truth.shape))
    return float((predicted == truth).float().mean())


def boundary_iou(predicted: Tensor, truth: Tensor, dilation_ratio: float = 0.02) -> float:
    """IoU of the inner boundary bands of two (h, w) bool masks (Cheng et al., CVPR 2021); 1 where both are empty.

    A band holds the mask's pixels within d = round(dilation_ratio x image diagonal), at least 1, of the outside;
    the image's border counts as outside, as in the authors' code. Their erosion with a 3x3 square is applied d
    times: one maximum filter of width 2 d + 1 here.
    """
    check_dims("predicted", predicted, tuple(truth.shape))
    check_dims("truth", truth, ("h", "w"))
    distance = max(1, round(dilation_ratio * math.hypot(*truth.shape)))
    return iou(_band(predicted, distance), _band(truth, distance))


@dataclass(frozen=True)
class Best:
    """The best that thresholding can do: {score > threshold} has this ``iou`` with the truth."""

    iou: float
    threshold: float


def best_threshold(scores: Tensor, truth: Tensor) -> Best:
    """The highest IoU of {scores > t} with ``truth`` over all thresholds t, exactly.

    Args:
        scores: finite floats of any shape.
        truth: bool, the same shape, not all False.

    Returns:
        The IoU and a threshold that reaches it: the largest score left out (just below the smallest where none is).

    Only the highest scores are sorted: k selected values cannot do better than ``truth.sum() / k``, so that
    whatever lies beyond ``truth.sum() / b`` values is out of the race, where b is the best IoU among ``SCORE_BINS``
    fixed thresholds.

    Raises:
        SplatsegError: shapes differ, nothing is true, or a score is not finite.
    """
    check_dims("scores", scores, tuple(truth.shape))
    values, labels = scores.flatten(), truth.flatten()
    positives = int(labels.sum())
    if positives == 0:
        raise SplatsegError("truth: expected at least one true pixel, found none")
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise SplatsegError(f"scores: expected finite values, found a range of {low} to {high}")
    values, labels = _contenders(values, labels, positives, low, high)
    ordered, order = values.sort(descending=True)
    hits = labels[order].cumsum(0).double()
    taken = torch.arange(1, len(ordered) + 1, dtype=torch.float64, device=values.device)
    # Equal scores are selected together or not at all: only the last of a run is a cut.
    ious = hits / (positives + taken - hits)
    ious[:-1][ordered[1:] == ordered[:-1]] = -1
    cut = int(ious.argmax())
    below = ordered[cut + 1] if cut + 1 < len(ordered) else torch.nextafter(ordered[cut], ordered.new_tensor(-math.inf))
    return Best(float(ious[cut]), float(below))


def _contenders(values: Tensor, labels: Tensor, positives: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The scores that may be selected by the best threshold, and the one just below them where there is one."""
    if high <= low:
        return values, labels
    bins = ((values - low) * (SCORE_BINS / (high - low))).long().clamp_(0, SCORE_BINS - 1)
    taken = torch.bincount(bins, minlength=SCORE_BINS).flip(0).cumsum(0).double()
    hits = torch.bincount(bins[labels], minlength=SCORE_BINS).flip(0).cumsum(0).double()
    bound = float((hits / (positives + taken - hits)).max())
    # Bins from the top: the first whose end lies past the bound still holds the cut at the bound; one more for "below".
    last = min(int((taken * bound <= positives).sum()) + 1, SCORE_BINS - 1)
    keep = bins >= SCORE_BINS - 1 - last
    # Empty bins may have swallowed the spare one: take the largest value below, too.
    rest = values[~keep]
    if len(rest) == 0:
        return values, labels
    spare = rest.argmax()
    return (
        torch.cat([values[keep], rest[spare][None]]),
        torch.cat([labels[keep], labels[~keep][spare][None]]),
    )


def _band(mask: Tensor, distance: int) -> Tensor:
    outside, side = F.pad((~mask).float()[None, None], [distance] * 4, value=1.0), 2 * distance + 1
    rows = F.max_pool2d(outside, (1, side), stride=1)  # a square's maximum is one of rows and then one of columns
    return mask & (F.max_pool2d(rows, (side, 1), stride=1)[0, 0] > 0)
