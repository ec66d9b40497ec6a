"""The tab for what goes out: exports, saved sessions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from splatseg.core.reading import read_bytes
from splatseg.session import Job
from splatseg.session.exports import export_image, export_labels, export_masks, export_selection, export_without
from splatseg.viewer.actions import Actions

NONE_SAVED = "none saved"
Export = Callable[[Job], Path | list[Path]]


class FilesPanel:
    """Buttons that write a file into the run's ``exports`` and hand it to the browser, and saved sessions."""

    def __init__(self, window: Actions) -> None:
        self._window = window
        session, gui = window.session, window.client.gui
        self._name = gui.add_text("File name", "selection")
        exports: dict[str, Export] = {
            "Selection (PLY)": lambda job: export_selection(session, self._name.value, job=job),
            "Scene without it (PLY)": lambda job: export_without(session, f"{self._name.value}_removed", job=job),
            "Masks in all photos (ZIP)": lambda job: export_masks(session, self._name.value, job=job),
            "All labels (PLY + sidecar)": lambda job: export_labels(session, "labels", "labels", job),
            "Objects as labels (PLY + sidecar)": lambda job: export_labels(session, "objects", "objects", job),
            "Image of this view (PNG)": lambda job: export_image(session, window.camera(), "view", window.look, job),
        }
        for label, export in exports.items():
            button = gui.add_button(label)
            button.on_click(
                lambda _, label=label, export=export: window.start_job(label, partial(self._hand_out, export))
            )
        with gui.add_folder("Session"):
            self._session_name = gui.add_text("Name", "session 1")
            save = gui.add_button("Save")
            save.on_click(lambda _: window.act(self._save))
            self._saved = gui.add_dropdown("Saved", (NONE_SAVED,))
            reopen = gui.add_button("Reopen")
            reopen.on_click(lambda _: window.act(lambda: session.reopen(self._saved.value)))

    def _hand_out(self, export: Export, job: Job) -> None:
        written = export(job)
        paths = written if isinstance(written, list) else [written]
        for number, path in enumerate(paths):
            job.report(f"sending {path.name}", number / len(paths))
            self._window.client.send_file_download(path.name, read_bytes(path), save_immediately=True)
        self._window.say(f"wrote {', '.join(path.name for path in paths)} to {paths[0].parent}")

    def _save(self) -> None:
        path = self._window.session.save(self._session_name.value)
        self._window.say(f"saved as {path.name}")

    def sync(self) -> None:
        saved = self._window.session.workspace.saved_sessions() or (NONE_SAVED,)
        if saved != self._saved.options:
            self._saved.options = saved
