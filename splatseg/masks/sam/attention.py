"""segment-anything's image encoder in bounded memory.

A global attention layer of the encoder works on all 64 x 64 tokens: the attention matrix of one head is 67 MB of
    float32,
0.8 GB for vit_b's 12 heads and 1.1 GB for vit_h's 16, and the library holds three of that size at once (the product,
and two sums with the relative positions). Each head is independent of the others, so computing a few at a time gives
the same numbers.
"""

from __future__ import annotations

import importlib
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def bound_attention(encoder: nn.Module, budget: int) -> int:
    """Let every attention layer of segment-anything's ``ImageEncoderViT`` hold at most about 3 x ``budget`` bytes.

    Encoders of other kinds (MobileSAM's TinyViT has no global attention) are left as they are.

    Args:
        encoder: changed in place; its weights and their names stay.
        budget: bytes of one attention matrix in float32; a single head is never split.

    Returns:
        the number of layers changed.
    """
    changed = 0
    for module in encoder.modules():
        if (
            type(module).__module__ == "segment_anything.modeling.image_encoder"
            and type(module).__name__ == "Attention"
        ):
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]
            module.attention_budget = budget  # type: ignore[assignment]
            changed += 1
    return changed


def _forward(self: Any, x: Tensor) -> Tensor:
    """The library's ``Attention.forward`` on (b, h, w, c) tokens, over groups of (image or window, head) pairs."""
    library = importlib.import_module("segment_anything.modeling.image_encoder")
    batch, height, width, _ = x.shape
    tokens = height * width
    qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.reshape(3, batch * self.num_heads, tokens, -1).unbind(0)
    group = max(1, self.attention_budget // (4 * tokens * tokens))
    out = torch.empty_like(q)
    for start in range(0, len(q), group):
        rows = slice(start, start + group)
        attention = (q[rows] * self.scale) @ k[rows].transpose(-2, -1)
        if self.use_rel_pos:
            attention = library.add_decomposed_rel_pos(
                attention, q[rows], self.rel_pos_h, self.rel_pos_w, (height, width), (height, width)
            )
        out[rows] = attention.softmax(dim=-1) @ v[rows]
    merged = out.view(batch, self.num_heads, height, width, -1).permute(0, 2, 3, 1, 4).reshape(batch, height, width, -1)
    return self.proj(merged)
