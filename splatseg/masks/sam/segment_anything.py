"""The models of ``segment_anything`` and of ``mobile_sam``, which share their code."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatseg.masks.sam.attention import bound_attention
from splatseg.masks.sam.config import Autocast
from splatseg.masks.sam.model import autocast_on, import_with_standins, in_threes
from splatseg.masks.sam.timm_standin import timm_or_standin


class SegmentAnything:
    """A ``Sam`` of segment_anything or mobile_sam as a :class:`~splatseg.masks.sam.model.PromptModel`.

    Args:
        sam: the model, on its device.
        predictor_class: ``SamPredictor`` of the same package.
        autocast: precision on CUDA.
    """

    def __init__(self, sam: Any, predictor_class: Any, autocast: Autocast = "auto") -> None:
        self.device = sam.device
        self.mask_threshold = float(sam.mask_threshold)
        self._sam = sam.eval()
        self._predictor = predictor_class(sam)
        self._autocast = autocast
        # One pass over a whole attention matrix of vit_h is 1 GB of float32, held three times: see attention.
        bound_attention(sam.image_encoder, (64 if self.device.type == "cpu" else 512) << 20)

    @torch.no_grad()
    def embed(self, image: NDArray[np.uint8]) -> None:
        with autocast_on(self.device, self._autocast):
            self._predictor.set_image(image)

    @torch.no_grad()
    def decode(self, points: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        coords = self._predictor.transform.apply_coords(points, self._predictor.original_size)
        positions = torch.as_tensor(coords, device=self.device)[:, None]
        labels = torch.ones(len(points), 1, dtype=torch.int, device=self.device)
        # Positions are encoded in float32 even under autocast: their sines have phases that bf16 cannot hold.
        sparse, dense = self._sam.prompt_encoder(points=(positions, labels), boxes=None, masks=None)
        with autocast_on(self.device, self._autocast):
            logits, ious = self._sam.mask_decoder(
                image_embeddings=self._predictor.features,
                image_pe=self._sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
        return logits.float(), ious.float()

    @torch.no_grad()
    def upsample(self, logits: Tensor) -> Tensor:
        predictor = self._predictor
        return in_threes(
            logits, lambda masks: self._sam.postprocess_masks(masks, predictor.input_size, predictor.original_size)
        )


def import_segment_anything() -> ModuleType:
    """The ``segment_anything`` package, with torchvision or its stand-in.

    Raises:
        MissingExtraError: it is not installed.
    """
    return import_with_standins("segment_anything", "sam")


def import_mobile_sam() -> ModuleType:
    """The ``mobile_sam`` package, with timm and torchvision or their stand-ins.

    Raises:
        MissingExtraError: it is not installed.
    """
    with timm_or_standin():
        return import_with_standins("mobile_sam", "mobilesam")
