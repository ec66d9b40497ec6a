"""A run opened for selecting: splat, features, photos, and what all sessions on it share."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from splatseg.core.atomic import remove_leftovers
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.memory import require_memory
from splatseg.core.scene import Scene, View
from splatseg.core.splat import FeatureSplat
from splatseg.io.labels import load_labels
from splatseg.io.lock import Lock
from splatseg.io.run import Run
from splatseg.io.run_scene import load_run_scene
from splatseg.segment.levels import surface_weights
from splatseg.segment.properties import Visibility, visibility
from splatseg.segment.region_tools import Touching
from splatseg.segment.scores import reads_all
from splatseg.segment.splat import SegmentableSplat
from splatseg.session import store
from splatseg.session.shared import Change, SharedState, file_stem, hidden_mask
from splatseg.session.state import Step

HIDDEN_LOGIT = -20.0  # opacity 2e-9: neither drawn nor traced
COPIES = 2  # of a run's files in memory while it is opened: as read, and as tensors
AUTOSAVE = "autosave"
AUTOSAVE_SECONDS = 0.5  # changes within so much of each other are written together

log = logging.getLogger(__name__)


class Workspace:
    """Splat, features and shared state of one run; safe to use from several threads.

    Args:
        run: the run; sessions are kept in its folder ``sessions``, exports in ``exports``. Nothing else is written.
        splat: its splat and features.
        scene: its photos; None where they are not at hand.
    """

    def __init__(self, run: Run, splat: FeatureSplat, scene: Scene | None = None) -> None:
        self.run = run
        self.splat = splat.showing(splat.gaussians.detach())
        self.gaussians = self.splat.gaussians
        self.field = self.splat.field
        self.scene = scene
        self.shared = SharedState()
        self.autosave_error: str | None = None
        self.restored: str | None = None
        self._touching: Touching | None = None
        self._visibility: Visibility | None = None
        self._visible: dict[int | None, tuple[int, Gaussians]] = {}
        self._last_step: Step | None = None
        self._restored_step: Step | None = None
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._writer: threading.Thread | None = None
        self._lock = Lock(self.sessions_folder / ".lock", "no other viewer on this run", run.folder)

    @classmethod
    def open(cls, folder: str | Path | Run, scene: Path | None = None, check_memory: bool = True) -> Workspace:
        """Open a run folder made by ``scripts/fit.py``; ``scene``: where its capture lies now, if it was moved.

        Raises:
            SplatsegError: not a run, or its splat or features are missing, damaged or of another splat; or there is no
                capture of it in ``scene``; or, if ``check_memory``, less memory is free than it takes.
        """
        run = folder if isinstance(folder, Run) else Run.existing(folder)
        for path in (run.geometry, run.features):
            if not path.is_file():
                raise SplatsegError(f"{path}: expected the result of scripts/fit.py, found none (is the fit finished?)")
        if check_memory:
            files = run.geometry.stat().st_size + run.features.stat().st_size
            require_memory({"opening this run": COPIES * files}, "--no-check-memory tries anyway")
        splat = SegmentableSplat.load(run.geometry, run.features)
        photos = load_scene(run, scene)
        photos = None if photos is None else photos.in_frame(splat.gaussians.offset)
        workspace = cls(run, splat, photos)
        workspace.adopt_labels()
        return workspace

    def adopt_labels(self) -> None:
        """Take up the labels that the fit left, if it came that far; damaged ones are left, with a warning."""
        if not self.run.labels_json.is_file():
            return
        try:
            tree = load_labels(self.run.labels, self.gaussians)
        except SplatsegError as error:
            log.warning("the labels of the run are not used: %s", error)
            return
        before = (self.shared.content.tree, self.shared.content.level)
        self.shared.apply(Change(trees=(before, (tree, tree.default_level))))

    @cached_property
    def weights(self) -> Tensor:
        """(n,) shares of the surface: what level proposals weigh Gaussians by."""
        return surface_weights(self.gaussians)

    def touching(self, report: Callable[[float], None] = lambda share: None) -> Touching:
        """Which Gaussians touch, computed the first time (seconds for a million)."""
        if self._touching is None:
            self._touching = Touching(self.gaussians, report)
        return self._touching

    def visibility(self, report: Callable[[float], None] = lambda share: None) -> Visibility:
        """What the photos see of each Gaussian, computed the first time (a fraction of a second per photo).

        Raises:
            SplatsegError: the photos are not at hand.
        """
        if self._visibility is None:
            self._visibility = visibility(self.gaussians, [view.camera for view in self.views], report)
        return self._visibility

    @cached_property
    def fingerprint(self) -> str:
        return self.field.fingerprint

    def __len__(self) -> int:
        return len(self.gaussians)

    def prepare(self) -> None:
        """Compute now what the first click would have to wait for: unit features, surface weights, segments' areas."""
        weights = self.weights
        if not reads_all(self.field) or self.field.groups is None:
            assert self.field.unit is not None
        if self.field.segments is not None:
            self.field.segments.areas(weights)

    # Views -----------------------------------------------------------------------------------------------------------

    @property
    def views(self) -> tuple[View, ...]:
        return () if self.scene is None else self.scene.views

    @cached_property
    def near(self) -> float:
        """Least depth that free cameras draw, world units: that of the photos, else a share of the splat's size."""
        if self.scene is not None:
            return self.scene.views[0].camera.near
        means = self.gaussians.means
        distances = (means - means.median(0).values).norm(dim=1)
        return 1e-3 * float(distances.median()) or Camera.near

    def camera(self, view: str | View | Camera) -> Camera:
        """The camera of a view, given by name, or itself.

        Raises:
            SplatsegError: no such view, or the photos are not at hand.
        """
        if isinstance(view, Camera):
            return view
        if isinstance(view, View):
            return view.camera
        if self.scene is None:
            raise SplatsegError(f"view '{view}': expected the photos of the run, found none at hand; pass a Camera")
        return self.scene.view(view).camera

    # What is visible -------------------------------------------------------------------------------------------------

    def hidden(self, isolated: int | None = None) -> Tensor | None:
        """(n,) bool, True where hidden; None if nothing is."""
        return hidden_mask(self.shared.content, len(self), isolated)

    def visible_gaussians(self, isolated: int | None = None) -> Gaussians:
        """The splat with what is hidden made transparent; ids stay."""
        with self.shared.lock:
            version = self.shared.version
            kept = self._visible.get(isolated)
            if kept is None or kept[0] != version:
                hidden = self.hidden(isolated)
                shown = self.gaussians if hidden is None else without(self.gaussians, hidden)
                self._visible = {k: v for k, v in self._visible.items() if v[0] == version}
                self._visible[isolated] = kept = (version, shown)
            return kept[1]

    # Files -----------------------------------------------------------------------------------------------------------

    @property
    def sessions_folder(self) -> Path:
        return self.run.sessions

    def session_path(self, name: str) -> Path:
        return self.sessions_folder / f"{file_stem(name)}.npz"

    def saved_sessions(self) -> tuple[str, ...]:
        """Names of the saved sessions, the newest first, the autosave left out."""
        files = [p for p in self.sessions_folder.glob("*.npz") if not p.name.startswith(".") and p.stem != AUTOSAVE]
        return tuple(p.stem for p in sorted(files, key=lambda p: -p.stat().st_mtime))

    def export_path(self, name: str, suffix: str) -> Path:
        """Where an export of that name goes: always a file directly in the run's ``exports``."""
        return self.run.exports / f"{file_stem(name)}{suffix}"

    # Autosave --------------------------------------------------------------------------------------------------------

    def start_autosave(self) -> None:
        """Take up what the last server left, and write every change from now on.

        Raises:
            SplatsegError: another viewer has this run open.
        """
        self._take_lock()
        path = self.session_path(AUTOSAVE)
        if path.is_file():
            try:
                saved = store.load(path, self.field, self.weights)
            except SplatsegError as error:
                kept = path.with_name(f"autosave-{time.strftime('%Y%m%d-%H%M%S')}.unreadable")
                os.replace(path, kept)
                self.restored = f"the autosave could not be used and is kept as {kept.name} ({error})"
            else:
                self.shared.apply(saved.change(self.shared.content))
                self._last_step = self._restored_step = saved.step
                count = len(self.shared.content.objects)
                self.restored = f"restored {count} object{'' if count == 1 else 's'} from {saved.when}"
        self.shared.listen(self._dirty.set)
        self._writer = threading.Thread(target=self._autosave_loop, name="splatseg-autosave", daemon=True)
        self._writer.start()

    def note_step(self, step: Step) -> None:
        """Tell the autosave about the newest selection."""
        self._last_step = step
        self._dirty.set()

    def take_restored_step(self) -> Step | None:
        """The selection that the last server left, once: for the first session."""
        with self.shared.lock:
            step, self._restored_step = self._restored_step, None
            return step

    def flush(self) -> None:
        """Write the autosave now; an error is kept in :attr:`autosave_error`, for the status line."""
        self._dirty.clear()
        try:
            store.save(self.session_path(AUTOSAVE), self.shared.content, self.fingerprint, self._last_step)
            self.autosave_error = None
        except SplatsegError as error:
            self.autosave_error = str(error)
            log.warning("autosave: %s", error)

    def close(self) -> None:
        """Write what is not yet written, stop the autosave and free the run."""
        self._closing.set()
        self._dirty.set()
        if self._writer is not None:
            self._writer.join(timeout=10)
            self._writer = None
        self._lock.free()

    def _autosave_loop(self) -> None:
        while True:
            self._dirty.wait()
            if self._closing.wait(AUTOSAVE_SECONDS):
                self.flush()
                return
            self.flush()

    def _take_lock(self) -> None:
        self._lock.take()
        for folder in (self.sessions_folder, self.run.exports):  # what a killed viewer was writing
            remove_leftovers(folder)


def without(gaussians: Gaussians, hidden: Tensor) -> Gaussians:
    """``gaussians`` with those of ``hidden`` (n,) bool made transparent; ids stay."""
    logits = gaussians.opacity_logits.masked_fill(hidden.to(gaussians.device), HIDDEN_LOGIT)
    return replace(gaussians, opacity_logits=logits)


def load_scene(run: Run, scene: Path | None = None) -> Scene | None:
    """The photos a run was fitted to; None, with a warning, where they cannot be read any more.

    Raises:
        SplatsegError: they are not in ``scene``, which a person named.
    """
    try:
        return load_run_scene(run, scene)
    except (SplatsegError, OSError) as error:
        if scene is not None:
            raise
        log.warning("the photos of the run are not at hand: %s", error)
        return None
