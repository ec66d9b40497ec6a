"""The door to the compiled extension: the only module that imports ``splatseg._C``."""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType


@functools.cache
def extension() -> ModuleType | None:
    """``splatseg._C``, whose import registers ``torch.ops.splatseg.*``; None, with one warning a process, without it."""
    try:
        return importlib.import_module("splatseg._C")
    except ImportError as error:
        warnings.warn(
            f"splatseg._C: not loaded ({error}); the slow PyTorch references run instead", RuntimeWarning, stacklevel=2
        )
        return None
