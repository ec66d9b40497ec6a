"""Drags of the pointer over the canvas, told point by point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from splatseg.core.camera import Camera
from splatseg.viewer.actions import Actions
from splatseg.viewer.events import in_order
from splatseg.viewer.glb import invisible_mesh
from splatseg.viewer.rest import Later

NAME = "/tool/backdrop"
TAPS = "/tool/taps"
ALONE_SECONDS = 0.3  # a mouse's click is told of at once
EDGE = 1e5  # half of the backdrop's, in the browser's units: beyond what it draws, within what its pointer finds
MOST_EARLY = 8  # clicks: of some the node is never told, as of the second of three within 50 ms
PLACE = 0.01  # of the picture's sides: a pointer that moves by three pixels, and no more, clicks
APART = 2.0  # pixels: points of a stroke that are nearer to the last one are left out
MOST_POINTS = 5_000  # of a stroke: half an hour of a hand at viser's 20 a second

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
_SIDES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
# The page outlines those faces of a node that are turned away: of these none is, from inside.
_FACES = np.array([face for a, b, c, d in _SIDES for face in ((a, c, b), (a, d, c))], np.uint32)


def _add_box(window: Actions, name: str, half_edge: float) -> Any:
    """An invisible box around everything. No lit mesh: a browser without a GPU takes seconds to compile its shader."""
    box = invisible_mesh(_CORNERS * np.float32(half_edge), _FACES)
    return window.client.scene.add_glb(name, box, cast_shadow=False, receive_shadow=False)


def _at_one_place(first: Any, second: Any) -> bool:
    """Whether both may tell of one click."""
    return all(abs(a - b) <= PLACE for a, b in zip(first.screen_pos, second.screen_pos, strict=True))


@dataclass
class Stroke:
    """A drag that goes on.

    Attributes:
        camera: through which it is drawn; viser holds it meanwhile.
        modifier: keys that are held, as viser names them.
        points: image positions (u, v) so far.
        ended: whether the button was let go.
        given_up: whether nothing more is to come of it.
    """

    camera: Camera
    modifier: str | None
    points: list[tuple[float, float]] = field(default_factory=list)
    ended: bool = False
    given_up: bool = False

    def lead_to(self, u: float, v: float) -> None:
        """The pointer is at image position (u, v) now."""
        if len(self.points) >= MOST_POINTS:
            return
        if not self.points or np.hypot(u - self.points[-1][0], v - self.points[-1][1]) >= APART:
            self.points.append((u, v))


class Taps:
    """Tells of taps on a touch screen: viser 1.1.1 takes a finger on the canvas for one that a gizmo holds already
    (``client/src/App.tsx``, line 708), so its page tells of no click there, but of one on a node that listens.

    This one is an invisible box around everything. A mouse's plain click is told twice, by the page, with the place
    where the button went down, and of the node, with that where it went up: mostly of the node first, but of a click
    soon after another only when a timer of the page has run. A tap is what the page tells nothing of.
    """

    def __init__(self, window: Actions, tapped: Callable[[Any], None]) -> None:
        self._tapped, self._waiting = tapped, None
        self._taken: Any = None
        self._early: list[Any] = []  # clicks of the page that are still to be told of the node
        self._alone = Later(ALONE_SECONDS, self._take, rest=True)  # an earlier click says nothing of it
        self.listen(_add_box(window, TAPS, 2 * EDGE))

    def listen(self, node: Any) -> None:
        """Taps may come from ``node``, too, which is before everything else."""
        node.on_click(in_order(self._clicked))

    def clicked(self, event: Any) -> bool:
        """The page has told of a click: it was a mouse's. Whether it was not yet taken for a tap, as where the page is
        late."""
        waiting, taken = self._waiting, self._taken
        self._waiting = self._taken = None
        if waiting is None and taken is not None and _at_one_place(taken, event):
            return False
        if waiting is None and event.modifier is None:  # the node listens to no others
            self._early = [*self._early, event][-MOST_EARLY:]
        return True

    def close(self) -> None:
        """Listen no more."""
        self._alone.close()

    def _clicked(self, event: Any) -> None:
        told = next((early for early in self._early if _at_one_place(early, event)), None)
        if told is not None:
            self._early.remove(told)
            return
        self._waiting = event
        self._alone.tell()

    def _take(self) -> None:
        event, self._waiting = self._waiting, None
        if event is not None:
            self._taken = event
            self._tapped(event)


class Backdrop:
    """Tells of plain drags while it is there, which the camera does not follow then.

    viser tells of a drag's way only where it begins on a node that listens. This one is an invisible box around
    everything; clicks, the wheel, other buttons and gizmos in front of it are as without it.
    """

    def __init__(
        self, window: Actions, taps: Taps, told: Callable[[Stroke], None], modifiers: tuple[str | None, ...]
    ) -> None:
        """``told`` is called in the event loop at the beginning of a stroke, at each point and at the end; ``taps``
        are told of as without the backdrop."""
        self._taps = taps
        self._window, self._told, self._modifiers = window, told, modifiers
        self._handle: Any = None
        self._stroke: Stroke | None = None

    def show(self, there: bool) -> None:
        """Listen to drags from now on, or leave them to the camera."""
        if there == (self._handle is not None):
            return
        if not there:
            self._handle.remove()
            self._handle = None
            return
        self._handle = _add_box(self._window, NAME, EDGE)
        self._taps.listen(self._handle)
        for modifier in self._modifiers:
            self._handle.on_drag("left", modifier=modifier)(in_order(self._dragged))

    def give_up(self) -> bool:
        """Let nothing come of the stroke that is being drawn; whether there is one."""
        stroke = self._stroke
        if stroke is None or stroke.given_up:
            return False
        stroke.given_up = True
        return True

    def _dragged(self, event: Any) -> None:
        if event.phase == "start" or self._stroke is None:
            self._stroke = Stroke(self._window.camera(), event.modifier)
            u, v = event.start_screen_pos
            self._stroke.lead_to(u * self._stroke.camera.width, v * self._stroke.camera.height)
        stroke, (u, v) = self._stroke, event.end_screen_pos
        stroke.lead_to(u * stroke.camera.width, v * stroke.camera.height)
        if event.phase == "end":
            stroke.ended, self._stroke = True, None
        if not stroke.given_up:
            self._told(stroke)
