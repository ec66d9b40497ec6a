"""A synthetic capture on disk, in the layout of a COLMAP scene with exact hierarchical ground truth."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray
from PIL import Image
from plyfile import PlyData, PlyElement

from splatseg.core.atomic import temporary_name
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.io import atomic_write, write_text
from splatseg.synthetic.annotations import queries_of_view
from splatseg.synthetic.mask_simulation import MaskSimulation, encode_masks, simulate_masks
from splatseg.synthetic.raycast import Frame, cast_view
from splatseg.synthetic.surface import sample_surface
from splatseg.synthetic.world import Vector, World, build_world

_FOCAL = 0.9  # focal length / image width: a horizontal field of view of 58 degrees
_TARGET = np.array([0.0, 0.0, 0.25])
_RINGS = ((0.38, 2.75), (0.62, 2.6), (0.95, 2.4))  # elevation in radians, distance of the camera from the target
_SFM_POINTS = 6000  # points offered to the sparse model; those seen by one view only are dropped
_SURFACE_POINTS = 20_000  # points of gt/points.ply
_VISIBLE = 0.01  # relative depth difference below which a point is taken to be the surface that a pixel shows


@dataclass(frozen=True)
class SceneConfig:
    """How large the scene is. Equal configs give equal files, byte by byte on one machine.

    Attributes:
        objects: 1..12 objects of 2-3 parts, in groups of up to three.
        views: training views, at least 3.
        test_views: held-out views, not in the COLMAP model.
        width: image columns.
        height: image rows.
        seed: of everything random but the masks.
        masks: how good the simulated masks are.
    """

    objects: int = 6
    views: int = 24
    test_views: int = 6
    width: int = 320
    height: int = 240
    seed: int = 0
    masks: MaskSimulation = field(default_factory=MaskSimulation)

    def __post_init__(self) -> None:
        for name, least in (("views", 3), ("test_views", 1), ("width", 32), ("height", 32), ("seed", 0)):
            if getattr(self, name) < least:
                raise SplatsegError(f"{name}: expected at least {least}, found {getattr(self, name)}")


def look_at(position: Vector, target: Vector, width: int, height: int) -> Camera:
    """A camera at ``position`` looking at ``target``, world z up, both (3,) world units."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    cam_from_world[:3, 3] = -cam_from_world[:3, :3] @ position
    focal = _FOCAL * width
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)
    return Camera(K, torch.tensor(cam_from_world, dtype=torch.float32), width, height)


def make_cameras(config: SceneConfig, rng: np.random.Generator) -> tuple[list[Camera], list[Camera]]:
    """(training, held-out) cameras on rings around the objects; held-out ones stand between training ones."""

    def ring(count: int, shift: float) -> list[Camera]:
        cameras = []
        for index in range(count):
            elevation, distance = _RINGS[index % len(_RINGS)]
            azimuth = 2 * np.pi * (index + shift) / count + rng.uniform(-0.05, 0.05)
            elevation, distance = elevation + rng.uniform(-0.05, 0.05), distance * rng.uniform(0.95, 1.02)
            flat = np.cos(elevation)
            direction = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
            target = _TARGET + rng.uniform(-0.1, 0.1, 3)
            cameras.append(look_at(_TARGET + distance * direction, target, config.width, config.height))
        return cameras

    return ring(config.views, 0.0), ring(config.test_views, 0.5)


