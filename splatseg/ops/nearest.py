"""The nearest points to places in space, by halves of space on all cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims
from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.reference import nearest as reference

Places = NDArray[np.floating[Any]]


def nearest(
    points: Places, places: Places | None = None, count: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ids and distances, (m, count) each, nearest first, of the ``count`` nearest of ``points`` (n, 3) to each of
    ``places`` (m, 3), or to the points themselves, which are then among their own.

    Of points equally near the one of the lowest id comes first. Distances are computed in float64, and nothing depends
    on the number of threads. Beside the answer, 32 bytes are held for each point and each place.

    Raises:
        SplatsegError: other shapes, coordinates that are not finite, ``count`` not in 1..n.
    """
    return _nearest(points, places, count, False)


def nearest_others(points: Places, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """:func:`nearest` of the other points to each of ``points`` (n, 3), ``count`` in 1..n - 1."""
    return _nearest(points, None, count, True)


def _nearest(
    points: Places, places: Places | None, count: int, others: bool
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    wide = any(part is not None and part.dtype != np.float32 for part in (points, places))
    of = _tensor(points, wide)
    to = None if places is None else _tensor(places, wide)
    _check(of, to, count, others)
    asked = torch.ops.splatseg if has_kernel("nearest_points", of) else reference
    ids, distances = asked.nearest_points(of, to, count, others)
    return ids.numpy(), distances.numpy()


def _tensor(places: Places, wide: bool) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(places, np.float64 if wide else np.float32))


def _check(points: Tensor, places: Tensor | None, count: int, others: bool) -> None:
    for name, given in (("points", points), ("places", places)):
        if given is None:
            continue
        check_dims(name, given, ("n", 3))
        if not bool(given.isfinite().all()):
            raise SplatsegError(f"{name}: expected finite coordinates, found others")
    if not 1 <= count <= len(points) - others:
        raise SplatsegError(f"count: expected 1..{len(points) - others} of {len(points)} points, found {count}")


def _nearest_points_fake(points: Tensor, places: Tensor | None, count: int, others: bool) -> tuple[Tensor, Tensor]:
    shape = (len(points if places is None else places), count)
    return points.new_empty(shape, dtype=torch.int32), points.new_empty(shape, dtype=torch.float32)


if compiled():
    torch.library.register_fake("splatseg::nearest_points", _nearest_points_fake)
