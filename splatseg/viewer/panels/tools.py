"""Selection tools of the Select tab: growing and shrinking, holes, pieces, and Clean."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from splatseg.core.progress import SILENT
from splatseg.session import Job
from splatseg.session.tool_steps import By
from splatseg.viewer.actions import Actions
from splatseg.viewer.events import pressed
from splatseg.viewer.panels.lit import add_button, light

BY_NAMES: dict[str, By] = {"what touches": "space", "what is similar": "feature"}


class ToolsFolder:
    """Folders of buttons over the tools of ``window.session``."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        session, gui = window.session, window.client.gui
        self._acting: list[Any] = []  # lit while something is selected
        with gui.add_folder("Grow, shrink, tidy", expand_by_default=False):
            self._by = gui.add_dropdown("By", tuple(BY_NAMES), hint="What is added, and what is left")
            ways: dict[str, Callable[[By, Any], object]] = {
                "Grow": lambda by, job: session.grow(by, job=job),
                "Shrink": lambda by, job: session.shrink(by, job=job),
                "Fill holes": lambda by, job: session.fill_holes(job=job),
                "Keep clicked piece": lambda by, job: session.keep_connected("click", job),
                "Keep largest piece": lambda by, job: session.keep_connected("largest", job),
            }
            for label, way in ways.items():
                button = add_button(gui, label, disabled=True)
                button.on_click(pressed(partial(self._press, way)))
                self._acting.append(button)
        with gui.add_folder("Clean", expand_by_default=False):
            find = add_button(gui, "Find floaters", hint="Show in red what hangs in the air")
            find.on_click(pressed(lambda: window.start_job("looking for floaters", self._find)))
            self._removing = add_button(gui, "Remove floaters", hint="Objects brings them back", disabled=True)
            self._removing.on_click(pressed(lambda: window.act(self._remove)))

    def _press(self, way: Callable[[By, Any], object]) -> None:
        self._window.act(partial(self._do, partial(way, BY_NAMES[self._by.value])))

    def _do(self, way: Callable[[Any], object]) -> None:
        before = len(self._window.session.selection)
        way(self._window.doing or SILENT)
        after = len(self._window.session.selection)
        self._window.say(f"{abs(after - before):,} Gaussians {'added' if after > before else 'taken out'}", "done")

    def sync(self) -> None:
        session = self._window.session
        lit = [(button, bool(len(session.selection))) for button in self._acting]
        for button, can_act in (*lit, (self._removing, session.proposing)):
            light(button, can_act)

    def _find(self, job: Job) -> None:
        found = self._window.session.propose_floaters(job=job)
        self._window.say(f"{len(found):,} floaters, in red; Remove floaters takes them away", "done")

    def _remove(self) -> None:
        entry = self._window.session.remove_floaters()
        self._window.say(f"removed {len(entry):,} Gaussians; Objects → {entry.name} brings them back", "done")
