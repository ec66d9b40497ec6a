"""How the C library treats freed memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_KEPT = 1 << 30
# What glibc's own, growing thresholds end at in a process that has freed large blocks.
_MMAP_DEFAULT, _TRIM_DEFAULT = 32 << 20, 64 << 20


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Freed blocks of up to 1 GiB stay with the process for the next allocation; given back at the end.

    A training step frees and takes the same large tensors again. glibc returns each to the system, and the next step
    pays a page fault for every 4 KiB: a third of an iteration at 200k Gaussians. The process holds no more than it
    held at its peak, plus fragmentation.

    Yields whether the C library could be told (glibc; elsewhere nothing changes).
    """
    libc = _glibc()
    if libc is None:
        yield False
        return
    told = bool(libc.mallopt(_MMAP_THRESHOLD, _KEPT)) and bool(libc.mallopt(_TRIM_THRESHOLD, _KEPT))
    try:
        yield told
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _MMAP_DEFAULT)
        libc.mallopt(_TRIM_THRESHOLD, _TRIM_DEFAULT)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
