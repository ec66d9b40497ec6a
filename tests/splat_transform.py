"""PlayCanvas' splat-transform, the tool of the formats SOG and compressed PLY, where there is one: ``npm install
@playcanvas/splat-transform``, on the path or named by ``SPLATSEG_SPLAT_TRANSFORM``."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

COMMAND = os.environ.get("SPLATSEG_SPLAT_TRANSFORM") or shutil.which("splat-transform")
needs_splat_transform = pytest.mark.skipif(
    COMMAND is None, reason="needs splat-transform: npm install -g @playcanvas/splat-transform"
)


def splat_transform(source: Path, target: Path, *actions: str) -> Path:
    """``target``, made of ``source`` by the actions, on the CPU."""
    command = [str(COMMAND), "-q", "-w", "-g", "cpu", str(source), *actions, str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return target
