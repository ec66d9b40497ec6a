"""Copies in one browser: a splat node each, moved as a whole, and the gizmo that moves one of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from splatseg.core.extent import middle_box
from splatseg.session import SceneObject
from splatseg.session.copies import Placement
from splatseg.session.shared import shown_copies
from splatseg.viewer.actions import Actions
from splatseg.viewer.convert import splat_buffer
from splatseg.viewer.events import in_order
from splatseg.viewer.markings import SEEN
from splatseg.viewer.splats import add_splats

GIZMO = "/tool/copy"


class CopyNodes:
    """What is drawn of the copies, each as a sample of at most as many Gaussians as the splat is drawn with.

    A moved copy is its node moved: nothing of it is sent again.
    """

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._shown: dict[int, tuple[SceneObject, Any]] = {}

    def show(self) -> None:
        """Bring the nodes up to the copies that this session shows."""
        session = self._window.session
        wanted = {entry.id: entry for entry in shown_copies(session.workspace.shared.content, session.isolated)}
        for key in self._shown.keys() - wanted.keys():
            self._shown.pop(key)[1].remove()
        for key, entry in wanted.items():
            known = self._shown.get(key)
            if known is not None and known[0] is entry:
                continue
            handle = self._add(entry) if known is None or known[0].ids is not entry.ids else known[1]
            assert entry.placement is not None
            self._put(handle, entry.placement)
            self._shown[key] = (entry, handle)

    def _add(self, entry: SceneObject) -> Any:
        window = self._window
        space, template = window.session.workspace, window.template
        step = -(-len(entry) // template.limit)
        ids = entry.ids.long()[::step].to(space.gaussians.device)
        drawn = space.gaussians.select(ids)
        colors = torch.cat([drawn.base_colors, drawn.opacities[:, None]], 1).cpu()
        rgba = (colors * 255).round().to(torch.uint8).numpy()
        scale = 1 / (template.scale * template.unit)
        return add_splats(window.client.scene, f"/copies/{entry.id}", splat_buffer(drawn, template.scale), rgba, scale)

    def _put(self, handle: Any, placement: Placement) -> None:
        """x' = s R x + shift, in the browser's units."""
        template = self._window.template
        shift = placement.matrix()[:3, 3] / template.unit
        with self._window.client.atomic():
            handle.position, handle.wxyz = tuple(shift.tolist()), placement.wxyz
            handle.scale = placement.scale / (template.scale * template.unit)


class CopyGizmo:
    """viser's gizmo on one copy; a drag of it is one step of undo."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._handle: Any = None
        self._key: int | None = None
        self._drag = 0

    @property
    def key(self) -> int | None:
        """The copy it moves."""
        return self._key

    def show(self, key: int | None) -> None:
        """Let it move the copy ``key``; None takes it away."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self._key = key
        entry = None if key is None else self._window.session.workspace.shared.content.find(key)
        if entry is None or entry.placement is None:
            self._key = None
            return
        template, means = self._window.template, self._window.session.workspace.gaussians.means
        low, high = middle_box(means[entry.ids.long().to(means.device)])
        extent = float((high - low).max()) * entry.placement.scale
        self._handle = self._window.client.scene.add_transform_controls(
            GIZMO, scale=max(extent, 1e-6) / template.unit, depth_test=SEEN, **self._pose(entry.placement)
        )
        self._handle.on_update(in_order(self._moved))

    def sync(self) -> None:
        """The copy may have gone, or been moved by undo or by another window."""
        if self._key is None:
            return
        entry = self._window.session.workspace.shared.content.objects.get(self._key)
        if entry is None or entry.placement is None:
            self.show(None)
            return
        pose, handle, window = self._pose(entry.placement), self._handle, self._window

        def write() -> None:
            for name, value in pose.items():
                if not window.waiting("place") and not np.allclose(getattr(handle, name), value, atol=1e-6):
                    setattr(handle, name, value)

        window.between_messages(write)

    def _pose(self, placement: Placement) -> dict[str, tuple[float, ...]]:
        unit = self._window.template.unit
        return {"position": tuple(c / unit for c in placement.center), "wxyz": placement.wxyz}

    def _moved(self, event: Any) -> None:
        if event.client is None or self._key is None:
            return
        if event.phase == "start":
            self._drag = self._window.drags.begin()
        unit = self._window.template.unit
        x, y, z = (float(value) * unit for value in event.target.position)
        w, i, j, k = (float(value) for value in event.target.wxyz)
        place = partial(self._window.session.place, self._key, (x, y, z), (w, i, j, k), drag=self._drag)
        self._window.act(place, "place")
