"""Gaussian-splatting feature fields with hierarchical click segmentation."""

from typing import Any

from splatseg.core.import_order import load_libz

load_libz()  # before any room is imported: see there

__all__ = ["Session"]


def __getattr__(name: str) -> Any:
    """``splatseg.Session``, imported when first asked for: the rooms below it must not load it."""
    if name == "Session":
        from splatseg.session import Session

        return Session
    raise AttributeError(f"module 'splatseg' has no attribute {name!r}")
