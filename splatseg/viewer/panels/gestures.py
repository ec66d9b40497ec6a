"""What clicks and drags on the canvas do: the tool, its settings, and the keys that choose it."""

from __future__ import annotations

from functools import partial
from typing import Any

from splatseg.session import Mode
from splatseg.viewer.actions import TOOLS, Actions, Tool
from splatseg.viewer.events import in_order, pressed, put
from splatseg.viewer.panels.lit import add_buttons, light

MODE_NAMES: dict[str, Mode] = {
    "new selection": "replace",
    "add (Shift)": "add",
    "subtract (Alt)": "subtract",
    "intersect": "intersect",
}
INSIDE: dict[str, Mode] = {"only it": "replace", "add": "add", "take out": "subtract", "keep common": "intersect"}
KEYS: dict[Tool, Any] = {
    "click": "C",
    "preview": "V",
    "rectangle": "R",
    "lasso": "L",
    "brush": "B",
    "box": "X",
    "ball": "O",
}
LARGEST_BRUSH = 200.0  # pixels
SMALL = "font-size:0.8em;padding:0 0.9em"


class GesturesSection:
    """The upper end of the Select tab. Settings of a tool are shown while it is chosen."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        gui, choices = window.client.gui, window.choices
        self._tool = gui.add_dropdown(
            "Tool",
            TOOLS,
            initial_value=choices.tool,
            hint="Keys: C, V, R, L, B, X, O. Ctrl-drag draws a rectangle always. "
            "Preview: press and slide; what a click there would take lights up, letting go takes it",
        )
        self._tool.on_update(
            in_order(lambda event: self._choose(event.target.value) if event.client is not None else None)
        )
        named = next(name for name, mode in MODE_NAMES.items() if mode == choices.mode)
        hint = "Shift adds, Alt or Ctrl subtracts, Alt+Shift intersects"
        mode = gui.add_dropdown("Click does", tuple(MODE_NAMES), initial_value=named, hint=hint)
        mode.on_update(in_order(lambda event: setattr(choices, "mode", MODE_NAMES[event.target.value])))
        self._through = gui.add_checkbox("Through", choices.through, hint="Take what is behind a surface, too")
        self._through.on_update(in_order(lambda event: setattr(choices, "through", event.target.value)))
        self._radius = gui.add_slider(
            "Radius", 2.0, LARGEST_BRUSH, 1.0, choices.brush_radius, hint="Of the brush, pixels; the ring shows it"
        )
        self._radius.on_update(in_order(self._radius_moved))
        self._across = gui.add_html("")
        self._add_lasso()
        self._add_solid()
        self._add_keys()
        self.sync()

    def _choose(self, tool: Tool) -> None:
        self._window.act(partial(self._window.set_tool, tool), "tool")

    def _radius_moved(self, event: Any) -> None:
        self._window.choices.brush_radius = float(event.target.value)

        def show() -> None:
            self._window.canvas.show_brush()
            self._say_radius()

        self._window.post(show, "brush radius")

    def _say_radius(self) -> None:
        """How large the brush is, in words."""
        across, height = 2 * self._window.choices.brush_radius, self._window.camera().height
        content = (
            f"<div style='{SMALL}'>{across:.0f} pixels across, {across / height:.0%} of the picture's height</div>"
        )
        if content != self._across.content:
            self._across.content = content

    def _add_lasso(self) -> None:
        ways = {"Close (Enter)": self._close_lasso, "Back (Backspace)": self._take_corner_back}
        self._lasso = add_buttons(self._window.client.gui, ways)

    def _close_lasso(self) -> None:
        self._window.act(partial(self._window.canvas.close_lasso, self._window.choices.through))

    def _take_corner_back(self) -> None:
        self._window.act(self._window.canvas.take_corner_back)

    def _add_solid(self) -> None:
        gui = self._window.client.gui
        step = float(f"{self._window.template.unit / 100:.0e}")  # also what the browser rounds to
        self._size = gui.add_vector3("Box size", (1.0, 1.0, 1.0), min=(0.0, 0.0, 0.0), step=step, hint="World units")
        self._size.on_update(in_order(lambda event: self._resize(event, tuple(map(float, event.target.value)))))
        self._diameter = gui.add_number("Diameter", 1.0, min=0.0, step=step, hint="World units")
        self._diameter.on_update(in_order(lambda event: self._resize(event, (float(event.target.value),) * 3)))
        self._inside = gui.add_button_group("Inside", tuple(INSIDE))
        self._inside.on_click(in_order(lambda event: self._take(INSIDE[event.target.value])))

    def _take(self, mode: Mode) -> None:
        """What lies inside of the box or ball as it stands when the button is pressed."""
        solid = self._window.canvas.solid
        self._window.act(partial(solid.take, mode, solid.pose))

    def _resize(self, event: Any, size: tuple[float, ...]) -> None:
        if event.client is not None:
            self._window.act(lambda: self._window.canvas.solid.resize(size), "solid size")

    def _add_keys(self) -> None:
        gui = self._window.client.gui
        for tool, key in KEYS.items():
            command = gui.add_command(f"Tool: {tool}", hotkey=key)
            command.on_trigger(pressed(partial(self._choose, tool)))
        for label, key, act in (
            ("Close the lasso", "enter", self._close_lasso),
            ("Take the last corner back", "backspace", self._take_corner_back),
        ):
            command = gui.add_command(label, hotkey=key)
            command.on_trigger(pressed(act))

    def sync(self) -> None:
        """Show the tool and its settings."""
        tool, canvas = self._window.choices.tool, self._window.canvas
        put(self._window, self._tool, tool, "tool")
        shown = (
            (self._through, tool in ("rectangle", "lasso", "brush")),
            (self._radius, tool == "brush"),
            (self._across, tool == "brush"),
            *((button, tool == "lasso") for button in self._lasso.values()),
            (self._size, tool == "box"),
            (self._diameter, tool == "ball"),
            (self._inside, tool in ("box", "ball")),
        )
        for widget, visible in shown:
            if widget.visible != visible:
                widget.visible = visible
        if tool == "brush":
            self._say_radius()
        for least, button in zip((3, 1), self._lasso.values(), strict=True):
            light(button, canvas.corners >= least)
        if canvas.solid.kind == "box":
            put(self._window, self._size, canvas.solid.size, "solid size")
        elif canvas.solid.kind == "ball":
            put(self._window, self._diameter, canvas.solid.size[0], "solid size")
