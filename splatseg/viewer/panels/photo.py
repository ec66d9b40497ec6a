"""The photo that the camera was moved to, in a panel that floats over the canvas."""

from __future__ import annotations

from typing import Any

import numpy as np

from splatseg.core.scene import View
from splatseg.session.colors import overlay
from splatseg.session.exports import draw
from splatseg.viewer.actions import Actions
from splatseg.viewer.events import in_order

WIDTH = 300  # pixels of the panel; the canvas under it stays as wide as it is
MARGIN = 15
PIXELS = 800  # width of the picture that is sent; the panel can be made larger


class PhotoPanel:
    """Shown while a photo is chosen. A slider fades from the photo to what is drawn from the same place."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._panel: Any = None
        self._picture: Any = None

    def show(self, view: View | None) -> None:
        """Show the photo of ``view``; None takes the panel away."""
        if view is None:
            if self._panel is not None:
                self._panel.remove()
                self._panel = None
            return
        pixels = self._pixels(view)
        if self._panel is None:
            self._open(view, pixels)
            return
        if self._picture.label != view.name:
            self._picture.label = view.name
        self._picture.image = pixels

    def _pixels(self, view: View) -> np.ndarray:
        window, choices = self._window, self._window.choices
        photo = overlay(window.session, view, choices.photo_selection, PIXELS)
        if not choices.photo_fade:
            return photo
        height, width = photo.shape[:2]
        drawn = draw(window.session, view.camera.resized(width, height), window.look)
        return (photo * (1 - choices.photo_fade) + drawn * choices.photo_fade).round().astype(np.uint8)

    def _open(self, view: View, pixels: np.ndarray) -> None:
        gui, choices = self._window.client.gui, self._window.choices
        self._panel = panel = gui.add_panel()
        with panel.add_tab("Photo"):
            self._picture = gui.add_image(pixels, label=view.name, jpeg_quality=85)
            fade = gui.add_slider(
                "Fade to splat",
                0.0,
                1.0,
                0.05,
                choices.photo_fade,
                hint="0 is the photo, 1 what is drawn from its place",
            )
            fade.on_update(in_order(self._fade))
        panel.float(x=MARGIN, y=MARGIN, width=WIDTH)

    def _fade(self, event: Any) -> None:
        self._window.choices.photo_fade = float(event.target.value)
        self._window.post(self._window.show_photo, "fade")
