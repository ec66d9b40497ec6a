"""``build_sam2``; the configurations are those that come with the real package."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sam2.modeling import SIZE, MaskDecoder, PromptEncoder

CONFIGS = [f"configs/sam2.1/sam2.1_hiera_{size}.yaml" for size in ("t", "s", "b+", "l")]


class SAM2Base(nn.Module):
    """Its one weight brightens or darkens the photo's embedding, so that the checkpoint shows in the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size = SIZE
        self.sam_prompt_encoder = PromptEncoder()
        self.sam_mask_decoder = MaskDecoder()
        self.gain = nn.Parameter(torch.ones(()))

    @property
    def device(self) -> torch.device:
        return self.gain.device


def build_sam2(
    config_file: str,
    ckpt_path: str | None = None,
    device: str = "cuda",
    mode: str = "eval",
    hydra_overrides_extra: list[str] = [],  # noqa: B006 - the real signature
    apply_postprocessing: bool = True,
    **kwargs: Any,
) -> SAM2Base:
    assert config_file in CONFIGS, config_file
    assert ckpt_path is None, "splatseg loads weights itself: only tensors, and checked"
    assert not apply_postprocessing, "it would swap masks after the decoder has scored them"
    model = SAM2Base().to(device)
    return model.eval() if mode == "eval" else model
