"""From a query to scores, to selections, to masks in the views.

The score of a feature f for positive clicks p and negative clicks q (all unit vectors):

    inside  = max_p f.p           outside = max_q f.q
    gate    = sigmoid((inside - outside) / (0.1 * gap)),  gap = 1 - max_{p,q} p.q   (1 without negative clicks)
    score   = gate * (inside + 1) - 1                                              in [-1, 1]

Without negative clicks this is the cosine to the nearest positive click, the paper's score. A negative click pulls
down what is nearer to it than to a positive click, however the threshold is set, and leaves alone what was far from
it anyway: the width of the transition follows the gap between the clicks, so that two parts of one object (whose
features are close) are told apart as sharply as two objects. The score rises with ``inside`` and falls with
``outside``, always.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import splatseg.render as rendering
from splatseg.camera import Camera
from splatseg.errors import SplatsegError
from splatseg.field import FeatureField, unit_features
from splatseg.gaussians import Gaussians
from splatseg.selection.clicks import EMPTY_ALPHA, Query
from splatseg.selection.sets import Selection

GATE_WIDTH = 0.1  # of the gap between positive and negative clicks
MIN_GAP = 1e-3  # clicks on the same thing: the gate stays finite


@dataclass(frozen=True, eq=False)
class Scores:
    """``values`` (n,) float32 in [-1, 1]: how much each Gaussian is inside what was clicked. Thresholds reuse it."""

    values: Tensor

    def above(self, threshold: float) -> Selection:
        """The Gaussians that score more than ``threshold``.

        Raises:
            SplatsegError: the threshold is not in [-1, 1].
        """
        return Selection(self.values > check_threshold(threshold))


def check_threshold(threshold: float) -> float:
    """``threshold`` itself if it lies in [-1, 1].

    Raises:
        SplatsegError: it does not, or is not a number.
    """
    if not -1 <= threshold <= 1:
        raise SplatsegError(f"threshold: expected a value in [-1, 1], found {threshold}")
    return threshold


def score_features(unit: Tensor, query: Query) -> Tensor:
    """Scores (...,) in [-1, 1] of unit features (..., d); see the module's docstring. Zero features score 0 or less."""
    inside = _nearest(unit, query.positive)
    if len(query.negative) == 0:
        return inside
    gap = max(1 - float((query.positive @ query.negative.T).max()), MIN_GAP)
    outside = _nearest(unit, query.negative)
    gate = outside.neg_().add_(inside).div_(GATE_WIDTH * gap).sigmoid_()
    return inside.add_(1).mul_(gate).sub_(1)


def scores(field: FeatureField, query: Query) -> Scores:
    """Score every Gaussian of ``field``: one matrix product over the precomputed unit features."""
    return Scores(score_features(field.unit, query))


def pixel_scores(gaussians: Gaussians, field: FeatureField, camera: Camera, query: Query) -> Tensor:
    """(h, w) float32 scores of a view's pixels, by their rendered features; -1 where the view shows empty space."""
    rendered = rendering.render(gaussians, camera, field.features)
    assert rendered.features is not None
    values = score_features(unit_features(rendered.features), query)
    return torch.where(rendered.alpha < EMPTY_ALPHA, values.new_tensor(-1.0), values)


def project_selection(gaussians: Gaussians, selection: Selection, camera: Camera) -> Tensor:
    """(h, w) bool: the pixels of a view that show the selection, i.e. at least half of what is blended there is
    selected.

    Raises:
        SplatsegError: the selection is of another splat.
    """
    if selection.mask.shape[0] != len(gaussians):
        raise SplatsegError(
            f"selection: expected one of {len(gaussians)} Gaussians, found one of {selection.mask.shape[0]}"
        )
    indicator = selection.mask.to(gaussians.device, gaussians.means.dtype)[:, None]
    rendered = rendering.render(gaussians, camera, indicator)
    assert rendered.features is not None
    return (rendered.features[..., 0] >= 0.5 * rendered.alpha) & (rendered.alpha >= EMPTY_ALPHA)


def _nearest(unit: Tensor, clicked: Tensor) -> Tensor:
    """Cosine to the most similar of ``clicked`` (k, d), clamped against rounding past 1."""
    if len(clicked) == 1:
        return (unit @ clicked[0]).clamp_(-1, 1)
    return (unit @ clicked.T).max(-1).values.clamp_(-1, 1)
