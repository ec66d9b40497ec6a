"""Prompt encoder and mask decoder: three discs around each point, in the model's frame of 1024 x 1024 pixels.

(In the real package they are ``sam2.modeling.sam.prompt_encoder.PromptEncoder`` and ``...mask_decoder.MaskDecoder``.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIZE = 1024
GRID, LOW = 64, 256  # of the image embedding, and of the masks
RADII = (100.0, 200.0, 300.0)
IOUS = (0.9, 0.6, 0.3)


class PromptEncoder(nn.Module):
    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert points is not None and boxes is None and masks is None
        coords, labels = points
        assert coords.dtype == torch.float32 and coords.shape[1:] == (1, 2)
        assert labels.shape == coords.shape[:2] and labels.dtype == torch.int and bool((labels == 1).all())
        return coords, torch.zeros(len(coords), 3, GRID, GRID)

    def get_dense_pe(self) -> Tensor:
        return torch.zeros(1, 3, GRID, GRID)


class MaskDecoder(nn.Module):
    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        repeat_image: bool,
        high_res_features: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        assert multimask_output and len(image_pe) == 1
        assert high_res_features is not None
        assert [tuple(level.shape) for level in high_res_features] == [
            (1, 3, 4 * GRID, 4 * GRID),
            (1, 3, 2 * GRID, 2 * GRID),
        ]
        points = sparse_prompt_embeddings
        src = image_embeddings.repeat_interleave(len(points), dim=0) if repeat_image else image_embeddings
        assert len(src) == len(points) and src.shape == dense_prompt_embeddings.shape
        centers = (torch.arange(LOW) + 0.5) * (SIZE / LOW)
        x, y = points[:, 0, 0, None, None], points[:, 0, 1, None, None]
        distance = ((centers[None, None, :] - x) ** 2 + (centers[None, :, None] - y) ** 2).sqrt()
        logits = torch.tensor(RADII)[None, :, None, None] - distance[:, None]
        ious = torch.tensor(IOUS) + 0.01 * src.mean(dim=(1, 2, 3))[:, None]
        return logits, ious, torch.zeros(len(points), 3, 8), torch.zeros(len(points), 1)
