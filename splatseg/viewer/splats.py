"""The splat in one browser: pieces of it are viser nodes, and only pieces whose colors changed are sent again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from splatseg.core.morton import morton_order
from splatseg.session import Workspace
from splatseg.session.colors import detail_boost, level_of_detail
from splatseg.viewer.convert import browser_unit, splat_buffer, unit_scale

PIECES = 48  # an object lies in few of them; many more would slow the browser's sorting down


class SplatTemplate:
    """What all browsers draw: which Gaussians, in which pieces. Made once a server.

    Attributes:
        ids: (m,) int64 drawn Gaussians, piece after piece.
        pieces: start and end row of each piece; the Gaussians of one lie together in space.
        unit: world units in one of a browser's.
    """

    def __init__(self, workspace: Workspace, limit: int) -> None:
        chosen = level_of_detail(workspace, limit)
        self.total, self.limit = len(workspace), limit
        order = morton_order(workspace.gaussians.means[chosen].cpu())
        self.ids: Tensor = chosen[order]
        bounds = np.linspace(0, len(chosen), min(PIECES, len(chosen)) + 1).round().astype(int)
        self.pieces = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        self.scale = unit_scale(workspace.gaussians)
        self.unit = browser_unit(workspace.near)
        drawn = workspace.gaussians.select(self.ids)
        self.buffer = splat_buffer(drawn, self.scale, detail_boost(workspace, limit))

    @property
    def statement(self) -> str:
        """For the status line: how much of the scene is drawn."""
        if len(self.ids) == self.total:
            return f"{self.total:,} Gaussians"
        return f"drawing {len(self.ids):,} of {self.total:,} Gaussians; selection works on all"


class SplatNodes:
    """The template in one browser, in colors of its own.

    Args:
        template: what to draw.
        scene: the browser's viser scene.
    """

    def __init__(self, template: SplatTemplate, scene: Any) -> None:
        self._template = template
        self._scene = scene
        self._handles: list[Any] = []
        self._shown = np.zeros(0, np.uint32)
        self.sent_bytes = 0

    def show(self, packed: NDArray[np.uint32]) -> int:
        """Give the Gaussians the colors ``packed`` (m,), in the template's order; returns the pieces sent."""
        if not self._handles:
            self._create(packed)
            return len(self._template.pieces)
        sent = 0
        for handle, (start, end) in zip(self._handles, self._template.pieces, strict=True):
            if np.array_equal(self._shown[start:end], packed[start:end]):
                continue
            buffer = self._template.buffer[start:end].copy()
            buffer[:, 7] = packed[start:end]
            handle.buffer = buffer
            self.sent_bytes += buffer.nbytes
            sent += 1
        self._shown = packed.copy()
        return sent

    def _create(self, packed: NDArray[np.uint32]) -> None:
        for number, (start, end) in enumerate(self._template.pieces):
            buffer = self._template.buffer[start:end]
            upper = np.ascontiguousarray(buffer[:, 4:7]).view(np.float16).astype(np.float32)
            rgba = np.ascontiguousarray(packed[start:end]).view(np.uint8).reshape(-1, 4)
            handle = self._scene.add_gaussian_splats(
                f"/splat/{number}",
                centers=np.ascontiguousarray(buffer[:, :3]).view(np.float32),
                covariances=upper[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3),
                rgbs=rgba[:, :3],
                opacities=rgba[:, 3:],
                scale=1 / (self._template.scale * self._template.unit),
            )
            self.sent_bytes += buffer.nbytes
            self._handles.append(handle)
        self._shown = packed.copy()
