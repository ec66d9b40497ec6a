"""Posed cameras and points as the text files of a COLMAP model, without tracks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from splatseg.core.camera import Camera
from splatseg.core.scene import Points


def write_colmap_text(
    folder: Path,
    cameras: Sequence[Camera],
    names: Sequence[str],
    points: Points,
    offset: Sequence[float] = (0.0, 0.0, 0.0),
) -> None:
    """Write ``cameras.txt``, ``images.txt`` and ``points3D.txt`` to ``folder``, which is made.

    Args:
        cameras: pinholes, at least one; equal ones are one camera of the model.
        names: of their images, one each.
        points: nobody is said to see them.
        offset: where the origin of cameras and points lies in the model's frame, as ``Gaussians.offset``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    origin = np.array(offset, np.float64)
    kinds: dict[str, int] = {}
    images = []
    for number, (camera, name) in enumerate(zip(cameras, names, strict=True), start=1):
        values = [camera.fx, float(camera.K[1, 1]), float(camera.K[0, 2]), float(camera.K[1, 2])]
        kind = f"PINHOLE {camera.width} {camera.height} {_numbers(values)}"
        pose = camera.cam_from_world.double().cpu().numpy()
        rotation = Rotation.from_matrix(pose[:3, :3])  # the nearest one: far from the origin float32's is too coarse
        x, y, z, w = rotation.as_quat()
        place = -rotation.as_matrix() @ (origin - pose[:3, :3].T @ pose[:3, 3])
        # The second line of an image holds its 2D points: none.
        images.append(f"{number} {_numbers([w, x, y, z, *place])} {kinds.setdefault(kind, len(kinds) + 1)} {name}\n\n")
    xyz = points.xyz.double().cpu().numpy() + origin
    colored = zip(xyz, points.rgb.tolist(), strict=True)
    rows = [f"{k} {_numbers(place)} {r} {g} {b} 0\n" for k, (place, (r, g, b)) in enumerate(colored, start=1)]
    _write(folder / "cameras.txt", [f"{number} {kind}\n" for kind, number in kinds.items()])
    _write(folder / "images.txt", images)
    _write(folder / "points3D.txt", rows)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(repr(float(value)) for value in values)


def _write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
