"""Compile kernels for the host emulator: one C++ file that includes a .cuh and exports C functions for ctypes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def compile_for_host(source: str, folder: Path) -> ctypes.CDLL:
    """Compile ``tests/cuda_emulator/<source>`` with g++ into ``folder`` and load it; skip without a compiler."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler for the CUDA emulator (set CXX)")
    target = folder / (Path(source).stem + ".so")
    include = [f"-I{ROOT / 'cuda_ext'}", f"-I{HERE}"]
    # -O1: fibers and templates compile twice as fast as with -O2, and the cases are small.
    options = ["-std=c++20", "-O1", "-g", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas"]
    subprocess.run([compiler, *options, *include, str(HERE / source), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))
