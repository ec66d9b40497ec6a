"""Masks on disk: a folder for each source and settings, in it one compressed file a view, made anew where the photo
changed."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from splatseg.core.atomic import atomic_write, write_text
from splatseg.core.errors import DAMAGED, SplatsegError
from splatseg.core.reading import read_json, read_npz
from splatseg.core.scene import View
from splatseg.io.digests import digest
from splatseg.io.names import run_path
from splatseg.masks.mask_set import MaskSet
from splatseg.masks.source import MaskSource
from splatseg.masks.workers import find_masks

ABOUT = "source.json"
_FORMAT = 1


class MaskCache:
    """The masks that ``source`` gives, kept in ``root/NAME-DIGEST`` of the source and its settings, beside those of
    others; view ``a/b.jpg`` is in ``a/b.jpg.npz`` (:func:`splatseg.io.names.run_path`).

    A file holds the digest of the photo (its contents: a copied or touched photo is the same), the source's name and
    its settings; with another digest, or damaged, it counts as absent. Files that an older version left in ``root``
    itself are read, and never written.
    """

    def __init__(self, root: str | Path, source: MaskSource) -> None:
        self.root = Path(root)
        self.source = source
        self._settings = {"format": _FORMAT, "source": source.name, "settings": source.settings()}
        self.folder = self.root / f"{source.name}-{digest(self._settings)}"

    def describe(self, spec: str | Path, ahead: bool = False) -> None:
        """Write beside the masks what makes them, for :class:`splatseg.masks.stored.StoredMasks`.

        Args:
            spec: the source as :func:`splatseg.masks.mask_source` takes it.
            ahead: they are made for a later fit. Once said it holds.
        """
        config = getattr(self.source, "config", None)
        with suppress(OSError, ValueError, KeyError, TypeError):
            ahead = ahead or bool(read_json(self.folder / ABOUT)["ahead"])
        about = {
            "spec": str(spec),
            "name": self.source.name,
            "settings": self.source.settings(),
            "config": None if config is None else asdict(config),
            "ahead": ahead,
        }
        write_text(self.folder / ABOUT, json.dumps(about, indent=1, default=str) + "\n")

    def path(self, view: View) -> Path:
        return run_path(self.folder, view.name, ".npz")

    def masks(self, view: View) -> MaskSet:
        """The masks of ``view``, from the file or else from the source, which are then stored.

        Raises:
            SplatsegError: what the source raises; or the file cannot be written.
        """
        found = self.load(view)
        if found is None:
            found = self.source.masks(view)
            self.save(view, found)
        return found

    def all_masks(self, views: Sequence[View], shared_by: int = 1) -> Generator[MaskSet, None, None]:
        """:meth:`masks` of each view, in order, on as many cores as the source can use on a machine that so many
        processes share."""
        is_left = [self.load(view) is None for view in views]
        to_find = [view for view, left in zip(views, is_left, strict=True) if left]
        with closing(find_masks(self.source, to_find, shared_by=shared_by)) as found:
            for view, left in zip(views, is_left, strict=True):
                if left:
                    masks = next(found)
                    self.save(view, masks)
                    yield masks
                else:
                    yield self.masks(view)

    def load(self, view: View) -> MaskSet | None:
        """The stored masks of ``view``; None where there are none that still hold."""
        found = self._read(self.path(view), view)
        return found if found is not None else self._read(run_path(self.root, view.name, ".npz"), view)

    def _read(self, path: Path, view: View) -> MaskSet | None:
        try:
            content = read_npz(path)
            if str(content["key"]) != self._key(view):
                return None
            lengths, counts = content["lengths"], content["counts"]
            height, width = (int(size) for size in content["size"])
            return MaskSet(height, width, tuple(np.split(counts, np.cumsum(lengths)[:-1])) if len(lengths) else ())
        except DAMAGED:
            return None  # SplatsegError is a ValueError: run lengths that make no sense are damage too

    def save(self, view: View, masks: MaskSet) -> None:
        """Store ``masks`` of ``view``, whole or not at all."""
        if (masks.height, masks.width) != (view.camera.height, view.camera.width):
            raise SplatsegError(
                f"masks of view '{view.name}': expected {view.camera.width}x{view.camera.height} pixels, "
                f"found {masks.width}x{masks.height}"
            )
        with atomic_write(self.path(view)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                key=np.array(self._key(view)),
                size=np.array([masks.height, masks.width]),
                lengths=np.array([len(one) for one in masks.counts], np.int64),
                counts=np.concatenate([np.zeros(0, np.uint32), *masks.counts]),
            )

    def _key(self, view: View) -> str:
        return digest(self._settings, files=[view.image_path])
