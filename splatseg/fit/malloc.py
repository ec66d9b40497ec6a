"""How the C library treats freed memory."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_KEPT = 1 << 30
_ALIGNED = 64
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


class Apart:
    """Pages outside the C library's heap, for copies of tensors that stay where large blocks come and go.

    Within :func:`freed_memory_kept` what stays would lie in the hole that a large block has left, and the next large
    one would need new memory: pools of 50 views of 6.4M Gaussians, 0.3 GB in all, held 11 GB so. Pages are taken
    many at a time (pages of its own for each tensor would put torch's record of them into such a hole) and go when the
    last copy in them does; the rest of a piece that is not full takes no memory.
    """

    def __init__(self, size: int = 256 << 20) -> None:
        """Pages are taken ``size`` bytes at a time, or as many as one tensor needs."""
        self._size, self._piece, self._used = size, torch.empty(0, dtype=torch.uint8), 0

    def copy(self, tensor: Tensor) -> Tensor:
        """``tensor`` in pages of this; on another device than the CPU, itself."""
        if tensor.device.type != "cpu" or not tensor.numel():
            return tensor
        if self._used + tensor.nbytes > len(self._piece):
            pages = mmap.mmap(-1, max(self._size, tensor.nbytes))
            self._piece, self._used = torch.frombuffer(pages, dtype=torch.uint8), 0
        place = self._piece[self._used : self._used + tensor.nbytes]
        self._used += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        return place.view(tensor.dtype).view(tensor.shape).copy_(tensor)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
