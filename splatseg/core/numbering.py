"""Names of many things as numbers 0, 1, .. without sorting them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
SPARSE = 4  # times as many possible values as there are values: from there on they are sorted


def numbered(values: NDArray[np.integer[Any]]) -> tuple[Ints, Ints]:
    """``np.unique(values, return_inverse=True)`` of numbers (n,) >= 0: the different ones, ascending, and the place
    (n,) of each value among them.

    Sorting six million takes seconds; the largest number is rarely far above as many, and then marking suffices.
    """
    largest = int(values.max(initial=0))
    if largest > SPARSE * len(values) + 1024:
        names, number = np.unique(values, return_inverse=True)
        return names.astype(np.int64), number.ravel().astype(np.int64)
    there = np.zeros(largest + 1, bool)
    there[values] = True
    names = np.flatnonzero(there)
    return (names, (np.cumsum(there) - 1)[values]) if len(values) else (names[:0], names[:0])
