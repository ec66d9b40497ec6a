"""The tab that says how the scene is drawn and from where."""

from __future__ import annotations

from functools import partial
from typing import Any

from splatseg.session.colors import DisplayMode, Look
from splatseg.session.legend import legend
from splatseg.viewer.actions import LIMITS, Actions
from splatseg.viewer.events import in_order, put
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
ALL, DRAWN_NOW = "all", "as it is"
ACCENT_COLOR = (34, 139, 230)  # of buttons and sliders, in both themes


class ViewPanel:
    """Display mode, dimming, and the views of the photos."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        gui = window.client.gui
        look = window.choices.look
        self._mode = gui.add_dropdown("Show", tuple(LOOKS), initial_value=_name(look))
        self._mode.on_update(in_order(self._mode_chosen))
        self._legend = gui.add_html("")
        dim = gui.add_checkbox("Dim the rest", look.dim, hint="Gray what is not selected")
        dim.on_update(in_order(lambda event: window.set_look("dim", event.target.value)))
        highlight = gui.add_checkbox("Tint the selection", look.highlight)
        highlight.on_update(in_order(lambda event: window.set_look("highlight", event.target.value)))
        self._add_drawing()
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
            in_order(
                lambda event: window.post(partial(window.go_to_view, self._views.get(event.target.value)), "photo")
            )
        )
        step = gui.add_button_group("Photos", ("Previous", "Next"))
        step.on_click(in_order(lambda event: self._move(1 if event.target.value == "Next" else -1)))
        tint = gui.add_checkbox("Selection on the photo", window.choices.photo_selection)
        tint.on_update(in_order(self._tint))

    def _add_drawing(self) -> None:
        window, gui = self._window, self._window.client.gui
        total = window.template.total
        limits = tuple(f"{limit:,}" for limit in LIMITS if limit < total)
        self._limits = {text: int(text.replace(",", "")) for text in limits} | {ALL: total}
        self._drawn = gui.add_dropdown(
            "Draw at most",
            (DRAWN_NOW, *self._limits),
            hint="Gaussians in this window; fewer where the browser has no GPU. Selecting is of all always",
        )
        self._drawn.on_update(in_order(self._limit_chosen))
        follow = gui.add_checkbox("Sharp where I look", window.choices.follow, hint="A sample follows the camera")
        follow.on_update(in_order(lambda event: window.act(partial(self._follow, event.target.value))))
        if window.session.workspace.gaussians.sh_degree:
            gloss = gui.add_checkbox(
                "View-dependent colors", window.choices.view_dependent, hint="Gloss, for where the camera comes to rest"
            )
            gloss.on_update(in_order(lambda event: window.act(partial(window.set_view_dependent, event.target.value))))
        self._hover = gui.add_checkbox(
            "Outline under the pointer", window.hovering, hint="What a click there would take"
        )
        self._hover.on_update(in_order(self._hover_chosen))
        dark = gui.add_checkbox("Dark", window.choices.dark)
        dark.on_update(in_order(lambda event: self._theme(event.target.value)))
        self._theme(window.choices.dark)

    def _limit_chosen(self, event: Any) -> None:
        if event.client is not None and event.target.value in self._limits:
            limit = self._limits[event.target.value]
            self._window.act(partial(self._window.draw_at_most, limit), "draw at most")

    def _hover_chosen(self, event: Any) -> None:
        if event.client is not None:
            self._window.act(partial(self._window.outline_hovered, event.target.value), "hovering")

    def _follow(self, on: bool) -> None:
        self._window.choices.follow = on
        self._window.draw_sample()

    def _theme(self, dark: bool) -> None:
        self._window.choices.dark = dark
        self._window.client.gui.configure_theme(
            dark_mode=dark, show_logo=False, show_share_button=False, brand_color=ACCENT_COLOR
        )

    def _mode_chosen(self, event: Any) -> None:
        if event.client is not None:
            self._window.set_look("mode", LOOKS[event.target.value])

    def _move(self, by: int) -> None:
        names = tuple(self._views)
        current = names.index(self._photo.value) if self._photo.value in self._views else (-1 if by > 0 else 0)
        put(self._window, self._photo, names[(current + by) % len(names)])

    def _tint(self, event: Any) -> None:
        self._window.choices.photo_selection = event.target.value
        self._window.post(self._window.show_photo, "tint")

    def sync(self) -> None:
        put(self._window, self._mode, _name(self._window.look), "look mode")  # drawn, which may not be as asked for
        put(self._window, self._hover, self._window.hovering, "hovering")
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
