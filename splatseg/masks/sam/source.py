"""Segment Anything as a mask source: segment-anything's models, MobileSAM and SAM 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from splatseg.core.errors import SplatsegError
from splatseg.core.progress import SILENT, Reporter
from splatseg.core.scene import View
from splatseg.masks.sam.config import Autocast, SamConfig
from splatseg.masks.sam.everything import ScoredMasks, everything_masks
from splatseg.masks.sam.model import PromptModel
from splatseg.masks.sam.registry import load_model
from splatseg.masks.sam.weights import CHECKPOINTS, find_checkpoint, sha256_of

__all__ = ["SamConfig", "SamMasks"]

Loader = Callable[[str, Path, torch.device, Autocast], PromptModel]


class SamMasks:
    """Everything-mode masks of a view. The model is loaded with the first image.

    Args:
        config: model, weights, device and settings.
        reporter: hears of a download of the weights.
        load: builds the model.
    """

    name = "sam"

    def __init__(self, config: SamConfig | None = None, reporter: Reporter = SILENT, load: Loader = load_model) -> None:
        self.config = config or SamConfig()
        self.device = torch.device(self.config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._reporter = reporter
        self._load = load
        self._found: tuple[Path, str] | None = None
        self._model: PromptModel | None = None

    def settings(self) -> dict[str, Any]:
        """What decides the masks: the configuration and the weights' SHA-256.

        Raises:
            SplatsegError: the weights cannot be had, or the cached file is not the official one.
        """
        return {**self.config.result_settings(), "weights": self._checkpoint()[1][:16]}

    def masks(self, view: View) -> ScoredMasks:
        """The masks of ``view``, with their scores.

        Raises:
            SplatsegError: the image or the weights cannot be read.
        """
        image = view.image().numpy()
        return everything_masks(self._loaded(), image, self.config)

    def _loaded(self) -> PromptModel:
        if self._model is None:
            self._model = self._load(self.config.model, self._checkpoint()[0], self.device, self.config.autocast)
        return self._model

    def _checkpoint(self) -> tuple[Path, str]:
        """Path and SHA-256 of the weights, looked up once."""
        if self._found is None:
            path = find_checkpoint(self.config.model, self.config.checkpoint, self._reporter)
            digest = sha256_of(path)
            official = CHECKPOINTS[self.config.model].sha256
            if self.config.checkpoint is None and digest != official:
                raise SplatsegError(
                    f"{path}: expected SHA-256 {official}, found {digest}; delete it to have it downloaded, "
                    "or give your own file with --sam-checkpoint"
                )
            self._found = path, digest
        return self._found
