"""Depth of every photo from the others, with the poses that are known: a plane sweep from coarse to fine.

Cost: zero-mean normalized cross-correlation (ZNCC) of small windows, the mean of the best two of a few source views,
so that a surface hidden in some of them still counts. At a quarter of the size all depths of the view's range are
tried and semi-global matching (Hirschmueller, PAMI 2008) carries them over surfaces without texture; at half and full
size a few depths around the coarser answer and its neighbors'. The windows are warped by the depth map itself and not
by one plane each, so slanted surfaces correlate as well as frontal ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.scene import Points, View
from splatseg.fit.geometry.config import DenseConfig

LEVELS = (4, 2, 1)  # sizes of the sweep, as divisors of the full one
WINDOW = 5  # pixels per side, at every size
CHUNK = 1 << 21  # values drawn at a time; with its copies about 60 MB
NEAR_MARGIN, FAR_MARGIN = 0.7, 3.0  # of the depths of the sparse points that a view may see
FEWEST_POINTS = 8  # sparse points in a view that give a depth range
BEST_ANGLE, NARROWER, WIDER = 10.0, 4.0, 12.0  # degrees between two views of a point: the best, and how it falls off
SMALL_STEP, LARGE_STEP = 0.06, 0.45  # what a step of one plane, of more planes, costs beside 1 - ZNCC
FLAT = 2e-5  # variance of a window's gray values (0..1) below which it matches anything


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo at the size that is matched: ``rgb`` (3, h, w) float in 0..1, ``counts`` (h, w) bool of what is fitted
    to (None: all), ``gray`` one (1, 1, h, w) a level, finest last, with the camera of each."""

    rgb: Tensor
    counts: Tensor | None
    gray: tuple[Tensor, ...]
    cameras: tuple[Camera, ...]

    @property
    def camera(self) -> Camera:
        return self.cameras[-1]


@dataclass(frozen=True, eq=False)
class DepthMap:
    """Of one photo: z-``depth`` (h, w) in the scene's units and ``score`` (h, w), the ZNCC there; -1 where there is
    none."""

    depth: Tensor
    score: Tensor


