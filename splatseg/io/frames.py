"""The frame of a run: that of its capture, or, where float32 cannot hold positions there, one moved to its cameras."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splatseg.core.errors import SplatsegError
from splatseg.core.scene import NEAR_SHARE, frame_size
from splatseg.io.colmap_types import Model

FAR_AWAY = 1e3
"""Offset / extent from which on float32 is too coarse: its step there is 6e-5 of the extent, a tenth of a pixel."""
Offset = tuple[float, float, float]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptureFrame:
    """``offset``: origin of the run's frame in the capture's, float64; ``near``: least depth drawn, world units."""

    offset: Offset
    near: float

    def moved(self, cam_from_world: NDArray[np.float64]) -> NDArray[np.float64]:
        """The pose (4, 4) of the capture's frame in the run's, in float64."""
        pose = cam_from_world.copy()
        pose[:3, 3] += pose[:3, :3] @ np.array(self.offset)
        return pose


def capture_frame(model: Model, folder: Path) -> CaptureFrame:
    """The frame of the capture in ``folder``; that it is a local one is said in a line.

    Raises:
        SplatsegError: poses without a finite size.
    """
    poses = [image.cam_from_world() for image in model.images]
    centers = np.stack([-pose[:3, :3].T @ pose[:3, 3] for pose in poses])
    with np.errstate(over="ignore", invalid="ignore"):
        extent = frame_size(centers, model.xyz)
        middle = centers.mean(0)
        distance = float(np.linalg.norm(middle))
    if not math.isfinite(extent) or not math.isfinite(distance):
        raise SplatsegError(f"{folder}: expected camera positions that float64 can hold, found larger ones")
    if distance < FAR_AWAY * extent:
        return CaptureFrame((0.0, 0.0, 0.0), NEAR_SHARE * extent)
    x, y, z = np.round(middle, -math.floor(math.log10(extent))).tolist()  # as few digits as keep it near the cameras
    log.warning(
        "%s: float32 cannot hold positions there; the run's files are in a local frame, its origin at (%r, %r, %r) of "
        "the capture's (PLY comments and labels.json say so)",
        folder,
        x,
        y,
        z,
    )
    return CaptureFrame((x, y, z), NEAR_SHARE * extent)


def local_offset(poses: NDArray[np.float64]) -> Offset:
    """The middle of the cameras ``poses`` (m, 4, 4), where float32 cannot hold them in their own frame; else zeros."""
    centers = np.array([-pose[:3, :3].T @ pose[:3, 3] for pose in poses]).reshape(-1, 3)
    if not len(centers) or not np.isfinite(centers).all():
        return (0.0, 0.0, 0.0)
    middle = centers.mean(0)
    spread = float(np.linalg.norm(centers - middle, axis=1).max())
    x, y, z = middle.tolist()
    return (x, y, z) if float(np.linalg.norm(middle)) >= FAR_AWAY * spread else (0.0, 0.0, 0.0)
