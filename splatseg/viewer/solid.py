"""A box or a ball in the scene, moved and turned by viser's gizmo."""

from __future__ import annotations

from typing import Any, Literal

import torch

from splatseg.core.errors import SplatsegError
from splatseg.core.extent import middle_box
from splatseg.session import Mode
from splatseg.viewer.actions import Actions, SolidPose
from splatseg.viewer.markings import ACCENT, SEEN

NAME = "/tool/solid"
SHARE = 0.25  # of the distance to what is turned around: edge of a box that is put where nothing is selected
MARGIN = 1.2  # around what is selected
Kind = Literal["box", "ball"]


class SolidGizmo:
    """One solid of a window. Its size is in world units; lengths go to the browser in units of its own."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._gizmo: Any = None
        self._shape: Any = None
        self.kind: Kind | None = None
        self.size = (1.0, 1.0, 1.0)  # edges of the box; the first is the ball's diameter

    def show(self, kind: str | None) -> None:
        """Put a box or ball around the selection, or where the camera looks at; None takes it away."""
        if self._gizmo is not None:
            self._gizmo.remove()  # the shape with it
        self._gizmo = self._shape = self.kind = None
        if kind is None:
            return
        assert kind in ("box", "ball")
        self.kind = kind  # type: ignore[assignment]
        center, self.size = self._place()
        unit, scene = self._window.template.unit, self._window.client.scene
        position = tuple(c / unit for c in center)
        self._gizmo = scene.add_transform_controls(
            NAME,
            scale=0.75 * max(self.size) / unit,
            depth_test=SEEN,
            position=position,
            disable_rotations=kind == "ball",
        )
        if kind == "box":
            self._shape = scene.add_box(f"{NAME}/shape", ACCENT, self._sent(), wireframe=True)
        else:
            self._shape = scene.add_icosphere(f"{NAME}/shape", self._sent()[0] / 2, ACCENT, wireframe=True)

    def resize(self, size: tuple[float, ...]) -> None:
        """Make it as large as that, world units.

        Raises:
            SplatsegError: a length that is not above 0.
        """
        if not all(length > 0 for length in size):
            raise SplatsegError(f"size: expected lengths above 0, found {size}")
        self.size = (size[0], size[1], size[2])
        if self.kind == "box":
            self._shape.dimensions = self._sent()
        elif self.kind == "ball":
            self._shape.radius = self._sent()[0] / 2

    @property
    def pose(self) -> SolidPose | None:
        """Where the gizmo stands now, if there is one."""
        gizmo, unit = self._gizmo, self._window.template.unit
        if gizmo is None:
            return None
        x, y, z = (float(value) * unit for value in gizmo.position)
        w, i, j, k = (float(value) for value in gizmo.wxyz)
        return SolidPose((x, y, z), (w, i, j, k))

    def take(self, mode: Mode, pose: SolidPose | None) -> None:
        """Combine the selection with what lies inside when it stands there.

        Raises:
            SplatsegError: no solid is there, or nothing in it.
        """
        if self.kind is None or pose is None:
            raise SplatsegError("solid: expected the tool box or ball, found another; choose it first")
        session = self._window.session
        if self.kind == "ball":
            session.select_sphere(pose.center, self.size[0] / 2, mode)
            return
        session.select_box(pose.center, self.size, pose.wxyz, mode)

    def _sent(self) -> tuple[float, float, float]:
        unit = self._window.template.unit
        return (self.size[0] / unit, self.size[1] / unit, self.size[2] / unit)

    def _place(self) -> tuple[list[float], tuple[float, float, float]]:
        """Center and edges, world units."""
        window = self._window
        chosen = window.session.selection
        if len(chosen):
            low, high = middle_box(window.session.workspace.gaussians.means[chosen.ids], 0.98)
            edges = ((high - low) * MARGIN).clamp_min(1e-3 * float((high - low).max()) or window.template.unit * 1e-2)
            if self.kind == "ball":
                edges = torch.full((3,), float((high - low).norm()) * MARGIN or float(edges.max()))
            return ((low + high) / 2).tolist(), (float(edges[0]), float(edges[1]), float(edges[2]))
        camera, unit = window.client.camera, window.template.unit
        edge = SHARE * float(((camera.look_at - camera.position) ** 2).sum() ** 0.5) * unit
        return (camera.look_at * unit).tolist(), (edge, edge, edge)
