"""Compile kernels for the host emulator: one C++ file that includes a .cuh and exports C functions for ctypes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

ORDERS = {"forward": 0, "reverse": 1, "shuffled-2": 2, "shuffled-3": 3}
"""Orders of threads and blocks that every emulated test runs in, as ``set_order`` of cuda_emulator.h takes them."""


def compile_for_host(source: str, folder: Path) -> ctypes.CDLL:
    """Compile ``tests/cuda_emulator/<source>`` with g++ into ``folder`` and load it; skip without a compiler."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler for the CUDA emulator (set CXX)")
    stem = folder / Path(source).stem
    include = [f"-I{ROOT / 'cuda_ext'}", f"-I{HERE}"]
    # -O1: fibers and templates compile twice as fast as with -O2, and the cases are small. -g would be a third more.
    options = ["-std=c++20", "-O1", "-fPIC", "-Wall", "-Wno-unknown-pragmas", "-fsanitize=alignment"]
    options.append("-U_FORTIFY_SOURCE")  # its longjmp refuses to change stacks
    if "clang" not in compiler:
        options.append("-fno-gnu-unique")  # each library has an emulator of its own
    subprocess.run([compiler, *options, *include, "-c", str(HERE / source), "-o", f"{stem}.o"], check=True)
    # Without -fsanitize: the emulator itself answers in the place of libubsan.
    subprocess.run([compiler, "-shared", f"{stem}.o", "-o", f"{stem}.so"], check=True)
    library = ctypes.CDLL(f"{stem}.so")
    library.failure.restype = ctypes.c_char_p
    return library


@contextmanager
def in_order(library: ctypes.CDLL, order: str) -> Iterator[ctypes.CDLL]:
    """``library`` with its launches in the order of that name in :data:`ORDERS`; fails on what the emulator found."""
    library.set_order(ctypes.c_int64(ORDERS[order]))
    yield library
    failure = library.failure().decode()
    assert not failure, failure
