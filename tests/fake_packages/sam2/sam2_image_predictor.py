"""``SAM2ImagePredictor``: the embedding is the normalized photo itself, on three grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sam2.utils.transforms import SAM2Transforms


class SAM2ImagePredictor:
    def __init__(
        self,
        sam_model: Any,
        mask_threshold: float = 0.0,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.model = sam_model
        self._transforms = SAM2Transforms(sam_model.image_size, mask_threshold, max_hole_area, max_sprinkle_area)
        self.mask_threshold = mask_threshold
        self._features: dict[str, Any] | None = None
        self._orig_hw: list[tuple[int, int]] | None = None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    def set_image(self, image: np.ndarray) -> None:
        assert isinstance(image, np.ndarray) and image.dtype == np.uint8
        self._orig_hw = [image.shape[:2]]
        photo = self.model.gain * self._transforms(image)[None]
        fine, middle, coarse = (torch.nn.functional.adaptive_avg_pool2d(photo, size) for size in (256, 128, 64))
        self._features = {"image_embed": coarse, "high_res_feats": [fine, middle]}