def matched_photo(view: View, side: int, device: torch.device | str) -> Photo:
    """``view`` with at most ``side`` pixels on its long side, by area averaging."""
    pixels, counts = view.photo()
    camera = view.camera.to(device)
    scale = min(side / max(camera.width, camera.height), 1.0)
    full = pixels.to(device).permute(2, 0, 1)[None].float() / 255
    rgb = _resized(full, (round(camera.height * scale), round(camera.width * scale)))
    height, width = rgb.shape[2:]
    weights = rgb.new_tensor([0.299, 0.587, 0.114])[None, :, None, None]
    gray = (rgb * weights).sum(1, keepdim=True)
    sizes = [(max(height // level, 1), max(width // level, 1)) for level in LEVELS]
    if counts is not None:
        counts = _resized(counts.to(device).float()[None, None], (height, width))[0, 0] > 0.999
    return Photo(
        rgb[0],
        counts,
        tuple(_resized(gray, size) for size in sizes),
        tuple(camera.resized(size[1], size[0]) for size in sizes),
    )


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return image if image.shape[2:] == size else F.interpolate(image, size=size, mode="area")


def depth_range(camera: Camera, points: Tensor) -> tuple[float, float] | None:
    """Least and greatest z-depth to look for in a view: of the sparse ``points`` (m, 3) in its picture, with margins.

    None where too few points are there.
    """
    inside, depth = in_picture(camera, points)
    seen = depth[inside]
    if len(seen) < FEWEST_POINTS:
        return None
    low, high = torch.quantile(seen, seen.new_tensor([0.01, 0.99])).tolist()
    return NEAR_MARGIN * low, FAR_MARGIN * high


def in_picture(camera: Camera, points: Tensor) -> tuple[Tensor, Tensor]:
    """(m,) bool of the world ``points`` (m, 3) that lie in the picture, and their z-depths (m,)."""
    image, depth = camera.project(points)
    size = image.new_tensor([camera.width, camera.height])
    return (depth > camera.near) & ((image >= 0) & (image < size)).all(1), depth


def source_views(cameras: Sequence[Camera], points: Points, count: int) -> list[list[int]]:
    """Of each view up to ``count`` others to match it with, best first.

    A pair's worth is the sum over the sparse points in both pictures of how near the angle between their rays is to
    :data:`BEST_ANGLE` (Yao et al., MVSNet 2018, section 4.1), less where the scales differ.
    """
    xyz = points.xyz.to(cameras[0].K.device)
    if len(xyz) > 4000:  # an even share: sparse points have no order that matters
        xyz = xyz[:: len(xyz) // 2000]
    seen = [in_picture(camera, xyz) for camera in cameras]
    rays = torch.stack([F.normalize(xyz - camera.position, dim=1) for camera in cameras])  # (v, m, 3)
    inside = torch.stack([mask for mask, _ in seen])
    # Pixels that a unit of length covers: matching a view with one of half the scale is half as good.
    scale = torch.stack([camera.fx / depth.clamp_min(1e-6) for camera, (_, depth) in zip(cameras, seen, strict=True)])
    chosen = []
    for i in range(len(cameras)):
        angle = torch.rad2deg(torch.acos((rays * rays[i]).sum(2).clamp(-1, 1)))
        spread = torch.where(angle < BEST_ANGLE, NARROWER, WIDER)
        ratio = scale / scale[i]
        worth = torch.exp(-0.5 * ((angle - BEST_ANGLE) / spread).square()) * torch.minimum(ratio, 1 / ratio)
        total = (worth * (inside & inside[i])).sum(1)
        total[i] = 0
        order = total.argsort(descending=True, stable=True)[:count].tolist()
        best = float(total[order[0]]) if order else 0.0
        chosen.append([j for j in order if float(total[j]) > 0.05 * best and float(total[j]) > 0.1])
    return chosen


def sweep(photo: Photo, sources: Sequence[Photo], limits: tuple[float, float], config: DenseConfig) -> DepthMap:
    """Depth of ``photo`` from ``sources`` between ``limits`` (least, greatest z-depth)."""
    inverse = torch.linspace(1 / limits[1], 1 / limits[0], config.planes, device=photo.rgb.device)
    step = float(inverse[1] - inverse[0])
    height, width = photo.gray[0].shape[2:]
    scores = _scores(photo, sources, 0, inverse[:, None, None].expand(-1, height, width))
    best = inverse[semi_global(1 - scores).argmin(0)]
    for level in range(1, len(LEVELS)):
        step /= 2
        best, _ = _refined(photo, sources, level, best, step)
        if level + 1 < len(LEVELS):
            best = _median(best)
    best, score = _between(photo, sources, best, step / 2)
    textured = _variance(photo.gray[-1])[0, 0] > FLAT
    score = torch.where(textured & (best > float(inverse[0])), score, score.new_tensor(-1.0))
    return DepthMap(1 / best.clamp_min(float(inverse[0])), score)


def _refined(photo: Photo, sources: Sequence[Photo], level: int, coarse: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Inverse depths at ``level`` from those of the level before: around the pixel's own, and its neighbors'."""
    size = photo.gray[level].shape[2:]
    around = coarse[None, None]
    nearest, farthest = F.max_pool2d(around, 3, 1, 1), -F.max_pool2d(-around, 3, 1, 1)
    own, near, far = (F.interpolate(t, size=size, mode="nearest")[0, 0] for t in (around, nearest, farthest))
    own = F.interpolate(around, size=size, mode="bilinear", align_corners=False)[0, 0]
    tried = [own + k * step for k in range(-2, 3)] + [t + k * step for t in (near, far) for k in (-1, 0, 1)]
    stack = torch.stack(tried).clamp_min(1e-6)
    scores, which = _scores(photo, sources, level, stack).max(0)
    return stack.gather(0, which[None])[0], scores


def _between(photo: Photo, sources: Sequence[Photo], best: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """The peak of the parabola through the scores at ``best`` and a ``step`` to both sides; and the score."""
    tried = torch.stack([best - step, best, best + step]).clamp_min(1e-6)
    low, middle, high = _scores(photo, sources, len(LEVELS) - 1, tried)
    bend = (low - 2 * middle + high).clamp_max(-1e-3)
    shift = (0.5 * (low - high) / bend).clamp(-1, 1)
    return best + shift * step, torch.maximum(torch.maximum(low, high), middle)


def _scores(photo: Photo, sources: Sequence[Photo], level: int, inverse: Tensor) -> Tensor:
    """(d, h, w) ZNCC at ``inverse`` depths (d, h, w): the mean of the best two sources; -1 where none sees it."""
    gray, camera = photo.gray[level], photo.cameras[level]
    mean, variance = _box(gray), _variance(gray)
    rays = pixel_rays(camera)
    count = max(CHUNK // gray.numel(), 1)
    parts = []
    for first in range(0, len(inverse), count):
        part = inverse[first : first + count]
        each = [_zncc(gray, mean, variance, _warped(rays, part, camera, s, level)) for s in sources]
        top = torch.stack(each).topk(min(2, len(each)), 0).values
        parts.append(top.mean(0))
    return torch.cat(parts)


def _zncc(gray: Tensor, mean: Tensor, variance: Tensor, warped: tuple[Tensor, Tensor]) -> Tensor:
    """(d, h, w) correlation of the windows of ``gray`` (1, 1, h, w) and a source's pixels; -1 outside its picture."""
    pixels, inside = warped
    other = _box(pixels)
    spread = (_box(pixels * pixels) - other * other).clamp_min(1e-6)
    shared = _box(pixels * gray) - other * mean
    score = shared / (spread * variance.clamp_min(1e-6)).sqrt()
    return torch.where(inside, score.clamp(-1, 1), score.new_tensor(-1.0))[:, 0]


def _warped(rays: Tensor, inverse: Tensor, camera: Camera, source: Photo, level: int) -> tuple[Tensor, Tensor]:
    """(d, 1, h, w) gray values of ``source`` at the pixels of ``camera`` at ``inverse`` depths, and whether inside."""
    other, gray = source.cameras[level], source.gray[level]
    move = other.cam_from_world.double() @ torch.linalg.inv(camera.cam_from_world.double())
    turned = (rays @ (other.K.double() @ move[:3, :3]).T.float())[None]  # (1, h, w, 3)
    shift = (other.K.double() @ move[:3, 3]).float()
    image = turned + shift * inverse[..., None]
    depth = image[..., 2:].clamp_min(1e-6)
    size = gray.new_tensor([gray.shape[3], gray.shape[2]])
    grid = 2 * image[..., :2] / (depth * size) - 1
    inside = (grid.abs() < 1).all(-1) & (image[..., 2] > 1e-6)
    d, height, width = inverse.shape
    flat = grid.reshape(1, d * height, width, 2)
    pixels = F.grid_sample(gray, flat, align_corners=False, padding_mode="border").reshape(d, 1, height, width)
    return pixels, inside[:, None]


def pixel_rays(camera: Camera) -> Tensor:
    """(h, w, 3) rays through the pixels' centers with z = 1."""
    y, x = torch.meshgrid(
        torch.arange(camera.height, device=camera.K.device) + 0.5,
        torch.arange(camera.width, device=camera.K.device) + 0.5,
        indexing="ij",
    )
    return torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(camera.K.double()).T.float()


def _variance(gray: Tensor) -> Tensor:
    return _box(gray * gray) - _box(gray).square()


def _box(image: Tensor) -> Tensor:
    """Mean over WINDOW x WINDOW pixels of (d, 1, h, w), edges repeated. Slices: ten times as fast as pooling."""
    radius = WINDOW // 2
    height, width = image.shape[2:]
    wide = F.pad(image, (radius, radius, 0, 0), mode="replicate")
    rows = wide[..., :width].clone()
    for k in range(1, WINDOW):
        rows += wide[..., k : k + width]
    tall = F.pad(rows, (0, 0, radius, radius), mode="replicate")
    total = tall[..., :height, :].clone()
    for k in range(1, WINDOW):
        total += tall[..., k : k + height, :]
    return total.mul_(1 / WINDOW**2)


def _median(image: Tensor) -> Tensor:
    """Median of 3x3 pixels of (h, w), edges repeated."""
    padded = F.pad(image[None, None], (1, 1, 1, 1), mode="replicate")
    return F.unfold(padded, 3).reshape(9, *image.shape).median(0).values


def semi_global(cost: Tensor) -> Tensor:
    """Costs (d, h, w) summed along the four axis directions with a penalty per step of depth (semi-global matching)."""
    total = torch.zeros_like(cost)
    for turned, summed in ((cost, total), (cost.transpose(1, 2), total.transpose(1, 2))):
        for order in (range(turned.shape[1]), range(turned.shape[1] - 1, -1, -1)):
            before = None
            for row in order:
                before = _along(turned[:, row], before)
                summed[:, row] += before
    return total


def _along(cost: Tensor, before: Tensor | None) -> Tensor:
    """One step of a path: ``cost`` (d, n) of this row and the cheapest way to it from the costs ``before`` (d, n)."""
    if before is None:
        return cost.clone()
    least = before.min(0, keepdim=True).values
    way = torch.minimum(before, least + LARGE_STEP)
    way[1:] = torch.minimum(way[1:], before[:-1] + SMALL_STEP)
    way[:-1] = torch.minimum(way[:-1], before[1:] + SMALL_STEP)
    return cost + way - least
