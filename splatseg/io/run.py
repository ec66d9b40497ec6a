"""The run folder: where everything is, which stages are done, who holds it, and how to go on after a kill."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import time
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from splatseg.core.atomic import atomic_write, remove_leftovers_below, write_text
from splatseg.core.errors import DAMAGED, SplatsegError
from splatseg.core.photos import RUN_IDENTITY
from splatseg.core.reading import read_json, read_text, regular
from splatseg.core.value_digest import value_digest
from splatseg.io.digests import canonical
from splatseg.io.lock import Lock
from splatseg.io.run_paths import RunPaths

_BROKEN_CHECKPOINT: tuple[type[Exception], ...] = (*DAMAGED, pickle.UnpicklingError)
_STAGE = re.compile(r"[A-Za-z0-9_.-]+")
_WORK = ("stages/*.json", "checkpoints/*.pt", "sfm/sparse/*/images.bin", "masks/**/*.npz")


@dataclass(frozen=True)
class Before:
    """What was where a run folder was made: the ``entries`` of the folder, and those folders above it that were not
    there, outermost first (the folder itself is one of them where it was not)."""

    entries: frozenset[str]
    missing: tuple[Path, ...]

    @classmethod
    def of(cls, folder: Path) -> Before:
        entries = frozenset(entry.name for entry in folder.iterdir()) if folder.is_dir() else frozenset()
        return cls(entries, tuple(p for p in (*reversed(folder.parents), folder) if not p.exists()))

    def restore(self, folder: Path) -> None:
        """Remove what has come since; others' files in the folders above stay."""
        for entry in list(folder.iterdir()) if folder.is_dir() else []:
            if entry.name in self.entries:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        with suppress(OSError):
            for parent in reversed(self.missing):
                parent.rmdir()


