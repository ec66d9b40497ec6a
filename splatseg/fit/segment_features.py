"""Segments -> features: codes on the sphere whose distances follow the nesting of the segments.

The Gaussians that lie in the same segments make a *pattern*; a splat has some hundreds. One code a pattern is wanted,
so that from any pattern, for any segment around it, everything inside scores higher than anything outside: then some
threshold selects exactly that segment. With so few unknowns the condition itself is optimized, a margin between the
lowest score inside and the highest outside, in place of a surrogate over pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.field import unit_features
from splatseg.core.segments import Segments
from splatseg.ops.adam import AdamConfig, adam_
from splatseg.ops.repeated import StepNumbers, repeat

WEIGHT_POWER = 0.6  # by which what fills few pixels counts less; 1: as much as it fills, 0: all the same


@dataclass(frozen=True)
class SegmentFeatureConfig:
    """How patterns are laid out on the sphere.

    Attributes:
        steps: steps of Adam, at rate ``lr`` falling to 2 % of it.
        margin: wanted distance between the lowest cosine inside a segment and the highest outside.
        sharpness: of the smooth minimum, maximum and hinge; smaller gives codes of small parts that coincide.
        patterns: at most so many of those in segments that views confirm, those that fill most of the pixels, shape the
            codes (regions do beside them, all of them); the others follow from them.
            Patterns beyond the real ones are borders of masks that do not quite agree: their wishes cost the others.
    """

    steps: int = 400
    lr: float = 0.05
    margin: float = 0.2
    sharpness: float = 20.0
    patterns: int = 200

    def __post_init__(self) -> None:
        if self.steps < 1 or self.patterns < 1:
            raise SplatsegError(
                f"segment_features.steps, patterns: expected at least 1, found {self.steps} and {self.patterns}"
            )
        if not (self.margin > 0 and self.sharpness > 0 and self.lr > 0):
            raise SplatsegError("segment_features.margin, sharpness, lr: expected values above 0")


def segment_features(
    segments: Segments,
    dim: int,
    config: SegmentFeatureConfig = SegmentFeatureConfig(),
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """(n, dim) float32 features of length 1 (0 for Gaussians in no segment), computed on ``device``.

    A Gaussian's feature is the normalized sum of the codes of its segments, so that what lies in nearly the same
    segments has nearly the same feature.
    """
    if not len(segments):
        return torch.zeros(len(segments.weights), dim, device=device)
    pattern, table = segments.patterns
    weight = segments.pattern_weights()
    weight[~table.any(axis=1)] = 0
    order = np.argsort(-weight, kind="stable")
    order = order[weight[order] > 0]
    confirmed = table[order][:, segments.views > 0].any(axis=1)
    chosen = np.concatenate([order[confirmed][: config.patterns], order[~confirmed]])
    if not len(chosen):
        return torch.zeros(len(segments.weights), dim, device=device)
    inside, shares = torch.from_numpy(table[chosen]).to(device), torch.from_numpy(weight[chosen]).float().to(device)
    codes = fit_nested_features(inside, shares, dim, config, seed)
    return unit_features(torch.from_numpy(table).to(device).float() @ codes)[torch.from_numpy(pattern).to(device)]


def fit_nested_features(inside: Tensor, weights: Tensor, dim: int, config: SegmentFeatureConfig, seed: int) -> Tensor:
    """(s, dim) codes of segments for which the normalized sums over ``inside`` (k, s) bool are laid out as above.

    Args:
        inside: segments of each pattern; its device is where the codes are found.
        weights: (k,) how much of the pixels a pattern fills, > 0; counts by its power :data:`WEIGHT_POWER`, so that
            small parts do.
        dim: channels.
        config: settings.
        seed: of the first codes.
    """
    device = inside.device
    first = torch.randn(inside.shape[1], dim, generator=torch.Generator().manual_seed(seed))
    codes = first.to(device).requires_grad_()
    anchor, segment = inside.nonzero().unbind(1)
    member = inside[:, segment].T
    low_mask = torch.where(member, 0.0, -torch.inf)
    high_mask = torch.where(member, -torch.inf, 0.0).clamp_min(-1e9)  # finite: a segment may hold all patterns
    share = weights.pow(WEIGHT_POWER)[anchor]
    share = share / share.sum()
    table = inside.float()

    def loss() -> Tensor:
        unit = F.normalize(table @ codes, dim=1)
        cosines = (config.sharpness * (unit @ unit.T))[anchor]
        lowest = -torch.logsumexp(low_mask - cosines, dim=1)
        highest = torch.logsumexp(cosines + high_mask, dim=1)
        return (share * F.softplus(highest - lowest + config.sharpness * config.margin)).sum() / config.sharpness

    adam = AdamConfig(lr=config.lr)
    falls = [0.02 + 0.5 * (1 + math.cos(math.pi * step / config.steps)) for step in range(config.steps)]
    rates = [adam.rates(step + 1, config.lr * fall) for step, fall in enumerate(falls)]
    numbers = StepNumbers(torch.tensor(rates, dtype=torch.float64), device)
    moments = (torch.zeros_like(first, device=device), torch.zeros_like(first, device=device))

    def step() -> None:
        (grad,) = torch.autograd.grad(loss(), codes)
        adam_(codes.detach(), moments, grad, numbers.next(), adam)

    repeat(step, config.steps, codes)
    return codes.detach()
