"""What a promptable segmenter is to us, and what those of every package need: embed an image once, decode points,
upsample what is kept."""

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

from splatseg.core.errors import SplatsegError, require_extra
from splatseg.core.reading import regular
from splatseg.masks.sam.config import Autocast
from splatseg.masks.sam.torchvision_standin import torchvision_or_standin


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


def load_weights(module: torch.nn.Module, checkpoint: Path, model: str, key: str | None = None) -> None:
    """Fill ``module`` from a state dict file (its entry ``key``). Only tensors are unpickled, and read straight from
    disk.

    Raises:
        SplatsegError: an unreadable file, or one of another model.
    """
    try:
        state = torch.load(regular(checkpoint), map_location="cpu", weights_only=True, mmap=_is_zip(checkpoint))
        module.load_state_dict(state if key is None else state[key])
    except FileNotFoundError:
        raise SplatsegError(f"{checkpoint}: checkpoint not found") from None
    except Exception as error:  # torch.load has no error class of its own: pickle, zip, key, type and runtime errors
        reason = " ".join(str(error).split())[:160]
        raise SplatsegError(f"{checkpoint}: expected a checkpoint of {model}, found another file ({reason})") from None


def _is_zip(path: Path) -> bool:
    with regular(path).open("rb") as file:
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