class Run(RunPaths):
    """A run folder. Constructing one touches nothing; :meth:`open` makes or checks it, :meth:`existing` only checks."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self._before: Before | None = None  # of a run that open() made

    # Identity --------------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: str | Path, scene_settings: Mapping[str, Any], may_differ: Collection[str] = ()) -> Run:
        """Open ``folder`` for the scene described by ``scene_settings``, making it where it does not exist.

        Args:
            folder: the run folder.
            scene_settings: what must not change between calls (scene path, downscale, ...); JSON-able.
            may_differ: of these the ones that the caller compares itself: ``scene``, by what lies there
                (:func:`splatseg.io.run_scene.take_capture`).

        Raises:
            SplatsegError: the folder holds something else, or the run of another scene or other settings (the message
                names the first field that differs), or cannot be written to.
        """
        run = cls(folder)
        wanted = canonical(dict(scene_settings))
        if run.folder.exists() and not run.folder.is_dir():
            raise SplatsegError(f"{run.folder}: expected a run folder, found a file")
        if run.identity.is_file():
            found = run.scene_settings()
            for key in sorted({*wanted, *found} - set(may_differ)):
                if wanted.get(key) != found.get(key):
                    raise SplatsegError(
                        f"{run.folder}: {key}: expected {json.dumps(wanted.get(key))}, found "
                        f"{json.dumps(found.get(key))} in the run that is already there; choose another --out"
                    )
            return run
        if run.folder.is_dir() and any(not entry.name.startswith(".") for entry in run.folder.iterdir()):
            raise SplatsegError(f"{run.folder}: expected a run folder or an empty one, found other files in it")
        run._before = Before.of(run.folder)
        run._write_identity(wanted)
        return run

    @classmethod
    def existing(cls, folder: str | Path) -> Run:
        """The run in ``folder``.

        Raises:
            SplatsegError: the folder is missing or is not a run folder.
        """
        run = cls(folder)
        if not run.identity.is_file():
            state = f"one without {RUN_IDENTITY}" if run.folder.is_dir() else "nothing"
            raise SplatsegError(f"{run.folder}: expected a run folder (made by scripts/fit.py), found {state}")
        return run

    @contextmanager
    def gone_if_refused(self) -> Iterator[None]:
        """A user error in the block leaves no new run: what :meth:`open` and the block made is removed, as long as it
        holds no work (:meth:`holds_work`). A run that was there before stays as it is."""
        try:
            yield
        except SplatsegError:
            if self._before is not None and not self.holds_work():
                self._before.restore(self.folder)
            raise

    def holds_work(self) -> bool:
        """Whether there is anything here that took time: a stage's result or checkpoint, poses found, masks."""
        return any(path.name[0] != "." for pattern in _WORK for path in self.folder.glob(pattern))

    def replace_scene_settings(self, **changes: Any) -> None:
        """Write ``scene.json`` with ``changes``."""
        self._write_identity(canonical({**self.scene_settings(), **changes}))

    def _write_identity(self, settings: Any) -> None:
        write_text(self.identity, json.dumps(settings, indent=1, sort_keys=True) + "\n")

    def scene_settings(self) -> dict[str, Any]:
        """The settings the run was opened with.

        Raises:
            SplatsegError: ``scene.json`` is missing or damaged.
        """
        path = self.identity
        try:
            found = read_json(path)
        except DAMAGED as error:
            raise SplatsegError(f"{path}: expected the settings of a run, found: {error}") from None
        if not isinstance(found, dict):
            raise SplatsegError(f"{path}: expected a JSON object, found {type(found).__name__}")
        return found

    # Stages ----------------------------------------------------------------------------------------------------------

    def _stamp(self, stage: str) -> Path:
        assert _STAGE.fullmatch(stage), stage
        return self.stages / f"{stage}.json"

    def is_done(self, stage: str, digest: str) -> bool:
        """Whether ``stage`` was finished with this ``digest`` and its outputs are still there, of the same size."""
        try:
            stamp = read_json(self._stamp(stage))
            outputs = stamp["outputs"].items()
            return stamp["digest"] == digest and all((self.folder / p).stat().st_size == size for p, size in outputs)
        except DAMAGED:
            return False

    def made_from(self, stage: str) -> dict[str, str] | None:
        """The digest of each input of the finished ``stage``; None where they were not recorded."""
        try:
            found = read_json(self._stamp(stage))["inputs"]
        except DAMAGED:
            return None
        return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else None

    def was_done(self, stage: str) -> bool:
        """Whether ``stage`` was finished at all, from whatever inputs."""
        return self._stamp(stage).is_file()

    def mark_done(
        self, stage: str, digest: str, outputs: Iterable[str | Path] = (), inputs: Mapping[str, str] | None = None
    ) -> None:
        """Record that ``stage`` is finished, once its ``outputs`` (files of the run) have their final names.

        ``inputs``: the digest of each thing it was made from, for :meth:`made_from`.
        """
        sizes = {}
        for path in map(Path, outputs):
            try:
                sizes[str(path.relative_to(self.folder))] = path.stat().st_size
            except (OSError, ValueError):
                raise SplatsegError(f"{path}: expected an output of stage {stage} in {self.folder}") from None
        stamp: dict[str, Any] = {"digest": digest, "outputs": sizes, "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        if inputs is not None:
            stamp["inputs"] = dict(inputs)
        write_text(self._stamp(stage), json.dumps(stamp, indent=1) + "\n")

    def unmark(self, stage: str) -> None:
        """Forget that ``stage`` was done, before its outputs are replaced: after a kill they are of no known inputs."""
        self._stamp(stage).unlink(missing_ok=True)

    def clear(self, stage: str) -> None:
        """Forget that ``stage`` was done and drop its checkpoint."""
        self.unmark(stage)
        self.drop_checkpoint(stage)

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def checkpoint_path(self, stage: str) -> Path:
        assert _STAGE.fullmatch(stage), stage
        return self.checkpoints / f"{stage}.pt"

    def save_checkpoint(self, stage: str, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint of ``stage``; ``state`` holds tensors, numbers, text, and dicts and lists of them.

        A digest of all of it goes along: check sums tell of damage to the bytes, not of a file that was written anew.
        """
        state = dict(state)
        with atomic_write(self.checkpoint_path(stage)) as temporary, open(temporary, "wb") as file:
            torch.save({"state": state, "sha256": value_digest(state)}, file)

    def drop_checkpoint(self, stage: str) -> None:
        """Remove the checkpoint of ``stage``, where there is one that can be removed."""
        with suppress(OSError):
            self.checkpoint_path(stage).unlink(missing_ok=True)

    def load_checkpoint(self, stage: str) -> dict[str, Any] | None:
        """The checkpoint of ``stage`` on the CPU; None where there is none or, with a warning, where it is not as
        :meth:`save_checkpoint` left it."""
        path = self.checkpoint_path(stage)
        try:
            # torch.save writes check sums, torch.load does not look at them: damage shall not come to the unpickler.
            with zipfile.ZipFile(regular(path)) as archive:
                if (broken := archive.testzip()) is not None:
                    raise ValueError(f"{broken}: the check sum is another")
            stored = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(stored, dict) or not isinstance(state := stored.get("state"), dict):
                raise ValueError("expected a state and its digest")
            if stored.get("sha256") != value_digest(state):
                raise ValueError("its digest is of another state")
        except FileNotFoundError:
            return None
        except _BROKEN_CHECKPOINT as error:
            reason = str(error).split("\n", 1)[0]
            warnings.warn(f"{path}: unreadable checkpoint ignored, stage {stage} starts anew ({reason})", stacklevel=2)
            return None
        return state

    # Log -------------------------------------------------------------------------------------------------------------

    def log(self, record: Mapping[str, Any]) -> None:
        """Append ``record`` and the time as one line to ``log.jsonl``. A line cut off by a kill is closed first."""
        line = json.dumps({"time": round(time.time(), 3), **record}, default=float) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.log_file, "ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else "\n" + line
                file.write(line.encode())
        except OSError as error:
            raise SplatsegError(f"{self.log_file}: expected room to append a line, found: {error.strerror}") from None

    def read_log(self) -> list[dict[str, Any]]:
        """The records of ``log.jsonl``; lines that a kill cut off are left out."""
        if not self.log_file.is_file():
            return []
        records = []
        for line in read_text(self.log_file, errors="replace").splitlines():
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    records.append(record)
        return records

    # Leftovers -------------------------------------------------------------------------------------------------------

    def remove_leftovers(self) -> None:
        """Remove what processes that were killed were writing to the run; for commands that do not :meth:`lock` it."""
        remove_leftovers_below(self.folder, held=False)

    # Lock ------------------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run against other processes for the length of the block.

        One that a killed process held is free. Temporary files that such a process left are removed; those of living
        processes (a viewer writes to the run meanwhile) stay.

        Raises:
            SplatsegError: another process holds it; the message names its id.
        """
        with Lock(self.lock_file, "a free run folder", self.folder):
            remove_leftovers_below(self.folder)
            yield
