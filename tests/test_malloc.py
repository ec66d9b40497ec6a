"""Freed memory is kept only while asked for."""

from __future__ import annotations

import ctypes
import resource
import sys

import pytest

from splatseg.fit.malloc import freed_memory_kept

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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells glibc, which is not here")
def test_a_block_is_faulted_in_once_while_kept_and_every_time_otherwise() -> None:
    with freed_memory_kept() as told:
        if not told:
            pytest.skip("the C library is not glibc")
        faults_of_one_use()
        assert faults_of_one_use() < PAGES // 10
    assert faults_of_one_use() > PAGES // 2
    assert faults_of_one_use() > PAGES // 2


def test_thresholds_are_set_back_when_the_work_fails() -> None:
    with pytest.raises(ValueError, match="diverged"), freed_memory_kept():
        raise ValueError("diverged")
    if sys.platform.startswith("linux"):
        assert faults_of_one_use() > PAGES // 2
