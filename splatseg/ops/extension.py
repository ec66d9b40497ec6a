"""Loading of ``splatseg._C``, and whether it has a kernel for given tensors.

Without it the references run, with one warning. One that was built from other sources than those beside the package is
refused: it would fail later and elsewhere, with "operator does not exist", a wrong number of arguments, or old results.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.ops.sources import sources_digest

SOURCES = Path(__file__).resolve().parents[2] / "cuda_ext"  # in a checkout; an installed wheel has none
BUILD = "python setup.py build_ext --inplace"


@functools.cache
def compiled() -> bool:
    """Whether ``splatseg._C`` is there; the first call loads it, which registers ``torch.ops.splatseg.*``.

    Raises:
        SplatsegError: it was built from other sources than those beside the package.
    """
    try:
        module = importlib.import_module("splatseg._C")
    except ImportError as error:
        warnings.warn(
            f"splatseg._C does not load ({error}): the slow PyTorch references run instead; build it with: {BUILD}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    check_sources(module.sources() if hasattr(module, "sources") else "", SOURCES)
    return True


def check_sources(built: str, folder: Path) -> None:
    """Refuse an extension whose sources had the digest ``built``, unless ``folder`` has the same ones or none.

    Raises:
        SplatsegError: names both digests and the command that builds the extension.
    """
    found = sources_digest(folder)
    if found not in ("", built):
        raise SplatsegError(
            f"splatseg._C: expected it built from {folder} (sources {found}), found it built from sources "
            f"{built or 'of an older version'}: the extension is stale; rebuild it with: {BUILD}"
        )


def has_kernel(op: str, tensor: Tensor) -> bool:
    """Whether ``torch.ops.splatseg.<op>`` has a kernel for the device of ``tensor``; if not, run the reference."""
    return _has_kernel(op, tensor.device.type)


def _has_kernel(op: str, device_type: str) -> bool:
    """Asked once, outside the graph, when the caller is being compiled: torch.compile cannot trace the look-up."""
    return _registered(op, device_type)


# What torch.compiler.assume_constant_result sets: to call it imports torch._dynamo, half of this package's import.
_has_kernel._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _registered(op: str, device_type: str) -> bool:
    """Asked once an op: the dispatcher takes 5 us to answer, a tenth of the smallest loss."""
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
