"""Loading of ``splatseg._C``, and whether it has a kernel for given tensors.

Without it the references run, with one warning.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor


@functools.cache
def compiled() -> bool:
    """Whether ``splatseg._C`` is there; the first call loads it, which registers ``torch.ops.splatseg.*``."""
    try:
        importlib.import_module("splatseg._C")
    except ImportError as error:
        warnings.warn(
            f"splatseg._C does not load ({error}): the slow PyTorch references run instead; "
            "build it with: python setup.py build_ext --inplace",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def has_kernel(op: str, tensor: Tensor) -> bool:
    """Whether ``torch.ops.splatseg.<op>`` has a kernel for the device of ``tensor``; if not, run the reference."""
    return _has_kernel(op, tensor.device.type)


@torch.compiler.assume_constant_result
def _has_kernel(op: str, device_type: str) -> bool:
    """Asked once, outside the graph, when the caller is being compiled: torch.compile cannot trace the look-up."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type, "")
    return compiled() and bool(key) and torch._C._dispatch_has_kernel_for_dispatch_key(f"splatseg::{op}", key)


@dataclass(frozen=True)
class BuildInfo:
    """How ``splatseg._C`` was built and runs: instruction set of the CPU kernels, whether CUDA kernels are in it."""

    isa: str
    has_cuda: bool


def build_info() -> BuildInfo | None:
    """Facts about the compiled extension; None without it."""
    if not compiled():
        return None
    module = importlib.import_module("splatseg._C")
    return BuildInfo(module.isa(), module.has_cuda())
