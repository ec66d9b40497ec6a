"""Between viser's terms and ours: browser cameras, poses of photos, and the buffer its splat renderer reads.

A browser's lengths are in units of its own (:func:`browser_unit`): what is sent to it is divided by the unit, what
comes from it multiplied. viser's keys move 2 units per second, whatever is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import atan, tan

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.extent import middle_box
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import Scene

MAX_HALF = 60_000.0  # the renderer holds covariances in float16
# In a browser's units: the least and largest depths drawn, and how near and far one may turn around something.
NEAR, FAR, NEAREST_TURN, FARTHEST_TURN = 0.01, 1e5, 0.01, 1e4


@dataclass(frozen=True, eq=False)
class Pose:
    """Where a browser's camera is to be: position, the point it turns around, up, vertical field of view (radians)."""

    position: NDArray[np.float64]
    look_at: NDArray[np.float64]
    up: NDArray[np.float64]
    fov: float

    def in_units(self, unit: float) -> Pose:
        """The pose with lengths of the world in units of ``unit``."""
        return replace(self, position=self.position / unit, look_at=self.look_at / unit)


def browser_unit(near: float) -> float:
    """World units in one of a browser's: a tenth of the capture's size, as the least depth drawn, ``near``, is a
    thousandth of it."""
    return near / NEAR


def browser_camera(
    position: NDArray[np.floating],
    wxyz: NDArray[np.floating],
    fov: float,
    width: int,
    height: int,
    near: float = Camera.near,
) -> Camera:
    """The camera of a browser window.

    Args:
        position: (3,) in the browser's units.
        wxyz: (4,) rotation from camera (OpenCV axes) to world.
        fov: vertical field of view in radians.
        width, height: pixels of the picture.
        near: least depth drawn, world units.
    """
    world_from_cam = Rotation.from_quat(np.asarray(wxyz, np.float64), scalar_first=True).as_matrix()
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = world_from_cam.T
    cam_from_world[:3, 3] = -world_from_cam.T @ (np.asarray(position, np.float64) * browser_unit(near))
    focal = height / 2 / tan(fov / 2)
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)
    return Camera(intrinsics, torch.from_numpy(cam_from_world).float(), width, height, near)


def view_pose(camera: Camera, distance: float) -> Pose:
    """The pose that shows what ``camera`` shows, turning around the point ``distance`` ahead.

    The browser has no principal point: a camera whose center is off shows a slightly shifted picture there.
    """
    world_from_cam = camera.cam_from_world[:3, :3].T.double().numpy()
    position = camera.position.double().numpy()
    fov = 2 * atan(camera.height / 2 / camera.fy)
    return Pose(position, position + world_from_cam[:, 2] * distance, -world_from_cam[:, 1], fov)


def overview_pose(gaussians: Gaussians) -> Pose:
    """A pose from which the middle 90 % of the splat is seen, for runs without photos; y points down, as in COLMAP."""
    low, high = middle_box(gaussians.means, 0.9)
    center, radius = ((low + high) / 2).numpy(), float((high - low).norm()) / 2
    direction = np.array([0.4, -0.5, -0.8])
    return Pose(center + direction * (radius or 1.0) * 2.2, center, np.array([0.0, -1.0, 0.0]), 0.9)


def focus_pose(gaussians: Gaussians, ids: Tensor, now: Pose) -> Pose:
    """The pose that looks as ``now`` does and shows the Gaussians ``ids`` (m,): their middle 96 % fill half of it."""
    low, high = middle_box(gaussians.means[ids])
    spread = float((high - low).norm()) / 2 or 3 * float(gaussians.scales[ids].max())
    center, away = ((low + high) / 2).numpy(), now.position - now.look_at
    distance = 2 * spread / tan(now.fov / 2)
    return Pose(center + away / max(float(np.linalg.norm(away)), 1e-12) * distance, center, now.up, now.fov)


def scene_up(scene: Scene) -> NDArray[np.float64]:
    """(3,) unit vector that points up in most photos."""
    up = torch.stack([-view.camera.cam_from_world[1, :3] for view in scene.views]).double().mean(0).numpy()
    length = float(np.linalg.norm(up))
    return up / length if length > 1e-3 else np.array([0.0, -1.0, 0.0])


def turn_distance(scene: Scene, camera: Camera) -> float:
    """Median depth of the scene's points in ``camera``: where a person expects to turn around."""
    depths = camera.project(scene.points.xyz)[1]
    ahead = depths[depths > 0]
    return float(ahead.median()) if len(ahead) else scene.extent


def unit_scale(gaussians: Gaussians) -> float:
    """Factor that brings the median of the largest standard deviations to 1, where float16 covariances are precise."""
    return 1 / max(float(gaussians.scales.max(1).values.median()), 1e-12)


def splat_buffer(gaussians: Gaussians, scale: float, boost: Tensor | None = None) -> NDArray[np.uint32]:
    """(n, 8) uint32 as viser's renderer reads it, colors (column 7) zero.

    Columns: 0..2 the center times ``scale`` (float32), 3 reserved, 4..6 the covariance's upper triangle times
    (``scale`` x ``boost``)^2 (six float16), ``boost`` (n,) being 1 if not given. Draw it with 1 / ``scale``.
    """
    quats = torch.nn.functional.normalize(gaussians.quats, dim=1).double().cpu().numpy()
    spread = gaussians.scales.double().cpu().numpy() * scale
    if boost is not None:
        spread *= boost.double().numpy()[:, None]
    axes = Rotation.from_quat(quats, scalar_first=True).as_matrix() * spread[:, None, :]
    covariances = axes @ axes.transpose(0, 2, 1)
    upper = covariances.reshape(-1, 9)[:, [0, 1, 2, 4, 5, 8]]
    buffer = np.zeros((len(gaussians), 8), np.uint32)
    buffer[:, :3] = (gaussians.means.double().cpu().numpy() * scale).astype(np.float32).view(np.uint32)
    buffer[:, 4:7] = np.ascontiguousarray(np.clip(upper, -MAX_HALF, MAX_HALF), np.float16).view(np.uint32)
    return buffer
