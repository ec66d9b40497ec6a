"""Level proposals: the thresholds at which a click's selection is stable, from part to group.

Let V(theta) be the surface selected within the angle theta of the query (theta = arccos of the score). Where the field
holds a hierarchy, V climbs steeply while one thing is being swallowed and rests when it is whole, until the next larger
thing begins: stable selections are the valleys of the growth rate d log V / d theta, as maximally stable extremal
regions (Matas et al. 2002) are for grey values. The valleys are ranked by topological persistence: how far the
growth rate must rise before one reaches a deeper valley. Angles, not cosines: parts of an object differ by small
angles, whose cosines are all close to 1. Selections of one query at falling thresholds contain one another, so the
levels are nested.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from splatseg.errors import SplatsegError, check_dims
from splatseg.gaussians import Gaussians
from splatseg.selection.scores import Scores


@dataclass(frozen=True)
class LevelConfig:
    """How levels are proposed.

    Attributes:
        at_least, at_most: number of proposals, as far as the scores hold so many.
        bins: resolution of the angle axis over [0, pi].
        smoothing: standard deviation of the smoothing of the growth rate, radians.
        growth: a level selects at least so many times as much as the one below it.
        stability: persistence that any level past ``at_least`` must have (natural-log units of the growth rate).
        smallest: share of the splat's surface below which nothing is proposed.
        largest: share above which nothing is proposed (the whole scene is no answer to a click).
    """

    at_least: int = 2
    at_most: int = 5
    bins: int = 1024
    smoothing: float = 0.02
    growth: float = 1.15
    stability: float = 0.5
    smallest: float = 1e-5
    largest: float = 0.95

    def __post_init__(self) -> None:
        if not 1 <= self.at_least <= self.at_most:
            raise SplatsegError(f"levels: expected 1 <= at_least <= at_most, found {self.at_least} and {self.at_most}")
        if self.bins < 16 or self.smoothing <= 0 or self.growth < 1:
            raise SplatsegError(
                "levels: expected bins >= 16, smoothing > 0 and growth >= 1, "
                f"found {self.bins}, {self.smoothing} and {self.growth}"
            )


@dataclass(frozen=True)
class Level:
    """One proposed selection: ``scores.above(threshold)``.

    Attributes:
        threshold: score in [-1, 1].
        share: selected share of the splat's surface, in (0, 1].
        stability: persistence of its valley, in natural-log units of the growth rate; larger is more stable.
    """

    threshold: float
    share: float
    stability: float


def surface_weights(gaussians: Gaussians) -> Tensor:
    """(n,) share of the splat's surface that each Gaussian stands for: opacity x the area of its two longest axes.

    The largest 0.1 % are cut to the same area: a handful of huge sky or backdrop Gaussians would drown all else.
    """
    longest = gaussians.log_scales.detach().topk(2, dim=1).values
    area = longest.sum(1).exp()
    if len(area):
        area = area.clamp(max=float(area.kthvalue(max(1, round(0.999 * len(area)))).values))
    weights = gaussians.opacities.detach() * area
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def propose_levels(scores: Scores, weights: Tensor, config: LevelConfig | None = None) -> tuple[Level, ...]:
    """Propose nested selections for one query, the smallest first.

    Args:
        scores: what the clicks gave.
        weights: (n,) surface of each Gaussian (:func:`surface_weights`).

    Returns:
        ``at_least`` to ``at_most`` levels of rising share and falling threshold; fewer where the scores hold fewer
        distinct selections (a field of one value has one).

    Raises:
        SplatsegError: the weights are of another splat, or all zero.
    """
    config = config or LevelConfig()
    check_dims("weights", weights, (scores.values.shape[0],))
    total = float(weights.sum())
    if not total > 0:
        raise SplatsegError(f"weights: expected a positive sum, found {total}")
    share = _share_within(scores.values, weights / total, config.bins)
    rate = _growth_rate(share, config)
    allowed = (share >= config.smallest) & (share <= config.largest)
    valleys = [(bin_, rise) for bin_, rise in valleys_by_persistence(rate) if allowed[bin_]]
    picked: list[tuple[int, float]] = []
    for bin_, rise in valleys:
        if rise < config.stability and len(picked) >= config.at_least:
            break
        sizes = [share[other] for other, _ in picked]
        if all(max(share[bin_], size) >= config.growth * min(share[bin_], size) for size in sizes):
            picked.append((bin_, rise))
        if len(picked) == config.at_most:
            break
    if not picked:
        picked = [(int(np.argmax(share > 0)), 0.0)]
    edges = np.cos(np.linspace(0, np.pi, config.bins + 1))
    return tuple(Level(float(edges[b + 1]), float(share[b]), float(rise)) for b, rise in sorted(picked))


def valleys_by_persistence(rate: np.ndarray) -> list[tuple[int, float]]:
    """Local minima of ``rate`` (b,) with their persistence, most persistent first.

    Sublevel-set persistence in one dimension: bins enter from the lowest up, neighbouring components join, and
    where two meet the one with the higher minimum dies; its persistence is the height of the meeting less its own
    minimum. The lowest minimum never dies and is given the whole range. A plateau counts once, by its middle bin.
    """
    parent = np.full(len(rate), -1, dtype=np.int64)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    deaths: dict[int, float] = {}
    for i in map(int, np.argsort(rate, kind="stable")):
        parent[i] = i
        for j in (i - 1, i + 1):
            if not (0 <= j < len(rate)) or parent[j] < 0:
                continue
            older, younger = sorted((root(i), root(j)), key=lambda k: (rate[k], k))
            if older != younger:
                parent[younger] = older
                if rate[i] > rate[younger]:
                    deaths[younger] = float(rate[i] - rate[younger])
    lowest = root(0)
    deaths[lowest] = float(rate.max() - rate.min())
    found = [(_middle(rate, k), rise) for k, rise in deaths.items()]
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _middle(rate: np.ndarray, start: int) -> int:
    """Middle of the run of bins equal to ``rate[start]`` that begins at ``start``."""
    end = start
    while end + 1 < len(rate) and rate[end + 1] == rate[start]:
        end += 1
    return (start + end) // 2


def _share_within(values: Tensor, weights: Tensor, bins: int) -> np.ndarray:
    """(bins,) float64 share of the weight within each bin's upper angle of the query."""
    angles = values.clamp(-1, 1).acos()
    index = (angles * (bins / np.pi)).long().clamp_(0, bins - 1)
    mass = torch.bincount(index, weights=weights, minlength=bins).double()
    return mass.cumsum(0).cpu().numpy()


def _growth_rate(share: np.ndarray, config: LevelConfig) -> np.ndarray:
    """(bins,) log of the smoothed growth rate d log V / d theta, floored where nothing grows."""
    step = np.pi / config.bins
    log_share = np.log(np.maximum(share, config.smallest * 1e-2))
    growth = np.diff(log_share, prepend=log_share[0])
    radius = int(np.ceil(3 * config.smoothing / step))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) * step / config.smoothing) ** 2)
    padded = np.pad(growth, radius, mode="reflect")
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="valid") / step
    return np.log(np.maximum(smooth, 1e-2))
