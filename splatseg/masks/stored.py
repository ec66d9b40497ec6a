"""Masks that a run holds already, as a source: those made ahead need neither weights nor their settings again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from splatseg.core.errors import DAMAGED, SplatsegError
from splatseg.core.reading import read_json
from splatseg.core.scene import View
from splatseg.masks.cache import ABOUT, MaskCache
from splatseg.masks.mask_set import MaskSet
from splatseg.masks.sam.config import SamConfig
from splatseg.masks.source import MaskSource, mask_source
from splatseg.masks.watershed import WatershedConfig

_HOW = ("device", "autocast", "points_per_batch")  # of a SamConfig: where and how fast, nothing that decides the masks


class StoredMasks:
    """The source whose masks are in ``folder``, as :meth:`splatseg.masks.cache.MaskCache.describe` wrote it down.

    It has that source's name and settings, so a :class:`~splatseg.masks.cache.MaskCache` of it finds the same files.
    A view without a file there gets its masks from the source itself, which is made only then.

    Raises:
        SplatsegError: the description is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / ABOUT
        try:
            about = read_json(path)
            self.spec, self.name = str(about["spec"]), str(about["name"])
            self._settings, self._config = dict(about["settings"]), about["config"]
            self.ahead = bool(about["ahead"])
            self.written = path.stat().st_mtime_ns
        except DAMAGED as error:
            raise SplatsegError(f"{path}: expected the description of a folder of masks, found: {error!r}") from None
        self.one_core = self.name == "watershed"
        self._source: MaskSource | None = None

    def settings(self) -> dict[str, Any]:
        return self._settings

    def masks(self, view: View) -> MaskSet:
        """Those in the folder; of a view that has none yet, from the source that made the others.

        Raises:
            SplatsegError: what the source raises, or it is not the one of the others any more.
        """
        kept = MaskCache(self.folder.parent, self).load(view)
        if kept is not None:
            return kept
        if self._source is None:
            self._source = self._made_again()
        return self._source.masks(view)

    def _made_again(self) -> MaskSource:
        source = mask_source(self.spec, config=self._config_again())
        found = json.loads(json.dumps(source.settings(), default=str))
        if found != self._settings:
            changed = ", ".join(key for key in self._settings if found.get(key) != self._settings[key])
            raise SplatsegError(
                f"{self.folder}: expected masks of all views or what made the others, found that {changed or 'it'} "
                "changed; name a source with --masks"
            )
        return source

    def _config_again(self) -> SamConfig | WatershedConfig | None:
        try:
            if self.name == "watershed":
                return WatershedConfig(**self._config)
            if self.name == "sam":
                given = {name: value for name, value in self._config.items() if name not in _HOW}
                checkpoint = given.pop("checkpoint", None)
                return SamConfig(**given, checkpoint=None if checkpoint is None else Path(checkpoint))
        except TypeError as error:
            raise SplatsegError(f"{self.folder / ABOUT}: config: expected settings of {self.name}: {error}") from None
        return None


def stored_masks(root: Path) -> list[StoredMasks]:
    """The masks in a run's folder of masks that a fit takes where none are named, newest first: those made ahead, and
    those of any source but the watershed (which is what a fit makes where there are none)."""
    found = []
    for path in root.glob(f"*/{ABOUT}"):
        try:
            masks = StoredMasks(path.parent)
        except SplatsegError:
            continue
        if masks.ahead or masks.name != "watershed":
            found.append(masks)
    return sorted(found, key=lambda masks: (-masks.written, masks.folder.name))
