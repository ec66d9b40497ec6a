"""Freed memory is kept only while asked for."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from splatseg.fit.malloc import freed_memory_kept

ROOT = Path(__file__).parent.parent
BLOCK = 64 << 20
PAGES = BLOCK // resource.getpagesize()


def faults_of_one_use() -> int:
    """Page faults of taking, filling and freeing one large block."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(ctypes.c_size_t(BLOCK))
    assert block
    ctypes.memset(block, 1, BLOCK)
    libc.free(ctypes.c_void_p(block))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def kept_within() -> None:
    with freed_memory_kept() as told:
        if not told:
            sys.exit(77)  # the C library is not glibc
        faults_of_one_use()
        assert faults_of_one_use() < PAGES // 10
    assert faults_of_one_use() > PAGES // 2
    assert faults_of_one_use() > PAGES // 2


def given_back_after_a_failure() -> None:
    with pytest.raises(ValueError, match="diverged"), freed_memory_kept():
        raise ValueError("diverged")
    assert faults_of_one_use() > PAGES // 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells glibc, which is not here")
@pytest.mark.parametrize("what", ["kept_within", "given_back_after_a_failure"])
def test_blocks_are_kept_only_while_asked_for(what: str) -> None:
    """In a process of its own: a hole of that size in the heap, left by another test, would take the block."""
    code = f"import sys; sys.path[:0] = ['.', 'tests']; import test_malloc; test_malloc.{what}()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
