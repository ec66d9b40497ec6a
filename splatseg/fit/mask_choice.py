"""Which masks a fit takes: those that are named, else those that the run holds, else the watershed's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from splatseg.core.scene import View
from splatseg.fit.settings import MADE_MASKS, FitConfig, FitInputs
from splatseg.fit.stages import folder_digest
from splatseg.io.digests import digest
from splatseg.io.run import Run
from splatseg.masks import MaskSource, mask_source
from splatseg.masks.cache import MaskCache
from splatseg.masks.sam.config import SamConfig
from splatseg.masks.stored import StoredMasks, stored_masks
from splatseg.masks.watershed import WatershedConfig

log = logging.getLogger(__name__)


class MaskChoice:
    """The masks of one fit; ``spec`` is ``watershed``, ``sam`` or a folder."""

    def __init__(self, inputs: FitInputs, config: FitConfig, run: Run, kept: StoredMasks | None) -> None:
        """With ``kept``, the masks that ``inputs.masks_in`` names, those; else as ``inputs.masks`` says."""
        self.spec = inputs.masks or "watershed"
        self._config = config
        self._run = run
        self._stored: StoredMasks | None = None
        self._source: MaskSource | None = None
        if kept is not None:
            self._take(kept)
        elif inputs.masks is None and config.watershed == WatershedConfig():
            self._take_newest()

    def _take(self, stored: StoredMasks) -> None:
        self.spec, self._stored = stored.spec, stored
        if stored.name == "files" and Path(self.spec).is_dir():
            self._stored = None  # the folder itself, as it is now

    def _take_newest(self) -> None:
        """The newest masks that the run holds, if it holds any, and a line that says so."""
        found = stored_masks(self._run.masks)
        if not found:
            return
        self._take(found[0])
        log.warning(
            "masks: none named, taking those of '%s' in %s%s; --masks watershed makes others beside them",
            self.spec,
            found[0].folder,
            "" if len(found) == 1 else f", the newest of {len(found)}",
        )

    def source(self, views: Sequence[View]) -> MaskSource:
        """Made once, so that it says once which of ``views`` have no masks."""
        if self._source is None:
            self._source = self._stored or mask_source(self.spec, views, self._settings_of_source())
        return self._source

    def _settings_of_source(self) -> WatershedConfig | SamConfig | None:
        """Settings of the chosen source; a folder of masks has none."""
        if self.spec == "watershed":
            return self._config.watershed
        return self._config.sam if self.spec == "sam" else None

    def digest(self, views: Sequence[View]) -> str:
        """Of the source and its settings; of a folder of masks the contents, wherever it lies."""
        source, folder = self.source(views), Path(self.spec)
        by_contents = source.name == "files" and folder.is_dir()
        return digest([source.name, folder_digest(folder) if by_contents else source.settings()])

    def cache(self, views: Sequence[View], describe: bool = True) -> MaskCache:
        """Where the run keeps these masks, described there unless they are those of the folder itself."""
        source = self.source(views)
        cache = MaskCache(self._run.masks, source)
        if describe and source is not self._stored:
            cache.describe(self.spec if self.spec in MADE_MASKS else Path(self.spec).resolve())
        return cache

    def recorded(self) -> dict[str, Any]:
        """What ``config.yaml`` says, so that the fit can be repeated."""
        return {
            "masks": self.spec if self.spec in MADE_MASKS else str(Path(self.spec).resolve()),
            "masks_in": None if self._stored is None else str(self._stored.folder.resolve()),
        }
