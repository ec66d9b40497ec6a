"""Freed memory is kept only while asked for."""

from __future__ import annotations

import ctypes
import json
import os
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


def each_forked(names: list[str]) -> None:
    """Exit code of each function of this file, on stdout as JSON, and 1 with a traceback on stderr where it fails."""
    codes = {}
    for name in names:
        if not (child := os.fork()):
            globals()[name]()
            sys.exit()
        codes[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(codes))


@pytest.fixture(scope="module")
def ended() -> tuple[dict[str, int], str]:
    """In processes of their own: a hole of that size in the heap, left by another test, would take the block."""
    code = f"import sys; sys.path[:0] = ['.', 'tests']; import test_malloc; test_malloc.each_forked({PARTS})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    return json.loads(done.stdout), done.stderr


PARTS = ["kept_within", "given_back_after_a_failure"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells glibc, which is not here")
@pytest.mark.parametrize("what", PARTS)
def test_blocks_are_kept_only_while_asked_for(ended: tuple[dict[str, int], str], what: str) -> None:
    codes, told = ended
    if codes[what] == 77:
        pytest.skip("the C library is not glibc")
    assert codes[what] == 0, told
