"""A dense start: colored surface points from the photos and their poses, where several photos agree on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.ranks import ALONE, Ranks
from splatseg.core.scene import Points, Scene, View
from splatseg.fit.geometry.config import DenseConfig
from splatseg.fit.geometry.sweep import (
    DepthMap,
    Photo,
    depth_range,
    in_picture,
    matched_photo,
    pixel_rays,
    source_views,
    sweep,
)

CHECKED = 8  # views that a depth is checked in, at most
APART = 1.0  # pixels: how far from its pixel a depth may come back by way of another view
COARSEST = 12  # binary logarithm of the largest cell, in pixels
BEHIND = 0.03  # share of its depth by which another view must see past a point to speak against it


@dataclass(frozen=True, eq=False)
class FreeSpace:
    """Depths (h, w) that each camera is sure of, 0 elsewhere: nothing solid lies in front of them."""

    cameras: tuple[Camera, ...]
    depths: tuple[Tensor, ...]

    def seen_past(self, xyz: Tensor, which: Sequence[int] | None = None) -> Tensor:
        """(m,) int64: how many of the cameras (``which``, or all) see a surface well behind world points (m, 3)."""
        count = torch.zeros(len(xyz), dtype=torch.int64, device=xyz.device)
        for j in range(len(self.cameras)) if which is None else which:
            image, depth = self.cameras[j].project(xyz)
            inside, _ = in_picture(self.cameras[j], xyz)
            row, column = _pixels(image, self.cameras[j])
            count += inside & (self.depths[j][row, column] > (1 + BEHIND) * depth)
        return count


@dataclass(frozen=True, eq=False)
class DensePoints:
    """What was found: ``points``, the share of the textured pixels that several views explain, and the free space."""

    points: Points
    share: float
    free: FreeSpace


def dense_points(
    scene: Scene, config: DenseConfig, device: torch.device | str = "cpu", ranks: Ranks = ALONE
) -> DensePoints:
    """Points on the surfaces that at least ``config.agree`` + 1 photos show at the same place, of ``config.photos``.

    The photos are dealt to ``ranks``, and rank 0 alone has the points.

    Memory, by the sizes of the tensors: about 60 bytes per matched pixel of every view (0.4 GB for 50 photos of
    400x300), mostly the points before they are thinned, and about 100 MB while matching.
    """
    photos = [matched_photo(view, config.side, device) for view in evenly(scene.views, config.photos)]
    cameras = [photo.camera for photo in photos]
    sources = source_views(cameras, scene.points, CHECKED)
    xyz = scene.points.xyz.to(device)

    def maps_of(numbers: Sequence[int]) -> Iterator[DepthMap | None]:
        for number in numbers:
            photo, near = photos[number], sources[number]
            limits = depth_range(photo.camera, xyz)
            if limits is None or not near:
                yield None
            else:
                yield sweep(photo, [photos[j] for j in near[: config.sources]], limits, config)

    maps = list(ranks.collect(len(photos), maps_of, device))
    if not ranks.first:
        return DensePoints(Points(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8)), 1.0, FreeSpace((), ()))
    return fused(photos, maps, sources, config)


def evenly(views: Sequence[View], most: int) -> list[View]:
    """At most ``most`` of ``views``, evenly spread over their order."""
    count = min(most, len(views))
    return [views[i * len(views) // count] for i in range(count)]


def fused(
    photos: list[Photo], maps: list[DepthMap | None], sources: list[list[int]], config: DenseConfig
) -> DensePoints:
    """The depths that the views ``sources`` confirm, as points, thinned to ``config.points``."""
    depths = [torch.zeros_like(photo.rgb[0]) for photo in photos]
    found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    textured = kept = 0
    for i, depth in enumerate(maps):
        if depth is None:
            continue
        points, agree = _agreement(i, photos, maps, sources[i], config)
        sure = (depth.score > config.score) & (agree >= config.agree)
        counts = photos[i].counts
        if counts is not None:
            sure &= counts
        found[i] = (points[sure], agree[sure], sure)
        depths[i] = depth.depth * sure
        textured += int((depth.score > -1).sum())
        kept += int(sure.sum())
    free = FreeSpace(tuple(photo.camera for photo in photos), tuple(depths))
    parts = []
    for i, (xyz, agree, sure) in found.items():
        open_to_all = free.seen_past(xyz, sources[i]) < agree
        size = depths[i][sure] / photos[i].camera.fx
        rgb = (photos[i].rgb.permute(1, 2, 0)[sure] * 255).round().to(torch.uint8)
        score = maps[i].score[sure]  # type: ignore[union-attr]  # it was matched: it is in found
        parts.append([t[open_to_all] for t in (xyz, rgb, score + agree, size)])
    if not parts:
        return DensePoints(Points(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8)), 0.0, free)
    xyz, rgb, weight, size = (torch.cat(part) for part in zip(*parts, strict=True))
    xyz, rgb = thinned(xyz, rgb, weight, size, config.points)
    return DensePoints(Points(xyz.cpu(), rgb.cpu()), kept / max(textured, 1), free)


def _agreement(
    i: int, photos: list[Photo], maps: list[DepthMap | None], others: list[int], config: DenseConfig
) -> tuple[Tensor, Tensor]:
    """World points (h, w, 3) of view ``i``, each the mean of its own and those of the views that agree, and how many
    agree (h, w)."""
    depth = maps[i]
    assert depth is not None
    camera = photos[i].camera
    points = _unprojected(camera, pixel_rays(camera), depth.depth)
    total, agree = points.clone(), torch.zeros_like(depth.score)
    own, own_depth = points.reshape(-1, 3), depth.depth.reshape(-1)
    centers = pixel_rays(camera).reshape(-1, 3) @ camera.K.T
    for j in others:
        other = maps[j]
        if other is None:
            continue
        image, _ = photos[j].camera.project(own)
        inside, _ = in_picture(photos[j].camera, own)
        row, column = _pixels(image, photos[j].camera)
        z = other.depth[row, column]
        rays = torch.cat([image, torch.ones_like(z)[:, None]], 1) @ torch.linalg.inv(photos[j].camera.K).T
        theirs = _unprojected(photos[j].camera, rays, z)
        back, back_depth = camera.project(theirs)
        near = (back - centers[:, :2]).square().sum(1) < APART**2
        near &= (back_depth - own_depth).abs() < config.tolerance * own_depth
        same = (inside & near & (other.score[row, column] > config.score)).reshape(agree.shape)
        total += torch.where(same[..., None], theirs.reshape(total.shape), 0.0)
        agree += same
    return total / (agree + 1)[..., None], agree


def _pixels(image: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Rows and columns of image positions (m, 2), those outside moved to the border."""
    column = image[:, 0].nan_to_num(0).clamp(0, camera.width - 1).long()
    return image[:, 1].nan_to_num(0).clamp(0, camera.height - 1).long(), column


