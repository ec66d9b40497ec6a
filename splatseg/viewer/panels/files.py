"""The tab for what goes out: exports, saved sessions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from splatseg.core.camera import Camera
from splatseg.core.reading import read_bytes
from splatseg.session import Job
from splatseg.session.colors import Look
from splatseg.session.exports import (
    export_image,
    export_labels_zip,
    export_masks,
    export_scene,
    export_selection,
    export_without,
)
from splatseg.viewer.actions import Actions
from splatseg.viewer.events import pressed
from splatseg.viewer.panels.lit import add_button, light

NONE_SAVED = "none saved"
LARGEST_IMAGE = 8192  # pixels a side


class Asked(NamedTuple):
    """What the window was set to when an export was asked for."""

    name: str
    camera: Camera
    look: Look


Export = Callable[[Asked, Job], Path]


class FilesPanel:
    """Buttons that write a file into the run's ``exports`` and hand it to the browser, and saved sessions."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        session, gui = window.session, window.client.gui
        self._name = gui.add_text("File name", "selection")
        exports: dict[str, Export] = {
            "Selection (PLY)": lambda now, job: export_selection(session, now.name, job=job),
            "Edited scene (PLY)": lambda now, job: export_scene(session, f"{now.name}_scene", job),
            "Scene without it (PLY)": lambda now, job: export_without(session, f"{now.name}_removed", job=job),
            "Masks in all photos (ZIP)": lambda now, job: export_masks(session, now.name, job=job),
            "All labels (ZIP)": lambda now, job: export_labels_zip(session, "labels", "labels", job),
            "Objects as labels (ZIP)": lambda now, job: export_labels_zip(session, "objects", "objects", job),
            "Image of this view (PNG)": lambda now, job: export_image(session, now.camera, "view", now.look, job),
        }
        self._exports: dict[str, Any] = {}
        for label, export in exports.items():
            button = self._exports[label] = add_button(gui, label)
            button.on_click(pressed(partial(self._press, label, export)))
        self._size = gui.add_vector2(
            "Image size", (0, 0), min=(0, 0), max=(LARGEST_IMAGE,) * 2, step=1, hint="Pixels; 0, 0: as the window is"
        )
        with gui.add_folder("Session"):
            self._session_name = gui.add_text("Name", "session 1")
            save = add_button(gui, "Save")
            save.on_click(pressed(lambda: window.act(partial(self._save, self._session_name.value))))
            self._saved = gui.add_dropdown("Saved", (NONE_SAVED,))
            self._reopen = add_button(gui, "Reopen", disabled=True)
            self._reopen.on_click(pressed(lambda: window.act(partial(session.reopen, self._saved.value))))

    def _press(self, label: str, export: Export) -> None:
        window = self._window
        now = Asked(self._name.value, window.camera(self._image_size()), window.look)
        window.start_job(label, partial(self._hand_out, partial(export, now)))

    def _hand_out(self, export: Callable[[Job], Path], job: Job) -> None:
        path = export(job)
        job.report(f"sending {path.name}", 1)
        self._window.client.send_file_download(path.name, read_bytes(path), save_immediately=True)
        self._window.say(f"{path.name} is downloaded and lies in {path.parent}", "done")

    def _image_size(self) -> tuple[int, int] | None:
        """Width and height chosen; None for the window's own."""
        width, height = (int(side) for side in self._size.value)
        return (width, height) if width and height else None

    def _save(self, name: str) -> None:
        path = self._window.session.save(name)
        self._window.say(f"saved as {path.name}", "done")

    def sync(self) -> None:
        session = self._window.session
        selected = len(session.selection) > 0
        can_act = {
            "Selection (PLY)": selected,
            "Scene without it (PLY)": selected or session.hidden() is not None,
            "Masks in all photos (ZIP)": selected and bool(session.workspace.views),
            "All labels (ZIP)": session.tree is not None,
            "Objects as labels (ZIP)": any(entry.placement is None for entry in session.objects),
        }
        for label, lit in can_act.items():
            light(self._exports[label], lit)
        saved = session.workspace.saved_sessions() or (NONE_SAVED,)
        light(self._reopen, saved != (NONE_SAVED,))
        if saved != self._saved.options:
            self._saved.options = saved
