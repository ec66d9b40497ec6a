"""What the figures of a benchmark were measured on."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from splatseg.ops.extension import build_info


def processor() -> str:
    """The model name and number of cores that Linux gives, or what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Processor, threads in use, torch's version and the instruction set of our kernels, as JSON holds them."""
    info = build_info()
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "kernels": info.isa if info else "PyTorch references",
    }
