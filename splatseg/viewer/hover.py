"""An outline around what a click would take, while the pointer hovers: viser's own, of a node that can be clicked.

viser tells a server nothing of a pointer whose button is up, but its page outlines a node under it. So every area of
the picture in which clicks take the same (:mod:`splatseg.session.areas`) gets such a node, close before the camera, of
which nothing else is seen. They are made where the camera has come to rest, and are away while it moves.

The page draws an outline as those faces of a node that are turned away, each corner led ``SHIFT`` pixels along its
normal on the picture. So an area is a ring of such faces along its border, ``SHIFT`` pixels before the place where it
shall be seen. Walls along the lines of sight, of which the camera sees nothing, give its corners their normals, which
the page computes from the faces. What the pointer finds inside is nearer than anything is drawn, and costs no time.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label, median_filter

from splatseg.core.camera import Camera
from splatseg.session.areas import Areas
from splatseg.viewer.actions import Actions
from splatseg.viewer.glb import invisible_mesh
from splatseg.viewer.markings import DEPTH

NAME = "/tool/hover"
SHIFT = 10.0  # pixels, viser's
LINE = 3.0  # pixels, of what is seen
DEEPER = 1.02  # where walls end, in depths of where they begin
CLIPPED = 0.5  # of the least depth drawn
ROUNDINGS = 3
MOST_SECONDS = 3.0  # in which areas are looked for; the widest are first
HOLE = 12  # cells: smaller holes and islands are not outlined


class HoverOutlines:
    """The outlines of one window."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._parent: Any = None
        self._nodes: list[Any] = []
        self._shows: tuple[object, ...] = ()  # what the nodes are for, or will be
        self.slow = False  # the page takes long for a picture: outlines would hold clicks up

    @property
    def on(self) -> bool:
        """Whether there are outlines with the tool click."""
        chosen = self._window.choices.hover
        return not self.slow if chosen is None else chosen

    @property
    def _wanted(self) -> bool:
        """Whether there are to be some now. A gizmo under one could not be grasped."""
        return self.on and self._window.choices.tool == "click" and self._window.copy_gizmo.key is None

    def hide(self) -> None:
        """The camera moves; called in the event loop."""
        if self._parent is not None and self._parent.visible:
            self._parent.visible = False

    def renew(self) -> None:
        """Look for the areas of the picture as it is now, if they are not those that are shown."""
        state = self._state()
        if state == self._shows:
            if self._parent is not None and not self._parent.visible:
                self._parent.visible = True
            return
        self._remove()
        self._shows = state
        if self._wanted:
            camera, whole = self._window.camera(), self._window.choices.whole_labels
            # What is seen in a large scene takes longer than a click behind it should wait. No daemon: torn out of its
            # computations at the end of the process it would abort it.
            threading.Thread(target=self._look, args=(state, camera, whole), name="splatseg-hover").start()

    def _state(self) -> tuple[object, ...]:
        """All that the areas depend on."""
        window, session = self._window, self._window.session
        if not self._wanted:
            return ()
        camera = window.camera()
        looks = (camera.width, camera.height, *camera.cam_from_world.flatten().tolist(), *camera.K.flatten().tolist())
        shared = (session.workspace.shared.version, session.isolated, session.label_level)
        return (*looks, *shared, window.choices.whole_labels)

    def _look(self, state: tuple[object, ...], camera: Camera, whole_labels: bool) -> None:
        areas = Areas(self._window.session, camera, whole_labels)
        self._window.post(partial(self._step, state, areas, time.monotonic()), "hover step")

    def _step(self, state: tuple[object, ...], areas: Areas, since: float) -> None:
        """One area more; between two of them clicks are done."""
        if self._shows != state or self._state() != state:  # what changed it asks for others
            self._shows = () if self._shows == state else self._shows
        elif time.monotonic() - since < MOST_SECONDS and areas.step():
            self._window.post(partial(self._step, state, areas, since), "hover step")
        else:
            self._show(areas)

    def _show(self, areas: Areas) -> None:
        scene = self._window.client.scene
        self._parent = scene.add_frame(NAME, show_axes=False)
        for number, cells in enumerate(areas.found):
            positions, faces = outlined(cells, areas.edge, areas.camera, self._window.template.unit)
            node = scene.add_glb(f"{NAME}/{number}", invisible_mesh(positions, faces), cast_shadow=False)
            self._window.canvas.taps.listen(node)  # viser outlines only what listens to clicks
            self._nodes.append(node)

    def _remove(self) -> None:
        for node in (*self._nodes, *([] if self._parent is None else [self._parent])):
            node.remove()
        self._parent, self._nodes = None, []


