"""A tiny encoder in the place of TinyViT, which is no ``ImageEncoderViT``."""

from __future__ import annotations

from typing import Any

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from timm.models.layers import DropPath as TimmDropPath
from timm.models.layers import to_2tuple, trunc_normal_
from timm.models.registry import register_model
from torch import Tensor, nn


class DropPath(TimmDropPath):
    """As in the real module: a subclass that passes its probability by name."""

    def __init__(self, drop_prob: float | None = None) -> None:
        super().__init__(drop_prob=drop_prob)
        self.drop_prob = drop_prob


class TinyViT(nn.Module):
    def __init__(self, img_size: int = 128) -> None:
        super().__init__()
        self.img_size = img_size
        self.patches = nn.Conv2d(3, 32, 16, stride=to_2tuple(16))
        self.norm = nn.BatchNorm2d(32)  # gives other values unless the model is in evaluation mode
        self.drop_path = DropPath(0.5)  # so does this
        trunc_normal_(self.patches.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(self.norm(self.patches(x)))


@register_model
def build_sam_vit_t(checkpoint: Any = None) -> Sam:
    assert checkpoint is None, "splatseg loads weights itself: only tensors, and checked"
    encoder = TinyViT()
    grid, size = encoder.img_size // 16, encoder.img_size
    prompts = PromptEncoder(
        embed_dim=32, image_embedding_size=(grid, grid), input_image_size=(size, size), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=4)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_hidden_dim=32)
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    return Sam(encoder, prompts, decoder, pixel_mean=mean, pixel_std=std)
