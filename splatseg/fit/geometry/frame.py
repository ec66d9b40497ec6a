"""The frame a fit works in: cameras in the unit sphere around the origin, whatever the capture's place and size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import Points, Scene, View


@dataclass(frozen=True, eq=False)
class FitFrame:
    """``x_fit = (x_scene - center) / size``: ``center`` (3,) float64, ``size`` in world units."""

    center: Tensor
    size: float

    @staticmethod
    def of(scene: Scene) -> FitFrame:
        """Mean camera position and :attr:`Scene.extent`; for one camera the points' distance is the unit."""
        centers = torch.stack([_position(view.camera) for view in scene.views])
        return FitFrame(centers.mean(0), scene.extent)

    def scene(self, scene: Scene) -> Scene:
        """``scene`` in this frame."""
        return Scene(tuple(self.views(scene.views)), self.points(scene.points))

    def points(self, points: Points) -> Points:
        """``points`` of the scene's frame in this one."""
        return Points(self._into(points.xyz), points.rgb)

    def _into(self, xyz: Tensor) -> Tensor:
        return ((xyz.double() - self.center) / self.size).float()

    def out(self, xyz: Tensor) -> Tensor:
        """Positions (m, 3) of this frame in the scene's."""
        return (xyz.double() * self.size + self.center).float()

    def views(self, views: Sequence[View]) -> list[View]:
        """``views`` in this frame."""
        return [replace(view, camera=self._camera(view.camera)) for view in views]

    def _camera(self, camera: Camera) -> Camera:
        pose = camera.cam_from_world.double()
        shift = (pose[:3, 3] + pose[:3, :3] @ self.center) / self.size
        moved = torch.cat([torch.cat([pose[:3, :3], shift[:, None]], dim=1), pose[3:]])
        return replace(camera, cam_from_world=moved.float(), near=camera.near / self.size)

    def into(self, gaussians: Gaussians) -> Gaussians:
        """``gaussians`` of the scene's frame in this one."""
        means, log_scales = self._into(gaussians.means), gaussians.log_scales - math.log(self.size)
        return replace(gaussians, means=means, log_scales=log_scales)

    def back(self, gaussians: Gaussians, offset: tuple[float, float, float]) -> Gaussians:
        """``gaussians`` of this frame in the scene's, on the CPU, where ``offset`` is that of the scene."""
        g = gaussians.detach().to("cpu")
        return replace(g, means=self.out(g.means), log_scales=g.log_scales + math.log(self.size), offset=offset)

    def numbers(self) -> list[float]:
        """What a checkpoint remembers: one of another frame is of no use."""
        return [*self.center.tolist(), self.size]


def _position(camera: Camera) -> Tensor:
    pose = camera.cam_from_world.double()
    return -pose[:3, :3].T @ pose[:3, 3]
