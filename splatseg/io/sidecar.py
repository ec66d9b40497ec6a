"""Labels beside a splat that find their rows again after another tool re-ordered, quantized or cropped it.

A sidecar is an ``.npz``: the integer columns (``label``, ``label_0`` ..., n each) and what it takes to know a Gaussian
again: ``position`` (n, 3) float32, ``log_scale`` (n, 3) float16, ``color`` (n, 3) and ``opacity`` (n,) uint8, the
``fingerprint`` of the splat in its order, and ``offset`` (3,) float64 of its frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from splatseg.core.atomic import atomic_write
from splatseg.core.errors import DAMAGED, SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.reading import regular

_ROUNDS = 4
_SAMPLE = 10_000
_SHARE = 1 / 16  # of the spacing of Gaussians: the largest error of positions that is taken for a format's
_UNLIKE = 100.0  # sum of squared errors, in units of _SCALES, from which on it is another Gaussian
_CANDIDATES = 8  # rows at about the place of a Gaussian
_BLUR = 16.0  # how far beyond the typical error of positions a row may lie
_OWN = 0.5  # and how much of its own size: formats share a grid among Gaussians of one size
_SCALES = {"log_scale": 0.05, "color": 6.0, "opacity": 6.0}  # errors that formats make, in the columns' units
_KEYS = ("position", *_SCALES)
SINGLE = "label"  # the name of a column that has none

Columns = dict[str, NDArray[np.integer[Any]]]
Keys = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Sidecar:
    """What a sidecar holds: ``columns`` (n,) each; ``keys`` of the rows; None where an older one has none."""

    columns: Columns
    keys: Keys | None
    fingerprint: str | None
    offset: tuple[float, float, float]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True, eq=False)
class Attached:
    """``columns`` for the Gaussians of a file, and which of them were ``found`` (n,); the others have 0, no label."""

    columns: Columns
    found: NDArray[np.bool_]


def row_keys(gaussians: Gaussians) -> Keys:
    """What tells a Gaussian from its neighbors: position, size, base color and opacity."""
    g = gaussians.detach().to("cpu")
    return {
        "position": g.means.numpy(),
        "log_scale": g.log_scales.numpy().astype(np.float16),
        "color": (255 * g.base_colors).round().numpy().astype(np.uint8),
        "opacity": (255 * g.opacities).round().numpy().astype(np.uint8),
    }


def save_sidecar(path: Path, gaussians: Gaussians, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write ``columns`` (n,) integers each of ``gaussians`` to ``path``, whole or not at all.

    Raises:
        SplatsegError: no room to write.
    """
    origin = {"fingerprint": np.array(gaussians.fingerprint()), "offset": np.array(gaussians.offset, np.float64)}
    with atomic_write(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **columns, **row_keys(gaussians), **origin)  # type: ignore[arg-type]


def load_sidecar(path: Path | str) -> Sidecar:
    """Read a sidecar, or labels that another tool made: any ``.npz`` of integers, (n,) each, or an ``.npy`` of one.
    LichtFeld Studio's ``selection_mask`` is such an array: uint8, 0 or the number of a selection group.

    Raises:
        SplatsegError: no such file, or it holds something else.
    """
    path = Path(path)
    try:
        loaded = np.load(regular(path))
        if isinstance(loaded, np.ndarray):
            content = {SINGLE: loaded}
        else:
            with loaded as file:
                content = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise SplatsegError(f"{path}: expected a sidecar of labels (.npz, .npy), found no such file") from None
    except DAMAGED as error:
        raise SplatsegError(f"{path}: expected a sidecar of labels (.npz, .npy), found {error}") from None
    columns = {k: v for k, v in content.items() if v.ndim == 1 and v.dtype.kind in "iub" and k not in _KEYS}
    sizes = {len(values) for values in columns.values()}
    if len(sizes) != 1:
        found = f"columns of {sorted(sizes)} rows" if sizes else "none"
        raise SplatsegError(f"{path}: expected columns of integers, one per Gaussian, found {found}")
    keys = {name: content[name] for name in _KEYS if name in content}
    (count,) = sizes
    wanted = {"position": (count, 3), "log_scale": (count, 3), "color": (count, 3), "opacity": (count,)}
    for name, values in keys.items():
        if values.shape != wanted[name] or values.dtype.kind not in "fu" or not np.isfinite(values).all():
            raise SplatsegError(f"{path}: {name}: expected {wanted[name]} finite numbers, found {values.shape}")
    offset = content.get("offset", np.zeros(3))
    if offset.shape != (3,) or offset.dtype.kind != "f" or not np.isfinite(offset).all():
        raise SplatsegError(f"{path}: offset: expected 3 finite numbers, found {offset.dtype} {offset.shape}")
    x, y, z = offset.tolist()
    fingerprint = str(content["fingerprint"]) if "fingerprint" in content else None
    return Sidecar(columns, keys if set(keys) == set(_KEYS) else None, fingerprint, (x, y, z))


