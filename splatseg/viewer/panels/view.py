"""The tab that says how the scene is drawn and from where."""

from __future__ import annotations

from typing import Any

from splatseg.session.colors import DisplayMode, Look
from splatseg.session.legend import legend
from splatseg.viewer.actions import Actions
from splatseg.viewer.status import legend_html

LOOKS: dict[str, DisplayMode] = {
    "photo colors": "photo",
    "heat map of the last click": "scores",
    "features (PCA)": "features",
    "labels and objects": "labels",
    "depth": "depth",
    "agreement of the views": "confidence",
}
NO_PHOTO = "free camera"


class ViewPanel:
    """Display mode, dimming, and the views of the photos."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        gui = window.client.gui
        look = window.choices.look
        self._mode = gui.add_dropdown("Show", tuple(LOOKS), initial_value=_name(look))
        self._mode.on_update(self._mode_chosen)
        self._legend = gui.add_html("")
        dim = gui.add_checkbox("Dim the rest", look.dim, hint="Gray what is not selected")
        dim.on_update(lambda event: window.set_look("dim", event.target.value))
        highlight = gui.add_checkbox("Tint the selection", look.highlight)
        highlight.on_update(lambda event: window.set_look("highlight", event.target.value))
        self._views = {view.name: view for view in window.session.workspace.views}
        if not self._views:
            gui.add_markdown("The photos of this run are not at hand.")
            return
        self._photo = gui.add_dropdown(
            "Photo",
            (NO_PHOTO, *self._views),
            initial_value=NO_PHOTO if window.choices.photo is None else window.choices.photo.name,
            hint="Look as a photo does, and see it over the corner",
        )
        self._photo.on_update(
            lambda event: window.post(lambda: window.go_to_view(self._views.get(event.target.value)), "photo")
        )
        step = gui.add_button_group("Photos", ("Previous", "Next"))
        step.on_click(lambda event: self._move(1 if event.target.value == "Next" else -1))
        tint = gui.add_checkbox("Selection on the photo", window.choices.photo_selection)
        tint.on_update(self._tint)

    def _mode_chosen(self, event: Any) -> None:
        if event.client is not None:
            self._window.set_look("mode", LOOKS[event.target.value])

    def _move(self, by: int) -> None:
        names = tuple(self._views)
        current = names.index(self._photo.value) if self._photo.value in self._views else (-1 if by > 0 else 0)
        self._photo.value = names[(current + by) % len(names)]

    def _tint(self, event: Any) -> None:
        self._window.choices.photo_selection = event.target.value
        self._window.post(self._window.show_photo, "tint")

    def sync(self) -> None:
        if self._window.waiting("look mode"):
            return
        wanted = _name(self._window.look)  # what is drawn, which may not be what was asked for
        if self._mode.value != wanted:
            self._mode.value = wanted
        self.show_legend()

    def show_legend(self) -> None:
        """The key of the colors as they are drawn now."""
        window = self._window
        camera = window.camera() if window.look.mode == "depth" else None
        content = legend_html(legend(window.session, window.look, camera))
        if content != self._legend.content:
            self._legend.content = content


def _name(look: Look) -> str:
    return next(name for name, mode in LOOKS.items() if mode == look.mode)
