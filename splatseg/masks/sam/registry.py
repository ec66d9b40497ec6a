"""Every model by its name."""

from __future__ import annotations

from pathlib import Path

import torch

from splatseg.masks.sam.config import Autocast
from splatseg.masks.sam.model import PromptModel, load_weights
from splatseg.masks.sam.sam2 import load_sam2
from splatseg.masks.sam.segment_anything import SegmentAnything, import_mobile_sam, import_segment_anything


def load_model(model: str, checkpoint: Path, device: torch.device, autocast: Autocast = "auto") -> PromptModel:
    """Build ``model`` (a name of ``config.MODELS``) with the weights in ``checkpoint``.

    Raises:
        MissingExtraError: the package of that model is not installed; names the extra.
        SplatsegError: the file is no checkpoint of this model.
    """
    if model.startswith("sam2"):
        return load_sam2(model, checkpoint, device, autocast)
    package = import_mobile_sam() if model == "vit_t" else import_segment_anything()
    sam = package.sam_model_registry[model]()
    load_weights(sam, checkpoint, model)
    return SegmentAnything(sam.to(device), package.SamPredictor, autocast)
