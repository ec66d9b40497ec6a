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


class Outline:
    """The corners of a lasso as crosses with lines in between, the closing one included."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._handle: Any = None

    def show(self, camera: Camera | None, corners: Sequence[tuple[float, float]]) -> None:
        """Show ``corners`` (u, v) of the picture of ``camera``; nothing where there are none."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if camera is None or not corners:
            return
        lines = segments(corners)
        flat = torch.from_numpy(lines.reshape(-1, 2))
        depths = torch.full((len(flat),), DEPTH * camera.near)
        points = camera.unproject(flat, depths).double().numpy() / self._window.template.unit
        self._handle = self._window.client.scene.add_line_segments(
            NAME, points.reshape(-1, 2, 3).astype(np.float32), ACCENT, thickness=2.5, thickness_units="screen"
        )


def segments(corners: Sequence[tuple[float, float]]) -> NDArray[np.float32]:
    """(m, 2, 2) float32 ends of the lines through ``corners`` and of their crosses, image positions."""
    places = np.asarray(corners, np.float32)
    arms = np.array([[[-CROSS, 0], [CROSS, 0]], [[0, -CROSS], [0, CROSS]]], np.float32)
    lines = (places[:, None, None] + arms[None]).reshape(-1, 2, 2)
    if len(places) > 1:
        lines = np.concatenate([lines, np.stack([places, np.roll(places, -1, axis=0)], axis=1)])
    return lines
