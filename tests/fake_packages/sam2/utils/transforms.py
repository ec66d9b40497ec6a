"""Photos, points and masks between the image's frame and the model's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import Normalize, Resize, ToTensor

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class SAM2Transforms(nn.Module):
    def __init__(
        self, resolution: int, mask_threshold: float, max_hole_area: float = 0.0, max_sprinkle_area: float = 0.0
    ) -> None:
        super().__init__()
        assert max_hole_area == 0 and max_sprinkle_area == 0, "cleaning of regions is not this package's work"
        self.resolution = resolution
        self.to_tensor = ToTensor()
        # The real package compiles these: what stands in for torchvision must allow it.
        self.transforms = torch.jit.script(nn.Sequential(Resize((resolution, resolution)), Normalize(MEAN, STD)))

    def __call__(self, x: Any) -> Tensor:
        return self.transforms(self.to_tensor(x))

    def transform_coords(self, coords: Tensor, normalize: bool = False, orig_hw: Any = None) -> Tensor:
        if normalize:
            height, width = orig_hw
            coords = coords / torch.tensor([width, height], dtype=coords.dtype)
        return coords * self.resolution

    def postprocess_masks(self, masks: Tensor, orig_hw: Any) -> Tensor:
        assert masks.ndim == 4
        return nn.functional.interpolate(masks.float(), orig_hw, mode="bilinear", align_corners=False)
