"""Which kernels ``splatseg._C`` has for given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from splatseg.ops._library import extension


def compiled() -> bool:
    """Whether ``splatseg._C`` is there; the first call loads it, which registers ``torch.ops.splatseg.*``."""
    return extension() is not None


def has_kernel(op: str, tensor: Tensor) -> bool:
    """Whether ``torch.ops.splatseg.<op>`` has a kernel for the device of ``tensor``; if not, run the reference."""
    if not compiled():
        return False
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(tensor.device.type, "")
    return bool(key) and bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"splatseg::{op}", key))
