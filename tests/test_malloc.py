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
import torch

from splatseg.fit.malloc import Apart, freed_memory_kept

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


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def in_heap(tensor: torch.Tensor) -> bool:
    """Whether it lies where the C library grows its own blocks."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    bounds = [line.split()[0].split("-") for line in lines if line.endswith("[heap]")]
    return any(int(low, 16) <= tensor.data_ptr() < int(high, 16) for low, high in bounds)


def what_is_put_apart_lies_outside_the_heap() -> None:
    """There it would keep large blocks from being taken again."""
    apart = Apart(1 << 20)
    with freed_memory_kept() as told:
        if not told:
            sys.exit(77)
        for _ in range(2):
            for kind, count in ((torch.float32, 1 << 18), (torch.float16, 7), (torch.int64, 3), (torch.int32, 1 << 19)):
                tensor = torch.arange(count, dtype=kind).view(1, -1)
                copy = apart.copy(tensor)
                assert in_heap(tensor) and not in_heap(copy)
                assert copy.dtype == kind and torch.equal(copy, tensor) and copy.data_ptr() % 64 == 0
            assert len(apart.copy(torch.ones(0, 3))) == 0


def pages_go_with_the_last_copy_in_them() -> None:
    apart = Apart()
    for _ in range(2):
        kept = [
            apart.copy(torch.ones(count, dtype=dtype))
            for count in (7 << 20, 3)
            for dtype in (torch.float16, torch.int64)
        ]
        assert [len(tensor) for tensor in kept] == [7 << 20, 7 << 20, 3, 3] and all(bool((t == 1).all()) for t in kept)
        before = resident_bytes()
        kept, apart = [], Apart()
        assert before - resident_bytes() > 60 << 20


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


PARTS = [
    "kept_within",
    "given_back_after_a_failure",
    "what_is_put_apart_lies_outside_the_heap",
    "pages_go_with_the_last_copy_in_them",
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells glibc, which is not here")
@pytest.mark.parametrize("what", PARTS)
def test_blocks_are_kept_only_while_asked_for(ended: tuple[dict[str, int], str], what: str) -> None:
    codes, told = ended
    if codes[what] == 77:
        pytest.skip("the C library is not glibc")
    assert codes[what] == 0, told
