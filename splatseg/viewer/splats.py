"""The splat in one browser: pieces of it are viser nodes, and only pieces that changed are sent again."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.morton import morton_order
from splatseg.session import Workspace
from splatseg.session.detail import sample
from splatseg.viewer.convert import browser_unit, splat_buffer, unit_scale

PIECES = 48  # an object lies in few of them; many more would slow the browser's sorting down
KEPT_TEMPLATES = 4  # of different limits


class SplatTemplate:
    """What a browser draws: which Gaussians, in which pieces.

    Args:
        workspace: whose splat.
        limit: no more than so many; a larger splat is drawn as a sample.
        camera: near which, and in whose picture, the sample is dense; None for one that is fair from everywhere.

    Attributes:
        ids: (m,) int64 drawn Gaussians, piece after piece.
        pieces: start and end row of each piece; the Gaussians of one lie together in space.
        unit: world units in one of a browser's.
    """

    def __init__(self, workspace: Workspace, limit: int, camera: Camera | None = None) -> None:
        chosen = sample(workspace, limit, camera)
        self.total, self.limit = len(workspace), limit
        order = morton_order(workspace.gaussians.means[chosen.ids].cpu())
        self.ids: Tensor = chosen.ids[order]
        bounds = np.linspace(0, len(self.ids), min(PIECES, len(self.ids)) + 1).round().astype(int)
        self.pieces = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        self.scale = unit_scale(workspace.gaussians)
        self.unit = browser_unit(workspace.near)
        drawn = workspace.gaussians.select(self.ids)
        self.buffer = splat_buffer(drawn, self.scale, chosen.boost[order])

    @property
    def sampled(self) -> bool:
        """Whether not all Gaussians are drawn."""
        return len(self.ids) < self.total

    @property
    def statement(self) -> str:
        """For the status line: how much of the scene is drawn."""
        if not self.sampled:
            return f"{self.total:,} Gaussians"
        return f"drawing {len(self.ids):,} of {self.total:,} Gaussians; selection works on all"


class Templates:
    """The templates of a server's browsers, made once a limit."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._kept: dict[int, SplatTemplate] = {}
        self._lock = threading.Lock()

    def of(self, limit: int, camera: Camera | None = None) -> SplatTemplate:
        """The template of at most ``limit`` Gaussians; one for a ``camera`` is made anew."""
        if camera is not None and limit < len(self._workspace):
            return SplatTemplate(self._workspace, limit, camera)
        with self._lock:
            found = self._kept.pop(limit, None) or SplatTemplate(self._workspace, limit)
            self._kept[limit] = found
            while len(self._kept) > KEPT_TEMPLATES:
                self._kept.pop(next(iter(self._kept)))
            return found


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
        self._shown: NDArray[np.uint32] | None = None
        self.sent_bytes = 0

    def change(self, template: SplatTemplate) -> None:
        """Draw another template from the next :meth:`show` on; nodes stay where the pieces are as large as before."""
        if template.pieces != self._template.pieces:
            for handle in self._handles:
                handle.remove()
            self._handles = []
        self._template, self._shown = template, None

    def show(self, packed: NDArray[np.uint32]) -> int:
        """Give the Gaussians the colors ``packed`` (m,), in the template's order; returns the pieces sent."""
        if not self._handles:
            self._create(packed)
            return len(self._template.pieces)
        sent = 0
        for handle, (start, end) in zip(self._handles, self._template.pieces, strict=True):
            if self._shown is not None and np.array_equal(self._shown[start:end], packed[start:end]):
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
            rgba = np.ascontiguousarray(packed[start:end]).view(np.uint8).reshape(-1, 4)
            scale = 1 / (self._template.scale * self._template.unit)
            self._handles.append(add_splats(self._scene, f"/splat/{number}", buffer, rgba, scale))
            self.sent_bytes += buffer.nbytes
        self._shown = packed.copy()


def add_splats(scene: Any, name: str, buffer: NDArray[np.uint32], rgba: NDArray[np.uint8], scale: float) -> Any:
    """A viser node of the Gaussians of :func:`splat_buffer` (m, 8) in the colors ``rgba`` (m, 4); its handle."""
    upper = np.ascontiguousarray(buffer[:, 4:7]).view(np.float16).astype(np.float32)
    return scene.add_gaussian_splats(
        name,
        centers=np.ascontiguousarray(buffer[:, :3]).view(np.float32),
        covariances=upper[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3),
        rgbs=rgba[:, :3],
        opacities=rgba[:, 3:],
        scale=scale,
    )