def attach(gaussians: Gaussians, sidecar: Sidecar, where: Path) -> Attached:
    """Find for every Gaussian the row of ``sidecar`` that it came from, and give it that row's columns.

    The nearest rows are compared by position, size, color and opacity; one is taken if it lies no farther than the
    formats' errors reach, estimated from the file itself. A splat in the sidecar's own order is not searched.

    Args:
        where: the sidecar's name, for messages.

    Raises:
        SplatsegError: the sidecar has no keys and another number of rows.
    """
    if sidecar.fingerprint == gaussians.fingerprint():
        return Attached(sidecar.columns, np.ones(len(gaussians), bool))
    if sidecar.keys is None:
        if len(sidecar) != len(gaussians):
            raise SplatsegError(
                f"{where}: expected keys of its rows (position, log_scale, color, opacity) or labels of "
                f"{len(gaussians)} Gaussians, found {len(sidecar)} labels without keys"
            )
        return Attached(sidecar.columns, np.ones(len(gaussians), bool))
    rows = _rows(row_keys(gaussians), np.subtract(gaussians.offset, sidecar.offset), sidecar.keys)
    found = rows >= 0
    return Attached({name: np.where(found, v[rows], 0).astype(v.dtype) for name, v in sidecar.columns.items()}, found)


def _rows(ours: Keys, shift: NDArray[np.float64], theirs: Keys) -> NDArray[np.int64]:
    """The row of ``theirs`` that each of ``ours`` (n) is, -1 for none; ``shift`` takes our positions to theirs."""
    candidate, cost = _candidates(ours, shift, theirs)
    rows = np.full(len(candidate), -1, np.int64)
    free = np.ones(len(theirs["position"]), bool)
    for _ in range(_ROUNDS):  # a row belongs to one: who is less like it takes the next best
        left = np.flatnonzero(rows < 0)
        cost[left] = np.where(free[candidate[left]], cost[left], np.inf)
        best = cost[left].argmin(axis=1) if len(left) else np.zeros(0, np.int64)
        price = cost[left, best]
        order = price.argsort(kind="stable")
        order = order[np.isfinite(price[order])]
        claimed, first = np.unique(candidate[left, best][order], return_index=True)
        rows[left[order[first]]] = claimed
        free[claimed] = False
    return rows


def _candidates(ours: Keys, shift: NDArray[np.float64], theirs: Keys) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(n, k) rows of ``theirs`` near each of ``ours``, and how unlike it they are; infinite where it is another."""
    positions, places = ours["position"].astype(np.float64) + shift, theirs["position"].astype(np.float64)
    tree = cKDTree(places)
    distance, candidate = tree.query(positions, k=min(_CANDIDATES, len(places)), workers=-1)
    distance, candidate = distance.reshape(len(positions), -1), candidate.reshape(len(positions), -1)
    # Errors of a format are far below the spacing of Gaussians; what is not is another splat, or one that was moved.
    sample = places[np.linspace(0, len(places) - 1, min(len(places), _SAMPLE)).astype(int)]
    spacing = float(np.median(tree.query(sample, k=min(2, len(places)), workers=-1)[0].reshape(len(sample), -1)[:, -1]))
    least = 1e-7 * float(np.abs(places).max(initial=1e-12))
    blur = max(min(float(np.median(distance[:, 0])), _SHARE * spacing), least)
    own = np.exp(theirs["log_scale"].max(axis=1).astype(np.float64))[candidate]
    cost = (distance / (_BLUR * blur + 0.05 * own)) ** 2
    for name, scale in _SCALES.items():
        here = ours[name].astype(np.float64)
        # A format has a least and a largest value (SPZ: sizes of e^-10 to e^6), which those beyond it take.
        there = theirs[name].astype(np.float64).clip(here.min(initial=np.inf), here.max(initial=-np.inf))
        error = (here[:, None] - there[candidate]) / scale
        cost += (error**2).reshape(*candidate.shape, -1).mean(axis=2)
    far = (distance > _BLUR * blur + _OWN * own) | (cost > _UNLIKE)
    return candidate, np.where(far, np.inf, cost)