def outlined(
    cells: NDArray[np.bool_], edge: int, camera: Camera, unit: float
) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Corners (v, 3), in the browser's units, and faces (f, 3) of the node for the area ``cells`` (rows, columns), each
    of ``edge`` pixels, in the picture of ``camera``."""
    cells = tidied(cells)
    pairs, places, normals = border(cells)
    places = places * edge
    ring = np.concatenate([places - normals * (SHIFT - LINE / 2), places - normals * (SHIFT + LINE / 2)])
    a, b = pairs.T
    c, d = (pairs + len(places)).T
    faces = [np.stack([a, b, c], 1), np.stack([b, d, c], 1)]
    along = np.tile(np.stack([-normals[:, 1], normals[:, 0]], 1), (2, 1)) * edge
    line = np.concatenate([ring, ring + along])
    start = np.arange(len(ring))
    deep, end = start + len(line), start + len(ring)
    faces += [np.stack([start, end, deep], 1)]
    left, right, top, bottom = runs(cells)
    inside = np.stack([np.stack([x, y], 1) for y in (top, bottom) for x in (left, right)], 1) * float(edge)
    first = 2 * len(line) + 4 * np.arange(len(left))
    faces += [np.stack([first, first + 2, first + 3], 1), np.stack([first, first + 3, first + 1], 1)]
    points = [
        _before(camera, line, DEPTH),
        _before(camera, line, DEPTH * DEEPER),
        _before(camera, inside.reshape(-1, 2), CLIPPED),
    ]
    return (np.concatenate(points) / unit).astype(np.float32), np.concatenate(faces).astype(np.uint32)


def tidied(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``cells`` (rows, columns) without single cells, notches and holes, as far as something is left."""
    smooth: NDArray[np.bool_] = median_filter(cells, 3)
    pieces, count = label(~smooth)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    smooth |= (sizes < HOLE)[pieces]
    pieces, count = label(smooth)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    kept: NDArray[np.bool_] = smooth & (sizes >= min(HOLE, sizes[1:].max(initial=0)))[pieces]
    return kept if kept.any() else cells


def _before(camera: Camera, places: NDArray[Any], depth: float) -> NDArray[np.float64]:
    """(v, 3) world points seen at ``places`` (v, 2), image positions, at ``depth`` times the least depth drawn."""
    flat = torch.from_numpy(places).float() - 0.5  # unproject() is of the middles of pixels
    return camera.unproject(flat, torch.full((len(flat),), depth * camera.near)).double().numpy()


def border(cells: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The border of an area of ``cells`` (rows, columns).

    Returns:
        (e, 2) int64 pairs of corners, the area on the right of the way from one to the other; (c, 2) float64 corners in
        cells, (column, row), rounded off; (c, 2) float64 normals of length 1, outward.
    """
    padded = np.pad(cells, 1)
    inside = padded[1:-1, 1:-1]
    wide = cells.shape[1] + 1
    found = []
    # What lies beyond each side, and its two ends in the order in which they are passed.
    for beyond, start, end in (
        (padded[:-2, 1:-1], (0, 0), (0, 1)),
        (padded[1:-1, 2:], (0, 1), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (1, 0)),
        (padded[1:-1, :-2], (1, 0), (0, 0)),
    ):
        rows, columns = np.nonzero(inside & ~beyond)
        ends = [(rows + r) * wide + columns + c for r, c in (start, end)]
        found.append(np.stack(ends, 1))
    corners, pairs = np.unique(np.concatenate(found), return_inverse=True)
    pairs = pairs.reshape(-1, 2)
    places = np.stack([corners % wide, corners // wide], 1).astype(np.float64)
    for _ in range(ROUNDINGS):
        places = (places + _mean_of_neighbors(pairs, places)) / 2
    along = places[pairs[:, 1]] - places[pairs[:, 0]]
    normals = np.zeros_like(places)
    for side in (pairs[:, 0], pairs[:, 1]):
        np.add.at(normals, side, np.stack([along[:, 1], -along[:, 0]], 1))
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return pairs, places, normals / np.where(lengths > 1e-9, lengths, 1)


def _mean_of_neighbors(pairs: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    total, count = np.zeros_like(places), np.zeros(len(places))
    for one, other in ((pairs[:, 0], pairs[:, 1]), (pairs[:, 1], pairs[:, 0])):
        np.add.at(total, one, places[other])
        np.add.at(count, one, 1)
    return total / count[:, None]


def runs(cells: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """Left, right, top and bottom of the rectangles, one row high, that an area of ``cells`` (rows, columns) is of."""
    steps = np.diff(np.pad(cells, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, left = np.nonzero(steps == 1)
    right = np.nonzero(steps == -1)[1]
    return left, right, rows, rows + 1
