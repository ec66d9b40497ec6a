"""Pinhole cameras. This is the only module that knows the pixel-center rule: the center of column i is i + 0.5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims, check_finite


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera in OpenCV axes (x right, y down, z forward).

    Attributes:
        K: (3, 3) float32 intrinsics, in pixels.
        cam_from_world: (4, 4) float32 rigid transform, ``x_cam = cam_from_world @ x_world``.
        width: image columns.
        height: image rows.
        near: least z-depth that is drawn, world units; of a capture's cameras a share of its size.
    """

    K: Tensor
    cam_from_world: Tensor
    width: int
    height: int
    near: float = 0.01

    def __post_init__(self) -> None:
        check_dims("camera.K", self.K, (3, 3))
        check_dims("camera.cam_from_world", self.cam_from_world, (4, 4))
        check_finite("camera.K", self.K)
        check_finite("camera.cam_from_world", self.cam_from_world)
        if self.width < 1 or self.height < 1:
            raise SplatsegError(f"camera: expected a positive image size, found {self.width}x{self.height}")

    @property
    def fx(self) -> float:
        return float(self.K[0, 0])

    @property
    def fy(self) -> float:
        return float(self.K[1, 1])

    @property
    def position(self) -> Tensor:
        """(3,) camera center in world coordinates."""
        rotation = self.cam_from_world[:3, :3]
        return -rotation.T @ self.cam_from_world[:3, 3]

    def to(self, device: torch.device | str) -> Camera:
        return replace(self, K=self.K.to(device), cam_from_world=self.cam_from_world.to(device))

    def resized(self, width: int, height: int) -> Camera:
        """The same view drawn with ``width`` x ``height`` pixels; each axis scales by its own ratio."""
        K = self.K.clone()
        K[0] *= width / self.width
        K[1] *= height / self.height
        return replace(self, K=K, width=width, height=height)

    def with_origin(self, origin: Sequence[float]) -> Camera:
        """The same camera in a world whose origin is at ``origin`` (3,) of this one, moved in float64."""
        if not any(origin):
            return self
        pose = self.cam_from_world.double()
        moved = pose.clone()
        moved[:3, 3] += pose[:3, :3] @ torch.tensor(list(origin), dtype=torch.float64, device=pose.device)
        return replace(self, cam_from_world=moved.to(self.cam_from_world.dtype))

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Image coordinates (n, 2), in pixels with centers at + 0.5, and depths (n,) of world ``points`` (n, 3)."""
        cam = points @ self.cam_from_world[:3, :3].T + self.cam_from_world[:3, 3]
        image = cam @ self.K.T
        return image[:, :2] / cam[:, 2:], cam[:, 2]

    def unproject(self, pixels: Tensor, depths: Tensor) -> Tensor:
        """World points (n, 3) seen through the centers of integer ``pixels`` (n, 2) [col, row] at z-``depths`` (n,)."""
        centers = torch.cat([pixels.to(self.K.dtype) + 0.5, torch.ones_like(depths)[:, None]], dim=1)
        cam = centers @ torch.linalg.inv(self.K).T * depths[:, None]
        return (cam - self.cam_from_world[:3, 3]) @ self.cam_from_world[:3, :3]

    def check_pixel(self, u: float, v: float) -> tuple[int, int]:
        """Column and row of the pixel that holds image position (u, v).

        Raises:
            SplatsegError: the position is outside the image.
        """
        if not (0 <= u < self.width and 0 <= v < self.height):
            raise SplatsegError(
                f"pixel: expected column in 0..{self.width - 1} and row in 0..{self.height - 1}, found ({u:g}, {v:g})"
            )
        return int(u), int(v)