def _unprojected(camera: Camera, rays: Tensor, depth: Tensor) -> Tensor:
    """World points (..., 3) at ``depth`` (...) along ``rays`` (..., 3) of z = 1 in the camera's axes."""
    pose = camera.cam_from_world
    return (rays * depth[..., None] - pose[:3, 3]) @ pose[:3, :3]


def thinned(xyz: Tensor, rgb: Tensor, weight: Tensor, size: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """At most ``most`` of the points, the one of greatest ``weight`` in each cell of a grid as fine as they need.

    Cells are the larger the larger the pixels ``size`` (m,) that showed the points, so that near things keep their
    detail. The best come first.
    """
    kept = weight.argsort(descending=True, stable=True)
    for growth in range(2 * COARSEST):  # a cell of a pixel's size, then larger by a root of two each time
        level = torch.log2(size[kept]) + growth / 2
        kept = kept[first_of_cells(xyz[kept], level)]
        if len(kept) <= most:
            break
    return xyz[kept], rgb[kept]


def first_of_cells(xyz: Tensor, level: Tensor) -> Tensor:
    """Indices (k,) of the first of the points (m, 3) in each cell, in the order of the input. ``level`` (m,) is the
    binary logarithm of the side of each point's cell."""
    whole = (2 * level).floor().clamp(-60, 60) / 2
    cell = torch.floor(xyz * torch.exp2(-whole)[:, None]).long() & 0xFFFF  # 16 bits per axis: some far apart share one
    key = (((2 * whole).long() + 64) << 48) | (cell[:, 0] << 32) | (cell[:, 1] << 16) | cell[:, 2]
    ordered, order = key.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[first].sort().values
