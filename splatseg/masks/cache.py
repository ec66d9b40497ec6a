"""Masks on disk: one compressed file a view, made anew where the photo, the source or its settings changed."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from splatseg.errors import SplatsegError
from splatseg.io.atomic import atomic_write
from splatseg.io.names import run_path
from splatseg.io.run import digest
from splatseg.masks import MaskSource
from splatseg.masks.mask_set import MaskSet
from splatseg.masks.workers import find_masks
from splatseg.scene import View

_FORMAT = 1


class MaskCache:
    """The masks that ``source`` gives, kept in ``folder``; view ``a/b.jpg`` is in ``a/b.jpg.npz``
    (:func:`splatseg.io.names.run_path`).

    A file holds the digest of the photo (its contents: a copied or touched photo is the same), the source's name and
    its settings; with another digest, or damaged, it counts as absent.
    """

    def __init__(self, folder: str | Path, source: MaskSource) -> None:
        self.folder = Path(folder)
        self.source = source
        self._settings = {"format": _FORMAT, "source": source.name, "settings": source.settings()}

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

    def all_masks(self, views: Sequence[View]) -> Generator[MaskSet, None, None]:
        """:meth:`masks` of each view, in order, on as many cores as the source can use."""
        is_left = [self.load(view) is None for view in views]
        to_find = [view for view, left in zip(views, is_left, strict=True) if left]
        with closing(find_masks(self.source, to_find)) as found:
            for view, left in zip(views, is_left, strict=True):
                if left:
                    masks = next(found)
                    self.save(view, masks)
                    yield masks
                else:
                    yield self.masks(view)

    def load(self, view: View) -> MaskSet | None:
        """The stored masks of ``view``; None where there are none that still hold."""
        try:
            with np.load(self.path(view), allow_pickle=False) as file:
                if str(file["key"]) != self._key(view):
                    return None
                lengths, counts = file["lengths"], file["counts"]
                height, width = (int(size) for size in file["size"])
            return MaskSet(height, width, tuple(np.split(counts, np.cumsum(lengths)[:-1])) if len(lengths) else ())
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
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
