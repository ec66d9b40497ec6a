"""A convex piece of space, and a fit that is of one such piece of a larger scene."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splatseg.core.scene import Points
from splatseg.fit.geometry.frame import FitFrame


@dataclass(frozen=True)
class HalfSpace:
    """The points with ``normal . x >= at``; with ``above`` False all others, so that the two never share a point.

    ``normal`` has unit length; ``at`` and ``margin``, by which the half space grows where it is expanded, are in world
    units.
    """

    normal: tuple[float, float, float]
    at: float
    above: bool
    margin: float

    def holds(self, xyz: Tensor, expanded: bool = False) -> Tensor:
        """(m,) bool of points (m, 3)."""
        side = along(xyz, self.normal) - self.at
        reach = self.margin if expanded else 0.0
        return side >= -reach if self.above else side < reach

    def in_frame(self, frame: FitFrame) -> HalfSpace:
        """The same half space where coordinates are those of ``frame``."""
        at = (self.at - float(along(frame.center[None], self.normal))) / frame.size
        return replace(self, at=at, margin=self.margin / frame.size)


def along(xyz: Tensor, direction: tuple[float, float, float]) -> Tensor:
    """(m,) float64 coordinate of points (m, 3) along ``direction``; the same for a point whatever stands beside it, as
    a matrix product need not be."""
    x, y, z = xyz.double().unbind(1)
    return x * direction[0] + y * direction[1] + z * direction[2]


@dataclass(frozen=True)
class Region:
    """What lies in all of ``sides``; none: all of space. Infinite where nothing bounds it."""

    sides: tuple[HalfSpace, ...] = ()

    def holds(self, xyz: Tensor, expanded: bool = False) -> Tensor:
        """(m,) bool of points (m, 3); with ``expanded`` each side reaches its margin further."""
        inside = torch.ones(len(xyz), dtype=torch.bool, device=xyz.device)
        for side in self.sides:
            inside &= side.holds(xyz, expanded)
        return inside

    def within(self, side: HalfSpace) -> Region:
        """What of the region also lies in ``side``."""
        return Region((*self.sides, side))


@dataclass(frozen=True, eq=False)
class Part:
    """What a fit knows that is of one part of a larger scene, and keeps the Gaussians in ``region`` alone.

    Gaussians are added in the expanded region; what lies outside stands there as it began, only trained, so that the
    photos' other pixels are explained by something. Of a start with as many points in ``region`` as there may be
    Gaussians, half as many more are left, whatever the others are.

    Attributes:
        region: what is kept of the fit, world units of the scene.
        shell: points of the larger scene's far shell, in the scene's frame; none where it starts without.
        own: Gaussians at most in ``region``.
        around: points at most that the fit starts from outside the expanded region, and so many in it but outside
            ``region``; the shell comes on top.
    """

    region: Region
    shell: Points
    own: int
    around: int

    def in_frame(self, frame: FitFrame) -> Part:
        """The same part where coordinates are those of ``frame``."""
        region = Region(tuple(side.in_frame(frame) for side in self.region.sides))
        return replace(self, region=region, shell=frame.points(self.shell))

    def start(self, points: Points) -> Points:
        """What to start from: of ``points`` those in the region and even shares of the others; the shell."""
        own, near = self.region.holds(points.xyz), self.region.holds(points.xyz, expanded=True)
        others = [evenly_kept(some.nonzero()[:, 0], self.around) for some in (near & ~own, ~near)]
        kept = torch.cat([own.nonzero()[:, 0], *others])
        return Points(
            torch.cat([points.xyz[kept], self.shell.xyz]),
            torch.cat([points.rgb[kept], self.shell.rgb]),
        )

    def grows(self, means: Tensor) -> Tensor:
        """(n,) bool: where Gaussians may be added."""
        return self.region.holds(means, expanded=True)

    def room(self, means: Tensor) -> int:
        """How many Gaussians may still be added in ``region``."""
        return self.own - int(self.region.holds(means).sum())


def backdrop(seed: int, step: int) -> tuple[float, float, float]:
    """What stands behind everything in one step of a part's fit: a color of the step's own.

    Behind a wall of one block there may be a room of another. Before a backdrop that is always the same, or is fitted
    itself, a wall may stay transparent and look right all the same; the room would show through it.
    """
    r, g, b = torch.rand(3, generator=torch.Generator().manual_seed(seed * 1_000_003 + step)).tolist()
    return r, g, b


def evenly_kept(ids: Tensor, most: int) -> Tensor:
    """At most ``most`` of ``ids`` (m,), evenly spread over their order."""
    if len(ids) <= most:
        return ids
    return ids[(torch.arange(most, dtype=torch.float64) * (len(ids) / max(most, 1))).long()]
