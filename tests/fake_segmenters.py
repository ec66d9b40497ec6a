"""Puts ``fake_packages/sam2`` and ``fake_packages/mobile_sam`` in the place of the real packages, installed or not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FAKES = Path(__file__).parent / "fake_packages"
NAMES = ("sam2", "mobile_sam")


@contextmanager
def fake_segmenters() -> Iterator[None]:
    """Within the block ``import sam2`` and ``import mobile_sam`` give the fakes; afterwards all is as before."""

    def loaded() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] in NAMES]

    with pytest.MonkeyPatch.context() as patch:
        for name in loaded():
            patch.delitem(sys.modules, name)
        patch.syspath_prepend(str(FAKES))
        try:
            yield
        finally:
            for name in loaded():
                del sys.modules[name]
