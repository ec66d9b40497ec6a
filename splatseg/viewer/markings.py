"""Lines drawn over the canvas, close before the camera."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splatseg.core.camera import Camera
from splatseg.viewer.actions import Actions

ACCENT = (255, 120, 0)
DEPTH = 5.0  # of the least depth drawn: in front of everything else
CROSS = 4.0  # pixels from a corner's middle to its arms' ends
NAME = "/tool/outline"
ROUND = 48  # corners of what stands for a circle
# viser draws splats last and over all that has left no depth: a gizmo without the depth test is under all of them, one
# with it only under those in front of it.
SEEN = True


class Outline:
    """Lines on the picture of a camera; ``name`` is the viser node they are."""

    def __init__(self, window: Actions, name: str = NAME) -> None:
        self._window, self._name = window, name
        self._handle: Any = None

    def show(self, camera: Camera | None, lines: NDArray[np.float32]) -> None:
        """Show ``lines`` (m, 2, 2), ends (u, v) on the picture of ``camera``; nothing where there are none."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if camera is None or not len(lines):
            return
        flat = torch.from_numpy(lines.reshape(-1, 2)) - 0.5  # unproject() is of the middles of pixels
        depths = torch.full((len(flat),), DEPTH * camera.near)
        points = camera.unproject(flat, depths).double().numpy() / self._window.template.unit
        self._handle = self._window.client.scene.add_line_segments(
            self._name, points.reshape(-1, 2, 3).astype(np.float32), ACCENT, thickness=2.5, thickness_units="screen"
        )


def segments(corners: Sequence[tuple[float, float]]) -> NDArray[np.float32]:
    """(m, 2, 2) float32 ends of the lines through the ``corners`` of a lasso, the closing one included, and of the
    crosses on them, image positions."""
    places = np.asarray(corners, np.float32).reshape(-1, 2)
    arms = np.array([[[-CROSS, 0], [CROSS, 0]], [[0, -CROSS], [0, CROSS]]], np.float32)
    lines = (places[:, None, None] + arms[None]).reshape(-1, 2, 2)
    if len(places) > 1:
        lines = np.concatenate([lines, closed(places)])
    return lines


def circle(center: tuple[float, float], radius: float) -> NDArray[np.float32]:
    """(m, 2, 2) float32 ends of the lines around ``center``, pixels."""
    turn = np.linspace(0, 2 * np.pi, ROUND, endpoint=False)
    around = np.stack([np.cos(turn), np.sin(turn)], axis=1) * radius + np.asarray(center)
    return closed(around.astype(np.float32))


def opened(places: Sequence[tuple[float, float]]) -> NDArray[np.float32]:
    """(m, 2, 2) lines from each of ``places`` (m, 2) to the next."""
    return closed(np.asarray(places, np.float32).reshape(-1, 2))[:-1]


def closed(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """(m, 2, 2) lines from each of ``places`` (m, 2) to the next, and from the last to the first."""
    return np.stack([places, np.roll(places, -1, axis=0)], axis=1)
