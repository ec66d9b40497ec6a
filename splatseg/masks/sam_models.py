"""Promptable segmenters behind one small interface: embed an image once, decode points, upsample what is kept.

segment-anything and MobileSAM share their code and :class:`SegmentAnything`; SAM 2 is in ``sam2_model.py``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatseg.errors import SplatsegError, require_extra
from splatseg.masks.sam_attention import bound_attention
from splatseg.masks.sam_config import Autocast
from splatseg.masks.timm_standin import timm_or_standin
from splatseg.masks.torchvision_standin import torchvision_or_standin


class PromptModel(Protocol):
    """What everything-mode needs of a model. The methods run without gradients; ``embed`` comes before the others."""

    device: torch.device
    mask_threshold: float

    def embed(self, image: NDArray[np.uint8]) -> None:
        """Encode an (h, w, 3) uint8 RGB image; replaces the one before."""

    def decode(self, points: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Masks for (b, 2) points [x, y] in pixels of the embedded image: low-resolution logits (b, 3, s, s) float32
        and predicted IoUs (b, 3) float32."""

    def upsample(self, logits: Tensor) -> Tensor:
        """(m, h, w) float32 logits at the embedded image's size from low-resolution ``logits`` (m, s, s)."""


class SegmentAnything:
    """A ``Sam`` of segment_anything or mobile_sam as a :class:`PromptModel`.

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
        # One pass over a whole attention matrix of vit_h is 1 GB of float32, held three times: see sam_attention.
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


def in_threes(logits: Tensor, upsample: Callable[[Tensor], Tensor]) -> Tensor:
    """``upsample``, which takes (b, 3, s, s) logits, of (m, s, s) ``logits``: (m, h, w).

    The libraries upsample the three masks of a point as channels. On the CPU torch interpolates one or two channels by
    other code with other rounding, which moves pixels whose logit is next to zero: so always three, the rest zeros.
    """
    m = len(logits)
    filled = torch.cat([logits, logits.new_zeros(-m % 3, *logits.shape[1:])]) if m % 3 else logits
    return upsample(filled.reshape(-1, 3, *logits.shape[1:])).flatten(0, 1)[:m]


def autocast_on(device: torch.device, autocast: Autocast) -> AbstractContextManager[Any]:
    """The autocast block for ``device``: nothing but on CUDA, where float16 and bfloat16 are several times faster."""
    if device.type != "cuda" or autocast == "off":
        return nullcontext()
    bf16 = autocast == "bf16" or (autocast == "auto" and torch.cuda.is_bf16_supported())
    return torch.autocast("cuda", dtype=torch.bfloat16 if bf16 else torch.float16)


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


def load_model(model: str, checkpoint: Path, device: torch.device, autocast: Autocast = "auto") -> PromptModel:
    """Build ``model`` (a name of ``sam_config.MODELS``) with the weights in ``checkpoint``.

    Raises:
        MissingExtraError: the package of that model is not installed; names the extra.
        SplatsegError: the file is no checkpoint of this model.
    """
    if model.startswith("sam2"):
        from splatseg.masks.sam2_model import load_sam2

        return load_sam2(model, checkpoint, device, autocast)
    package = import_mobile_sam() if model == "vit_t" else import_segment_anything()
    sam = package.sam_model_registry[model]()
    load_weights(sam, checkpoint, model)
    return SegmentAnything(sam.to(device), package.SamPredictor, autocast)


def load_weights(module: torch.nn.Module, checkpoint: Path, model: str, key: str | None = None) -> None:
    """Fill ``module`` from a state dict file (its entry ``key``). Only tensors are unpickled, and read straight from
    disk.

    Raises:
        SplatsegError: an unreadable file, or one of another model.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=_is_zip(checkpoint))
        module.load_state_dict(state if key is None else state[key])
    except FileNotFoundError:
        raise SplatsegError(f"{checkpoint}: checkpoint not found") from None
    except Exception as error:  # torch.load has no error class of its own: pickle, zip, key, type and runtime errors
        reason = " ".join(str(error).split())[:160]
        raise SplatsegError(f"{checkpoint}: expected a checkpoint of {model}, found another file ({reason})") from None


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def import_with_standins(name: str, extra: str) -> ModuleType:
    """Module ``name`` of a package that the pip ``extra`` brings, with torchvision or its stand-in.

    Raises:
        MissingExtraError: the package is not installed.
        SplatsegError: something that the package needs is not.
    """
    package = name.split(".")[0]
    with torchvision_or_standin():
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if error.name is None or error.name.split(".")[0] == package:
                raise require_extra(package, extra) from None
            raise SplatsegError(f"{package}: does not import ({error}); install it with: {_pip(extra)}") from None


def _pip(extra: str) -> str:
    return f"pip install 'splatseg[{extra}]'"
