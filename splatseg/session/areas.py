"""What clicks would take, all over a picture: the areas to outline while a pointer hovers over it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.render import trace
from splatseg.segment.clicks import EMPTY_ALPHA
from splatseg.session.session import Session

CELLS = 16_000  # of a picture, about
FINEST = 4  # pixels, edge of a cell at least
MOST = 48  # areas; the widest come first
SMALLEST = 6  # cells: what shows less of itself is not looked for


def foremost(gaussians: Gaussians, camera: Camera, pixels: Tensor) -> Tensor:
    """(m,) int64 ids: the Gaussian with most of the weight of each of ``pixels`` (m, 2) int32; -1 in empty space."""
    seen = trace(gaussians, camera, pixels)
    rows = seen.order.repeat_interleave(seen.offsets.diff())
    total, most = seen.weights.new_zeros(2, len(pixels)).unbind()
    total = total.index_add(0, rows, seen.weights)
    most = most.scatter_reduce(0, rows, seen.weights, "amax")
    first = (seen.weights == most[rows]) & (total[rows] >= EMPTY_ALPHA)
    return torch.full_like(most, -1, dtype=torch.int64).scatter(0, rows[first], seen.ids[first].long())


class Areas:
    """Finds them one after the other: each is what is seen of what a click into the middle of the widest place takes
    that belongs to none yet.

    Args:
        session: whose clicks; nothing of it is changed.
        camera: whose picture.
        whole_labels: whether a click takes a label.

    Attributes:
        camera: whose picture.
        edge: pixels of a cell's edge.
        found: (rows, columns) bool cells of each area so far; no two share one.
    """

    def __init__(self, session: Session, camera: Camera, whole_labels: bool) -> None:
        self.camera = camera
        self._look = session.preview_label if whole_labels else session.preview
        self.edge = max(FINEST, int(np.ceil((camera.width * camera.height / CELLS) ** 0.5)))
        columns = torch.arange(self.edge // 2, camera.width, self.edge, dtype=torch.int32)
        rows = torch.arange(self.edge // 2, camera.height, self.edge, dtype=torch.int32)
        shape = (len(rows), len(columns))
        pixels = torch.cartesian_prod(rows, columns).flip(1)
        gaussians = session.workspace.visible_gaussians(session.isolated)
        self._shown = foremost(gaussians, camera, pixels.to(gaussians.device)).cpu().numpy().reshape(shape)
        self._left = self._shown >= 0
        self.found: list[NDArray[np.bool_]] = []
        self._asked = 0

    def step(self) -> bool:
        """Look for one more; False when there is none."""
        inside = distance_transform_edt(np.pad(self._left, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(inside.argmax()), inside.shape)
        if self._asked == MOST or self._left.sum() < SMALLEST or not self._left[row, column]:
            return False
        self._asked += 1
        u, v = ((cell + 0.5) * self.edge for cell in (column, row))
        try:
            taken = self._look(self.camera, min(u, self.camera.width - 0.5), min(v, self.camera.height - 0.5))
        except SplatsegError:
            taken = None
        mask = self._left if taken is None else self._left & taken.mask.cpu().numpy()[self._shown.clip(0)]
        if taken is None or not mask[row, column]:  # a click there takes nothing, or nothing that is in front
            mask = np.zeros_like(self._left)
        elif mask.sum() >= SMALLEST:
            self.found.append(mask)
        self._left &= ~mask
        self._left[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = False
        return True
