"""Selecting by a property: its distribution, and a slider whose two ends select while they are moved."""

from __future__ import annotations

from functools import partial
from typing import Any

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.progress import SILENT
from splatseg.segment.properties import PROPERTIES, Histogram, Property
from splatseg.session import Mode
from splatseg.viewer.actions import Actions
from splatseg.viewer.events import in_order, pressed, put
from splatseg.viewer.panels.lit import add_button
from splatseg.viewer.status import plain

NONE = "choose one"
BINS = 40
ACCENT, GRAY = "#ff7800", "#9ca3af"


class PropertySection:
    """A folder of the Select tab. The slider's numbers are places in the histogram, whose values are written below."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._histogram: Histogram | None = None
        gui = window.client.gui
        with gui.add_folder("By property", expand_by_default=False):
            self._name = gui.add_dropdown("Property", (NONE, *PROPERTIES))
            self._name.on_update(
                in_order(lambda event: window.act(self._measure) if event.client is not None else None)
            )
            self._color = gui.add_rgb("Near color", (200, 60, 60), visible=False, hint="Difference from it (CIE76)")
            self._color.on_update(
                in_order(lambda event: window.act(self._measure, "near color") if event.client is not None else None)
            )
            self._picking = add_button(
                gui, "Pick from the picture", visible=False, hint="The next click tells the color"
            )
            self._picking.on_click(pressed(lambda: window.act(self._pick)))
            self._chart = gui.add_html("")
            self._range = gui.add_multi_slider(
                "Between", 0, BINS, 1, (0, BINS), disabled=True, hint="Selects what lies between the two ends"
            )
            self._range.on_update(in_order(self._moved))

    def _property(self) -> Property | None:
        return None if self._name.value == NONE else self._name.value

    def _measure(self) -> None:
        """Show how the chosen property is distributed."""
        name = self._property()
        self._color.visible = self._picking.visible = name == "color"
        self._range.disabled = name is None
        session, job = self._window.session, self._window.doing or SILENT
        self._histogram = None if name is None else session.histogram(name, BINS, self._picked(), job)
        put(self._window, self._range, (0, BINS))
        self._draw(0, BINS)

    def _pick(self) -> None:
        self._window.canvas.pick_next(self._take_color)
        self._window.say("click the color on the picture; Escape leaves it")

    def _take_color(self, camera: Camera, u: float, v: float) -> None:
        """The color seen there is the one to be near to."""
        color = self._window.session.color_at(camera, u, v)
        put(self._window, self._color, color)
        self._measure()
        self._window.say(f"red {color[0]}, green {color[1]}, blue {color[2]} is picked; Between selects", "done")

    def _picked(self) -> tuple[int, int, int] | None:
        return tuple(self._color.value) if self._property() == "color" else None  # type: ignore[return-value]

    def _moved(self, event: Any) -> None:
        if event.client is not None:
            low, high = (int(end) for end in event.target.value)
            drag = self._window.drags.number("property")
            self._window.act(partial(self._select, low, high, self._window.choices.mode, drag), "property")

    def _select(self, low: int, high: int, mode: Mode, drag: int) -> None:
        name, histogram, window = self._property(), self._histogram, self._window
        if name is None or histogram is None:
            return
        self._draw(low, high)
        ends = (float(histogram.edges[low]), float(histogram.edges[high]))
        try:
            window.session.select_by(
                name, *ends, mode=mode, color=self._picked(), job=window.doing or SILENT, drag=drag
            )
        except SplatsegError as error:  # while the hand is on the slider a line is enough
            window.say(plain(str(error)), "failed")

    def _draw(self, low: int, high: int) -> None:
        content = "" if self._histogram is None else chart(self._histogram, low, high)
        if content != self._chart.content:
            self._chart.content = content


def chart(histogram: Histogram, low: int, high: int) -> str:
    """Bars of the counts, by their square root so that rare values are seen; those between the ends are lit."""
    most = max(float(histogram.counts.max()), 1.0)
    bars = "".join(
        f"<div style='flex:1;height:{100 * (count / most) ** 0.5:.0f}%;"
        f"background:{ACCENT if low <= number < high else GRAY}'></div>"
        for number, count in enumerate(histogram.counts.tolist())
    )
    edges = histogram.edges
    ends = f"<span>{edges[0]:.3g}</span><b>{edges[low]:.3g} to {edges[high]:.3g}</b><span>{edges[-1]:.3g}</span>"
    box = "display:flex;align-items:flex-end;height:4em;gap:1px"
    below = "display:flex;justify-content:space-between;font-size:0.8em"
    return f"<div style='padding:0 0.9em'><div style='{box}'>{bars}</div><div style='{below}'>{ends}</div></div>"