def _sparse_model(
    cameras: list[Camera], frames: list[Frame], names: list[str], rng: np.random.Generator
) -> pycolmap.Reconstruction:
    """A COLMAP model with exact poses and surface points, each seen by at least two views."""
    first = cameras[0]
    model = pycolmap.Reconstruction()
    params = [first.fx, first.fy, float(first.K[0, 2]), float(first.K[1, 2])]
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(model="PINHOLE", width=first.width, height=first.height, params=params, camera_id=1)
    )
    points, colors = [], []
    per_view = -(-_SFM_POINTS // len(cameras))
    for camera, frame in zip(cameras, frames, strict=True):
        pick = torch.from_numpy(rng.integers(0, frame.depth.size, per_view))
        pixels = torch.stack([pick % camera.width, pick // camera.width], 1)
        depths = torch.from_numpy(frame.depth.reshape(-1))[pick]
        points.append(camera.unproject(pixels, depths))
        colors.append(frame.color.reshape(-1, 3)[pick.numpy()])
    xyz, rgb = torch.cat(points), np.concatenate(colors)
    seen = np.zeros((len(cameras), len(xyz)), bool)
    positions = np.zeros((len(cameras), len(xyz), 2))
    for index, (camera, frame) in enumerate(zip(cameras, frames, strict=True)):
        uv, depth = camera.project(xyz)
        u, v = uv[:, 0].floor().long(), uv[:, 1].floor().long()
        inside = (depth > 0) & (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height)
        surface = torch.from_numpy(frame.depth)[v.clamp(0, camera.height - 1), u.clamp(0, camera.width - 1)]
        seen[index] = (inside & ((depth - surface).abs() < _VISIBLE * surface)).numpy()
        positions[index] = uv.double().numpy()
    kept = seen.sum(0) >= 2
    tracks: list[list[Any]] = [[] for _ in range(len(xyz))]
    for index, (camera, name) in enumerate(zip(cameras, names, strict=True)):
        ids = np.flatnonzero(seen[index] & kept)
        image = pycolmap.Image(name=name, keypoints=positions[index, ids], camera_id=1, image_id=index + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(camera.cam_from_world[:3].double().numpy()))
        for row, point in enumerate(ids):
            tracks[point].append(pycolmap.TrackElement(index + 1, row))
    for point in np.flatnonzero(kept):
        model.add_point3D(xyz[point].double().numpy(), pycolmap.Track(tracks[point]), rgb[point])
    return model


def _write_frame(folder: Path, kind: str, name: str, frame: Frame, levels: NDArray[np.uint16]) -> None:
    with atomic_write(folder / kind / f"{name}.jpg") as temporary:
        Image.fromarray(frame.color).save(temporary, quality=95, subsampling=0)
    with atomic_write(folder / "gt" / f"{name}.npz") as temporary:
        np.savez_compressed(temporary, levels=levels)


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def _write_points(path: Path, world: World, rng: np.random.Generator) -> None:
    """``points.ply``: points of the visible surfaces with the node of every level, as integer properties."""
    xyz, leaf = sample_surface(world, _SURFACE_POINTS, rng)
    table = world.level_table()
    names = [f"level_{level}" for level in range(world.depth)]
    rows = np.empty(len(xyz), [(axis, "<f4") for axis in "xyz"] + [(name, "<u2") for name in names])
    for axis, values in zip("xyz", xyz.T, strict=True):
        rows[axis] = values
    for level, name in enumerate(names):
        rows[name] = table[level, leaf]
    with atomic_write(path) as temporary:
        comment = "surface points with the node of the tree per level (0 finest)"
        PlyData([PlyElement.describe(rows, "vertex")], byte_order="<", comments=[comment]).write(str(temporary))


def _write_ground_truth(folder: Path, world: World, cameras: list[Camera], queries: list[dict[str, Any]]) -> None:
    tree = {
        "levels": world.depth,
        "level_order": f"levels[0] finest (part) ... levels[{world.depth - 1}] coarsest (group); 0 = no surface",
        "nodes": [asdict(node) for node in world.nodes],
    }
    _write_json(folder / "gt" / "tree.json", tree)
    first = cameras[0]
    poses = [
        {
            "name": f"test_{index:03}.jpg",
            "R": camera.cam_from_world[:3, :3].tolist(),
            "t": camera.cam_from_world[:3, 3].tolist(),
        }
        for index, camera in enumerate(cameras)
    ]
    _write_json(
        folder / "test_cameras.json",
        {
            "model": "PINHOLE",
            "width": first.width,
            "height": first.height,
            "params": [first.fx, first.fy, float(first.K[0, 2]), float(first.K[1, 2])],
            "convention": "OpenCV, x_cam = R x_world + t; the center of the pixel in column i is i + 0.5",
            "images": poses,
        },
    )
    protocol = (
        "pixel = [column, row] inside l1; l1 strict subset of l2 in the view; mask of id = (levels == id).any(0) in "
        "gt/<view>.npz; IoU at best threshold per level, averaged; core = l2 is an object"
    )
    _write_json(folder / "queries.json", {"protocol": protocol, "queries": queries})


def _write_into(folder: Path, config: SceneConfig) -> None:
    rng = np.random.default_rng(config.seed)
    world = build_world(config.objects, config.seed)
    table = world.level_table()
    train, test = make_cameras(config, rng)
    frames = []
    names = [f"train_{index:03}" for index in range(len(train))]
    masked = config.masks.views(names)
    for name, camera in zip(names, train, strict=True):
        frames.append(cast_view(world, camera))
        levels = table[:, frames[-1].leaf]
        _write_frame(folder, "images", name, frames[-1], levels)
        if name in masked:
            masks = simulate_masks(world.nodes, levels, name, config.masks)
            _write_json(folder / "masks_2d" / f"{name}.json", encode_masks(masks, name, config.masks.seed))
    (folder / "sparse" / "0").mkdir(parents=True)
    model = _sparse_model(train, frames, [f"{name}.jpg" for name in names], rng)
    model.write_binary(str(folder / "sparse" / "0"))
    queries = []
    for index, camera in enumerate(test):
        name = f"test_{index:03}"
        frame = cast_view(world, camera)
        levels = table[:, frame.leaf]
        _write_frame(folder, "test_images", name, frame, levels)
        queries.extend(queries_of_view(world, name, levels, rng))
    _write_points(folder / "gt" / "points.ply", world, rng)
    _write_json(folder / "synthetic.json", asdict(config))
    _write_ground_truth(folder, world, test, queries)


def write_scene(folder: str | Path, config: SceneConfig | None = None) -> Path:
    """Write a synthetic capture: a room with objects of parts, ray cast, with exact labels.

    The layout: ``images/train_###.jpg``, ``sparse/0`` (COLMAP binary), ``masks_2d/<view>.json`` (simulated masks in the
    format of segment-anything's ``amg.py --convert-to-rle``); held out: ``test_images/test_###.jpg``,
    ``test_cameras.json``, ``queries.json``; ground truth: ``gt/<view>.npz`` with ``levels`` (K, h, w) uint16,
    ``gt/tree.json``, ``gt/points.ply``. It is written under another name and renamed when whole.

    Args:
        folder: where to; must not exist or be empty.
        config: sizes and seed; the defaults if not given.

    Returns:
        ``folder``.

    Raises:
        SplatsegError: the folder holds files, a size is out of range, or there is no room to write.
    """
    folder, config = Path(folder), config or SceneConfig()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SplatsegError(f"{folder}: expected a new or empty folder for the scene, found other files")
    work = temporary_name(folder)
    try:
        work.mkdir(parents=True)
        _write_into(work, config)
        os.replace(work, folder)
    except OSError as error:
        raise SplatsegError(f"{folder}: expected a place to write the scene to, found: {error.strerror}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder
