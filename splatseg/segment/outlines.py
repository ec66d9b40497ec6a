"""Closed lines drawn on an image, and the Gaussians inside them: those that are seen there, or all.

A Gaussian is inside when its center is. What is *seen* must besides have a weight that counts (``render.trace``'s
``min_weight``) in one of the pixels whose centers lie inside; every one of them is traced. *Through* asks for nothing
else: what is behind a surface, or transparent, is taken, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.selection import Selection
from splatseg.segment.clicks import Box
from splatseg.segment.picking import seen_in

MOST_CORNERS = 10_000  # of a line; a hand draws hundreds


@dataclass(frozen=True)
class Lasso:
    """A polygon on a camera's image; it closes by itself, and where it crosses itself the even-odd rule holds.

    Attributes:
        camera: whose image.
        corners: image positions (u, v), at least three; they may lie outside the image.
    """

    camera: Camera
    corners: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not 3 <= len(self.corners) <= MOST_CORNERS:
            raise SplatsegError(f"lasso: expected 3 to {MOST_CORNERS} corners, found {len(self.corners)}")
        if not all(len(corner) == 2 for corner in self.corners):
            raise SplatsegError("lasso: expected corners of two coordinates each, found others")
        if not bool(torch.tensor(self.corners, dtype=torch.float64).isfinite().all()):
            raise SplatsegError("lasso: expected finite corners, found others")

    def holds(self, points: Tensor) -> Tensor:
        """(m,) bool: which image positions ``points`` (m, 2) lie inside."""
        x, y = points.double().unbind(1)
        ends = torch.tensor(self.corners, dtype=torch.float64, device=points.device)
        inside = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for (u0, v0), (u1, v1) in zip(ends.tolist(), ends.roll(-1, 0).tolist(), strict=True):
            if v0 != v1:  # a level edge is crossed by no ray to the right
                crossed = (y < v0) != (y < v1)
                inside ^= crossed & (x < u0 + (y - v0) * ((u1 - u0) / (v1 - v0)))
        return inside

    def window(self) -> tuple[int, int, int, int]:
        """First column and row, and one past the last ones, of the pixels that can lie inside.

        Raises:
            SplatsegError: no pixel's center lies inside.
        """
        u, v = zip(*self.corners, strict=True)
        left, right = max(int(min(u)), 0), min(int(max(u)) + 1, self.camera.width)
        top, bottom = max(int(min(v)), 0), min(int(max(v)) + 1, self.camera.height)
        if left < right and top < bottom:
            for row in range(top, bottom):  # mostly the first few tell
                centers = torch.arange(left, right).double() + 0.5
                if bool(self.holds(torch.stack([centers, torch.full_like(centers, row + 0.5)], 1)).any()):
                    return left, top, right, bottom
        raise SplatsegError(
            f"lasso: expected a pixel of the {self.camera.width}x{self.camera.height} image inside, found none"
        )


@dataclass(frozen=True)
class Stroke:
    """What a round brush covers that is led over a camera's image.

    Attributes:
        camera: whose image.
        path: image positions (u, v), at least one; between two the brush goes straight.
        radius: of the brush, pixels, above 0.
    """

    camera: Camera
    path: tuple[tuple[float, float], ...]
    radius: float

    def __post_init__(self) -> None:
        if not 1 <= len(self.path) <= MOST_CORNERS:
            raise SplatsegError(f"brush: expected 1 to {MOST_CORNERS} positions, found {len(self.path)}")
        if not all(len(place) == 2 and math.isfinite(place[0]) and math.isfinite(place[1]) for place in self.path):
            raise SplatsegError("brush: expected positions of two finite coordinates each, found others")
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise SplatsegError(f"brush: expected a radius above 0, found {self.radius}")

    def holds(self, points: Tensor) -> Tensor:
        """(m,) bool: which image positions ``points`` (m, 2) are at most ``radius`` from the path."""
        near = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        places = torch.tensor(self.path, dtype=torch.float64, device=points.device)
        for start, end in zip(places, torch.cat([places[1:], places[-1:]]), strict=True):
            along = end - start
            share = ((points.double() - start) @ along / along.square().sum().clamp_min(1e-12)).clamp(0, 1)
            near |= (points.double() - start - share[:, None] * along).norm(dim=1) <= self.radius
        return near

    def window(self) -> tuple[int, int, int, int]:
        """First column and row, and one past the last ones, of the pixels that can be covered.

        Raises:
            SplatsegError: no pixel of the image is.
        """
        u, v = zip(*self.path, strict=True)
        left, right = max(int(min(u) - self.radius), 0), min(int(max(u) + self.radius) + 1, self.camera.width)
        top, bottom = max(int(min(v) - self.radius), 0), min(int(max(v) + self.radius) + 1, self.camera.height)
        if not (left < right and top < bottom):
            raise SplatsegError("brush: expected a stroke on the image, found it outside")
        return left, top, right, bottom


def lasso_seen(gaussians: Gaussians, lasso: Lasso | Stroke, report: Callable[[float], None] | None = None) -> Selection:
    """The Gaussians seen inside ``lasso``; see the module. ``report`` hears the share of pixels traced and may raise.

    Raises:
        SplatsegError: no pixel of the image is inside.
    """
    ids = seen_in(gaussians, lasso.camera, lasso.window(), report, lasso.holds)
    centers, depths = lasso.camera.to(gaussians.device).project(gaussians.means[ids])
    return Selection.of(ids[lasso.holds(centers) & (depths > 0)], len(gaussians))


def lasso_through(gaussians: Gaussians, lasso: Lasso | Stroke) -> Selection:
    """All Gaussians in front of the camera whose centers are inside ``lasso``, also beyond the image's edge."""
    centers, depths = lasso.camera.to(gaussians.device).project(gaussians.means)
    return Selection((depths > lasso.camera.near) & lasso.holds(centers))


def box_through(gaussians: Gaussians, box: Box) -> Selection:
    """All Gaussians in front of the camera whose centers lie in the rectangle ``box``."""
    (u0, v0), (u1, v1) = box.corners
    centers, depths = box.camera.to(gaussians.device).project(gaussians.means)
    low, high = centers.new_tensor([min(u0, u1), min(v0, v1)]), centers.new_tensor([max(u0, u1), max(v0, v1)])
    return Selection((depths > box.camera.near) & ((centers >= low) & (centers <= high)).all(1))
