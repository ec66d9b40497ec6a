"""What growth.py measures on: a furnished room at any number of Gaussians, views, masks and pixels.

Walls and boxes carry flat Gaussians as a fit leaves them; views are ray-cast as faces divided into tiles, and the masks
of a view are its boxes, faces and tiles, less the tenth that a segmenter overlooks. Photos are a few, repeated.
"""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import View
from splatseg.masks.mask_set import MaskSet

ROOM = 4.0  # edge, world units
BOXES = 24
COARSE = 4  # masks are cast at a quarter of the image's sides
PHOTOS = 4  # different ones
OVERLOOKED = 0.1


@functools.cache
def boxes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centers (b, 3) and edges (b,) of the room, which is the first, and of what stands in it."""
    rng = np.random.default_rng(0)
    angle = np.arange(BOXES) * (2 * math.pi / BOXES)
    reach = rng.uniform(0.2, 1.0, BOXES)
    centers = np.stack([reach * np.cos(angle), reach * np.sin(angle), rng.uniform(-1.5, 0.8, BOXES)], axis=1)
    return np.concatenate([np.zeros((1, 3)), centers]), np.append(ROOM, rng.uniform(0.2, 0.5, BOXES))


def splat(count: int) -> Gaussians:
    """``count`` Gaussians with the coefficients of SH degree 3, which large splats have."""
    generator = torch.Generator().manual_seed(0)
    centers, edges = (torch.from_numpy(values).float() for values in boxes())
    box = torch.multinomial(edges**2, count, replacement=True, generator=generator)
    axis = torch.randint(3, (count,), generator=generator)
    places = torch.rand(count, 3, generator=generator) - 0.5
    rows = torch.arange(count)
    places[rows, axis] = torch.randint(2, (count,), generator=generator) - 0.5
    spacing = (6 * float((edges**2).sum()) / count) ** 0.5
    log_scales = (spacing * (0.4 + 1.2 * torch.rand(count, 3, generator=generator))).log()
    log_scales[rows, axis] -= 2.0
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    logits = 1 + 1.5 * torch.randn(count, generator=generator)
    sh = torch.empty(count, 16, 3)
    for start in range(0, count, 1 << 18):
        part = sh[start : start + (1 << 18)]
        part.copy_(0.05 * torch.randn(part.shape, generator=generator))
    sh[:, 0] += 0.8 * torch.sin(7.0 * box.float())[:, None]
    return Gaussians(centers[box] + places * edges[box, None], quats, log_scales, logits, sh)


def cameras(count: int, width: int, height: int) -> list[Camera]:
    """On a spiral along the walls, each looking at a place near the middle."""
    focal = 0.8 * width
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    found = []
    for index in range(count):
        angle = 2 * math.pi * (0.618 * index % 1)
        position = torch.tensor([1.8 * math.cos(angle), 1.8 * math.sin(angle), 1.4 - 2.4 * index / count])
        target = torch.tensor([0.5 * math.sin(3.1 * index), 0.5 * math.cos(2.3 * index), -0.4])
        forward = torch.nn.functional.normalize(target - position, dim=0)
        right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0])), dim=0)
        rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
        pose = torch.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ position
        found.append(Camera(K, pose, width, height))
    return found


def size_of(megapixels: float) -> tuple[int, int]:
    """(width, height) of 4:3, multiples of 8."""
    height = 8 * round(math.sqrt(megapixels * 1e6 * 3 / 4) / 8)
    return 8 * round(height * 4 / 3 / 8), height


def views(count: int, megapixels: float, photos: Path | None = None) -> list[View]:
    """``count`` views; with the files of ``photos`` where that is given."""
    files = [Path()] if photos is None else photo_files(photos, megapixels)
    chosen = enumerate(cameras(count, *size_of(megapixels)))
    return [View(f"{index:04}.jpg", camera, files[index % len(files)]) for index, camera in chosen]


def photo_files(folder: Path, megapixels: float) -> list[Path]:
    """:data:`PHOTOS` JPEGs of smooth noise with fine grain: about as large in bytes as photos are."""
    width, height = size_of(megapixels)
    paths = [folder / f"photo_{megapixels:g}_{number}.jpg" for number in range(PHOTOS)]
    for number, path in enumerate(paths):
        if path.is_file():
            continue
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        grain = rng.normal(0, 8, (height, width, 1)).astype(np.int16)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, quality=92)
    return paths


def linked_photos(folder: Path, target: Path, names: list[str], megapixels: float) -> None:
    """The repeated photos under ``names`` in ``target``, without taking their space again."""
    files = photo_files(folder, megapixels)
    target.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        if not (target / name).exists():
            os.link(files[index % len(files)], target / name)


def cast(camera: Camera) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """What each pixel of a quarter of the size shows: box, face 0..5 of it, place (h, w, 2) on that in [0, 1]."""
    width, height = camera.width // COARSE, camera.height // COARSE
    K = camera.K.double().numpy()
    columns, lines = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack(
        [(columns * COARSE - K[0, 2]) / K[0, 0], (lines * COARSE - K[1, 2]) / K[1, 1], np.ones_like(lines)], -1
    )
    rays = (rays @ camera.cam_from_world[:3, :3].double().numpy()).reshape(-1, 3)
    origin = camera.position.double().numpy()
    centers, edges = boxes()
    nearest, shown = np.full(len(rays), np.inf), np.zeros(len(rays), np.int64)
    inverse = 1 / np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    for number, (center, edge) in enumerate(zip(centers, edges, strict=True)):
        low, high = (center - edge / 2 - origin) * inverse, (center + edge / 2 - origin) * inverse
        enter, leave = np.minimum(low, high).max(1), np.maximum(low, high).min(1)
        depth = leave if number == 0 else np.where((enter < leave) & (enter > 0), enter, np.inf)
        closer = depth < nearest
        nearest[closer], shown[closer] = depth[closer], number
    place = (origin + rays * nearest[:, None] - centers[shown]) / edges[shown, None]
    axis = np.abs(place).argmax(1)
    face = 2 * axis + (np.take_along_axis(place, axis[:, None], 1)[:, 0] > 0)
    others = np.array([[1, 2], [0, 2], [0, 1]])[axis]
    across = np.clip(np.take_along_axis(place, others, 1) + 0.5, 0, 1 - 1e-9)
    return shown.reshape(height, width), face.reshape(height, width), across.reshape(height, width, 2)


def masks(camera: Camera, wanted: int, seed: int) -> MaskSet:
    """About ``wanted`` masks of a view: boxes, faces and ever finer tiles of faces, largest first, less some."""
    box, face, across = cast(camera)
    rng = np.random.default_rng(seed)
    found: list[NDArray[np.uint32]] = []
    for division in (0, 1, 2, 3, 4, 6, 8):
        parts = box if division == 0 else box * 6 + face
        if division > 1:
            tile = (across * division).astype(np.int64)
            parts = (parts * division + tile[..., 0]) * division + tile[..., 1]
        numbers, counts = np.unique(parts, return_counts=True)
        order = numbers[np.argsort(-counts)][: wanted - len(found)]
        kept = order[(counts[np.searchsorted(numbers, order)] > 8) & (rng.random(len(order)) > OVERLOOKED)]
        found += [run_lengths(parts == number) for number in kept]
        if len(found) >= wanted:
            break
    return MaskSet(camera.height, camera.width, tuple(found))


def run_lengths(coarse: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """COCO's run lengths of ``coarse`` enlarged by :data:`COARSE`."""
    height = coarse.shape[0]
    padded = np.pad(coarse.T, ((0, 0), (1, 1))).astype(np.int8)
    column, start = np.nonzero(np.diff(padded, axis=1) == 1)
    _, end = np.nonzero(np.diff(padded, axis=1) == -1)
    offset = (column[:, None] * COARSE + np.arange(COARSE)) * (height * COARSE)
    starts, ends = (np.sort((offset + at[:, None] * COARSE).ravel()) for at in (start, end))
    apart = np.append(True, starts[1:] != ends[:-1])
    starts, ends = starts[apart], ends[np.append(apart[1:], True)]
    bounds = np.stack([starts, ends], axis=1).ravel()
    return np.diff(np.concatenate([[0], bounds, [height * COARSE * coarse.shape[1] * COARSE]])).astype(np.uint32)
