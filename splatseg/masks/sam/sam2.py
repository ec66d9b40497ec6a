"""SAM 2's image model (package ``sam2``) behind the interface of ``model``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatseg.masks.sam.config import Autocast
from splatseg.masks.sam.model import PromptModel, autocast_on, import_with_standins, in_threes, load_weights

CONFIGS = {
    "sam2.1_hiera_tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "sam2.1_hiera_small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "sam2.1_hiera_base_plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "sam2.1_hiera_large": "configs/sam2.1/sam2.1_hiera_l.yaml",
}


class Sam2:
    """A ``SAM2ImagePredictor`` as a :class:`~splatseg.masks.sam.model.PromptModel`."""

    def __init__(self, predictor: Any, autocast: Autocast = "auto") -> None:
        self.device = predictor.device
        self.mask_threshold = float(predictor.mask_threshold)
        self._predictor = predictor
        self._autocast = autocast

    @torch.no_grad()
    def embed(self, image: NDArray[np.uint8]) -> None:
        with autocast_on(self.device, self._autocast):
            self._predictor.set_image(np.ascontiguousarray(image))

    @torch.no_grad()
    def decode(self, points: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        # The steps of SAM2ImagePredictor._predict up to its upsampling of all masks, which is what must not happen.
        predictor, model = self._predictor, self._predictor.model
        coords = torch.as_tensor(points, dtype=torch.float32, device=self.device)[:, None]
        coords = predictor._transforms.transform_coords(coords, normalize=True, orig_hw=predictor._orig_hw[-1])
        labels = torch.ones(len(points), 1, dtype=torch.int, device=self.device)
        sparse, dense = model.sam_prompt_encoder(points=(coords, labels), boxes=None, masks=None)
        features = predictor._features
        with autocast_on(self.device, self._autocast):
            logits, ious, _, _ = model.sam_mask_decoder(
                image_embeddings=features["image_embed"][-1].unsqueeze(0),
                image_pe=model.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
                repeat_image=len(points) > 1,
                high_res_features=[level[-1].unsqueeze(0) for level in features["high_res_feats"]],
            )
        return logits.float(), ious.float()

    @torch.no_grad()
    def upsample(self, logits: Tensor) -> Tensor:
        predictor = self._predictor
        return in_threes(logits, lambda masks: predictor._transforms.postprocess_masks(masks, predictor._orig_hw[-1]))


def import_sam2() -> tuple[ModuleType, ModuleType]:
    """``sam2.build_sam`` and ``sam2.sam2_image_predictor``, with torchvision or its stand-in.

    Raises:
        MissingExtraError: ``sam2`` is not installed.
    """
    return import_with_standins("sam2.build_sam", "sam2"), import_with_standins("sam2.sam2_image_predictor", "sam2")


def load_sam2(model: str, checkpoint: Path, device: torch.device, autocast: Autocast) -> PromptModel:
    """SAM 2.1 with the weights in ``checkpoint``.

    Raises:
        MissingExtraError: ``sam2`` is not installed.
        SplatsegError: the file is no checkpoint of this model.
    """
    build, predictor = import_sam2()
    network = build.build_sam2(CONFIGS[model], ckpt_path=None, device="cpu", apply_postprocessing=False)
    load_weights(network, checkpoint, model, key="model")
    return Sam2(predictor.SAM2ImagePredictor(network.to(device)), autocast)
