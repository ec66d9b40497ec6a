"""Where a capture is cut: planes across the axes in which its points are spread, each where little lies.

Regions hold about equally many points, as Gaussians will lie where points do, and it is Gaussians that take memory.
VastGaussian (Lin et al., CVPR 2024, section 4.1) shares cameras evenly, on a ground plane that it is given: over a city
that is the same, but beside a wall all cameras may stand on one side of all that they see. The axes are the points'
own, so that a capture that is moved, turned or scaled has the same blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.fit.geometry.region import HalfSpace, Region, along

LEAST_POINTS = 10  # of a region's own
WINDOW = 0.2  # of the smaller side's points: so far a cut may leave the balance for a place where less lies
TRIED = 65  # places of a cut
SMOOTHED = 0.02  # of the points' spread: the width in which they count as lying at a cut
OVERLAP = 0.2  # of the width of one side: how far a block sees beyond its own region, as in VastGaussian
ROUND = 0.999  # ratio of two variances from which on there is no first axis
STRAY = 0.02  # quantile of the points that are no measure of a width

Axis = tuple[float, float, float]


def cut(points: Tensor, count: int) -> list[Region]:
    """``count`` regions that share all of space, by the positions of points (m, 3) float64, in an order of their own.

    The outermost regions reach to infinity.

    Raises:
        SplatsegError: the points do not allow so many.
    """
    if count > 1 and len(points) < count * LEAST_POINTS:
        most = max(len(points) // LEAST_POINTS, 1)
        raise SplatsegError(f"blocks: expected at most {most} for {len(points)} sparse points, found {count}")
    return _cut(Region(), points, count)


def _cut(region: Region, points: Tensor, count: int) -> list[Region]:
    if count == 1:
        return [region]
    below = count // 2
    axis = principal_axis(points)
    s = along(points, axis)
    at = place(s, (below, count - below))
    found = []
    for above, share in ((False, below), (True, count - below)):
        side = HalfSpace(axis, at, above, OVERLAP * width(s) / 2)
        found += _cut(region.within(side), points[side.holds(points)], share)
    return found


def width(s: Tensor) -> float:
    """Of coordinates (m,), less strays."""
    low, high = torch.quantile(thin(s), s.new_tensor([STRAY, 1 - STRAY])).tolist()
    return float(high - low)


def thin(values: Tensor, most: int = 100_000) -> Tensor:
    """An even share of the rows of ``values``."""
    return values[:: -(-len(values) // most)]


def middle(points: Tensor, rounds: int = 20) -> Tensor:
    """(3,) geometric median of points (m, 3), by Weiszfeld's iterations: strays do not move it."""
    center = points.mean(0)
    for _ in range(rounds):
        distance = (points - center).norm(dim=1)
        weight = 1 / distance.clamp_min(1e-9 * float(distance.max()) or 1.0)
        center = (points * weight[:, None]).sum(0) / weight.sum()
    return center


def principal_axis(points: Tensor) -> Axis:
    """The direction in which points (m, 3) are spread most, where strays count little; its sign, too, is their own.

    Raises:
        SplatsegError: they are all at one place.
    """
    points = thin(points)
    center = middle(points)
    centered = points - center
    distance = centered.norm(dim=1)
    typical = float(distance.median())
    if typical <= 1e-6 * float(center.norm()) or typical == 0:
        raise SplatsegError(f"blocks: expected sparse points at different places, found {len(points)} at one")
    weighted = centered / (1 + (distance / (2 * typical)) ** 4)[:, None]
    variances, axes = torch.linalg.eigh(weighted.T @ weighted)
    axis = axes[:, 2]
    if variances[1] > ROUND * variances[2]:  # round: any direction would do; that of the first point is the capture's
        inside = centered @ axes[:, 1:]
        first = inside[int((inside.norm(dim=1) > 1e-3 * typical).nonzero()[0])]
        axis = axes[:, 1:] @ (first / first.norm())
    s = weighted @ axis
    skew = float(s.pow(3).sum() / s.abs().pow(3).sum())
    sign = skew if abs(skew) > 1e-6 else float(s[s.abs().argmax()])
    x, y, z = (axis if sign >= 0 else -axis).tolist()
    return x, y, z


def place(points: Tensor, blocks: tuple[int, int]) -> float:
    """Where to cut coordinates (m,) on an axis into sides of so many ``blocks``.

    Near the place that shares them as the blocks are, the one where fewest lie: what is not there cannot show a seam.

    Raises:
        SplatsegError: too many of them are equal.
    """
    share = blocks[0] / sum(blocks)
    window = WINDOW * min(share, 1 - share)
    ordered = thin(points).sort().values
    n = len(ordered)
    least = max(int((share - window) * n), 1)
    most = min(int((share + window) * n) + 1, n - 1)
    steps = torch.linspace(0, 1, TRIED + 2, dtype=torch.float64)[1:-1]
    tried = ordered[least - 1] + steps * (ordered[most] - ordered[least - 1])
    below = torch.searchsorted(ordered, tried)
    allowed = (below >= least) & (below <= most)
    if not bool(allowed.any()):
        raise SplatsegError(f"blocks: expected sparse points at different places, found {n} too close together to cut")
    tried, below = tried[allowed], below[allowed]
    smoothed = SMOOTHED * width(points)
    near = torch.stack([torch.exp(-0.5 * ((ordered - at) / smoothed) ** 2).sum() for at in tried])
    cost = near / near.mean() + (below / n - share).abs() / window
    return float(tried[int(cost.argmin())])
