"""The tab that divides the whole scene into labels and edits them."""

from __future__ import annotations

from functools import partial
from typing import Any

from splatseg.session import Job, Session
from splatseg.session.colors import Look
from splatseg.viewer.actions import Actions
from splatseg.viewer.events import in_order, pressed, put
from splatseg.viewer.panels.lit import add_button, light
from splatseg.viewer.panels.sliders import show_end
from splatseg.viewer.status import short


class LabelsPanel:
    """Discretize, level of the tree, picking, merging and splitting."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        self._gui = gui = window.client.gui
        divide = add_button(gui, "Divide the scene", hint="Label every Gaussian, at several nested levels")
        divide.on_click(pressed(lambda: window.start_job("dividing the scene", self._divide)))
        self._text = gui.add_markdown("")
        self._shown_text = ""
        self._level = gui.add_slider("Level", 1, 2, 1, 1, disabled=True, hint="1 is the coarsest, the last the finest")
        self._level.on_update(in_order(self._level_moved))
        self._whole = gui.add_checkbox("Click picks whole labels", window.choices.whole_labels)
        self._whole.on_update(in_order(lambda event: setattr(window.choices, "whole_labels", event.target.value)))
        self._merging = add_button(gui, "Merge", disabled=True, hint="Two labels or more that are selected as a whole")
        self._merging.on_click(pressed(lambda: window.act(self._merge)))
        self._splitting = add_button(gui, "Split", disabled=True, hint="One label that is selected as a whole")
        self._splitting.on_click(pressed(lambda: window.start_job("splitting the label", self._split)))

    def _divide(self, job: Job) -> None:
        session: Session = self._window.session
        tree = session.discretize(job=job)
        self._window.choices.look = Look("labels", self._window.choices.look.dim, self._window.choices.look.highlight)
        self._window.choices.whole_labels = True
        put(self._window, self._whole, True)
        self._window.say(f"{len(tree.nodes)} labels at {tree.levels} levels; click picks whole labels now", "done")

    def _merge(self) -> None:
        session = self._window.session
        count = len(session.selected_labels())
        label = session.merge_labels()
        node = session.workspace.shared.content.tree.node(label)  # type: ignore[union-attr]
        self._window.say(f"{count} labels are now one: '{short(node.name)}', {node.count:,} Gaussians", "done")

    def _split(self, job: Job) -> None:
        session: Session = self._window.session
        parts = session.split_label(job=job)
        tree = session.workspace.shared.content.tree
        counts = sorted((tree.node(part).count for part in parts), reverse=True)  # type: ignore[union-attr]
        sizes = ", ".join(f"{count:,}" for count in counts[:4]) + (", …" if len(counts) > 4 else "")
        self._window.say(f"split into {len(parts)} labels of {sizes} Gaussians; one of them is selected", "done")

    def _level_moved(self, event: Any) -> None:
        if event.client is not None:
            level = int(event.target.value) - 1
            self._window.act(partial(self._window.session.set_label_level, level), "label level")

    def sync(self) -> None:
        session = self._window.session
        tree = session.tree
        levels = 0 if tree is None else tree.levels
        if not self._window.waiting("label level"):
            show_end(self._window, self._level, levels)
            self._level.disabled = levels < 2
            put(self._window, self._level, session.label_level + 1, "label level")
        chosen = 0 if tree is None or not len(session.selection) else len(session.selected_labels())
        light(self._merging, chosen > 1)
        light(self._splitting, chosen == 1)
        text = (
            "Not divided yet." if tree is None else f"{len(tree.at_level(session.label_level))} labels at this level."
        )
        if text != self._shown_text:
            self._text.content = self._shown_text = text
