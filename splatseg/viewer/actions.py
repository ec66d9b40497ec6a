"""What the widgets of a window may ask of it; :class:`splatseg.viewer.window.Window` is the one that answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from splatseg.core.camera import Camera
from splatseg.core.scene import View
from splatseg.core.selection import Selection
from splatseg.session import Job, Mode, Session
from splatseg.session.colors import Look
from splatseg.viewer.drags import Drags
from splatseg.viewer.splats import SplatTemplate

LIMITS = (20_000, 50_000, 100_000, 300_000, 1_000_000, 3_000_000)  # Gaussians drawn, to choose from
Tool = Literal["click", "preview", "rectangle", "lasso", "brush", "box", "ball"]
TOOLS: tuple[Tool, ...] = ("click", "preview", "rectangle", "lasso", "brush", "box", "ball")


@dataclass
class Choices:
    """What this window is set to; not part of undo, and kept when the page is loaded anew."""

    tab: str = "Select"  # the one that is open
    mode: Mode = "replace"
    look: Look = field(default_factory=Look)
    whole_labels: bool = False
    tool: Tool = "click"
    through: bool = False  # outlines take what is behind a surface, too
    brush_radius: float = 20.0  # pixels
    photo: View | None = None
    draw_at_most: int | None = None  # Gaussians; None: as the server was told, less in a browser that draws slowly
    follow: bool = True  # a sample is dense where the camera looks
    hover: bool | None = None  # an outline around what a click would take; None: where the browser draws quickly
    dark: bool = False
    view_dependent: bool = False  # photo colors are those seen from where the camera rests
    photo_selection: bool = True
    photo_fade: float = 0.0  # 0 the photo, 1 what is drawn from its place


class SolidPose(NamedTuple):
    """Center, world units, and orientation, (w, x, y, z)."""

    center: tuple[float, float, float]
    wxyz: tuple[float, float, float, float]


class Solid(Protocol):
    """A box or a ball with a gizmo: which of them is there, if any, and its edges (the first is the ball's diameter),
    world units."""

    kind: Literal["box", "ball"] | None
    size: tuple[float, float, float]

    def resize(self, size: tuple[float, ...]) -> None:
        """Make it as large as that."""

    @property
    def pose(self) -> SolidPose | None:
        """Where the gizmo stands now, if there is one."""

    def take(self, mode: Mode, pose: SolidPose | None) -> None:
        """Combine the selection with what lies inside when it stands there."""


class Listener(Protocol):
    """Of clicks on viser's nodes."""

    def listen(self, node: Any) -> None:
        """Hear of those on ``node``, too."""


class Drawing(Protocol):
    """What is drawn on the canvas of a window to select with."""

    @property
    def solid(self) -> Solid:
        """The box or ball."""

    @property
    def taps(self) -> Listener:
        """What is told of taps on a touch screen."""

    @property
    def corners(self) -> int:
        """How many corners the lasso has."""

    def pick_next(self, take: Callable[[Camera, float, float], object]) -> None:
        """Give the next click to ``take`` instead of the tool: camera and image position (u, v)."""

    def show_brush(self, here: bool = True) -> None:
        """A ring of the brush's size; none with another tool, and not ``here``."""

    def close_lasso(self, through: bool) -> None:
        """Select what is inside; ``through`` takes what is behind a surface, too."""

    def take_corner_back(self) -> None:
        """Forget the lasso's last corner."""

    def forget_lasso(self) -> bool:
        """Forget all its corners, and what the next click was for; whether there was anything to forget."""


class Mover(Protocol):
    """A gizmo that moves one copy at a time."""

    @property
    def key(self) -> int | None:
        """The copy it moves."""

    def show(self, key: int | None) -> None:
        """Let it move that copy; None takes it away."""


class Actions(Protocol):
    """A window as its widgets see it."""

    client: Any  # viser's handle of the browser
    session: Session
    template: SplatTemplate
    choices: Choices
    drags: Drags

    @property
    def copy_gizmo(self) -> Mover:
        """The gizmo on a copy."""

    @property
    def canvas(self) -> Drawing:
        """Lasso, box and ball."""

    doing: Job | None  # what the queue does now

    @property
    def look(self) -> Look:
        """What the window shows now."""

    def camera(self, size: tuple[int, int] | None = None) -> Camera:
        """The browser's camera now, at its own picture size or at another (width, height)."""

    def camera_of_ray(self, origin: tuple[float, float, float]) -> Camera:
        """The camera that a click at ``origin``, in the browser's units, was made with."""

    def focus(self) -> None:
        """Move the camera to what is selected."""

    def post(self, action: Callable[[], object], key: str | None = None) -> None:
        """Queue ``action``; one posted under the same key that has not begun is replaced."""

    def act(self, action: Callable[[], object], key: str | None = None) -> None:
        """Queue ``action`` and a refresh of all that shows the session."""

    def preview(self, shown: Selection | None) -> None:
        """Show ``shown`` as what would be selected; None shows what is selected again."""

    def waiting(self, key: str) -> bool:
        """Whether a newer action of that key is still to be done."""

    def between_messages(self, act: Callable[[], object]) -> None:
        """Do ``act`` in viser's event loop, between two messages of the browser, and wait for it; it must be short."""

    def start_job(self, title: str, work: Callable[[Job], object]) -> None:
        """Run ``work`` beside the queue, with a progress bar and a cancel button."""

    def cancel(self) -> None:
        """Stop what is running."""

    def say(self, message: str, kind: Literal["note", "done", "failed"] = "note") -> None:
        """Show ``message`` in the status line, marked as what it is."""

    def complain(self, message: str) -> None:
        """Show what went wrong."""

    def set_look(self, name: str, value: object) -> None:
        """Paint otherwise from now on: another value for that field of the look."""

    def draw_at_most(self, limit: int) -> None:
        """Draw at most so many Gaussians in this window."""

    def set_view_dependent(self, on: bool) -> None:
        """Show photo colors as they are seen from where the camera rests, or the same from everywhere."""

    @property
    def hovering(self) -> bool:
        """Whether what a click would take is outlined while the pointer hovers."""

    def outline_hovered(self, on: bool) -> None:
        """Outline what a click would take while the pointer hovers, or do not."""

    def draw_sample(self) -> None:
        """Draw the sample that the choices and the camera ask for."""

    def show_photo(self) -> None:
        """Show the chosen photo as the choices say."""

    def set_tool(self, tool: Tool) -> None:
        """Let clicks and drags on the canvas do something else from now on."""

    def go_to_view(self, view: View | None) -> None:
        """Look as the photo does and show it beside; None only hides the photo."""
