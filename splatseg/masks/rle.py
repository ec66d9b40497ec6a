"""Run lengths of binary masks, and COCO's compressed strings of them.

A mask is read column by column; ``counts`` are the lengths of its runs of equal value, zeros first (so ``counts[0]``
is 0 where the first pixel is set). In COCO's string form every count from the fourth on is replaced by its difference
to the count two before it, and written as little-endian groups of 5 bits, sign in the last group, each group plus 48
(+ 32: more groups follow) being one ASCII character.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from splatseg.core.errors import SplatsegError

Counts = NDArray[np.uint32]
_MAX_GROUPS = 7  # 35 bits: enough for the difference of two 32-bit counts


def encode_mask(mask: NDArray[np.bool_]) -> Counts:
    """Run lengths of an (h, w) bool ``mask``."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = [0, 0] if flat.size and flat[0] else [0]
    return np.diff(np.concatenate([starts, changes, [flat.size]])).astype(np.uint32)


def decode_mask(counts: Counts, height: int, width: int) -> NDArray[np.bool_]:
    """The (height, width) bool mask of run lengths that sum to height * width."""
    values = (np.arange(len(counts)) & 1).astype(np.bool_)
    return np.repeat(values, counts).reshape((height, width), order="F")


def encode_labels(labels: NDArray[np.integer]) -> list[Counts]:
    """Run lengths of the mask of every id but 0 in an (h, w) label map, ids ascending, in one pass over its runs."""
    flat = labels.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.concatenate([starts[1:], [flat.size]])
    order = np.argsort(flat[starts], kind="stable")
    ids, first = np.unique(flat[starts][order], return_index=True)
    groups = np.split(order, first[1:])
    return [edges_to_counts(starts[g], ends[g], flat.size) for i, g in zip(ids, groups, strict=True) if i != 0]


def edges_to_counts(starts: NDArray[np.integer], ends: NDArray[np.integer], size: int) -> Counts:
    """Run lengths of a mask of ``size`` pixels set on [starts[i], ends[i]), ascending, none touching."""
    edges = np.stack([starts, ends], axis=1).ravel()
    if len(edges) and edges[-1] == size:
        edges = edges[:-1]
    return np.diff(np.concatenate([[0], edges, [size]])).astype(np.uint32)


def canonical(counts: NDArray[np.integer]) -> Counts:
    """The same mask with no empty run except perhaps the first, so that equal masks have equal counts."""
    if counts[1:].all():
        return counts.astype(np.uint32)
    value = np.arange(len(counts)) & 1
    kept, value = counts[counts > 0], value[counts > 0]
    first = np.flatnonzero(np.concatenate([[True], value[1:] != value[:-1]]))
    merged = np.add.reduceat(kept, first)
    return np.concatenate([np.zeros(value[0], kept.dtype), merged]).astype(np.uint32)


def counts_to_string(counts: Counts) -> str:
    """COCO's compressed string of run lengths."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2].astype(np.int64)
    groups = np.ones(len(values), np.int64)
    for k in range(1, _MAX_GROUPS):
        half = 1 << (5 * k - 1)
        groups += (values < -half) | (values >= half)
    last = np.cumsum(groups) - 1
    index = np.arange(int(groups.sum())) - np.repeat(last - groups + 1, groups)
    characters = (np.repeat(values, groups) >> (5 * index)) & 31 | 32
    characters[last] &= 31
    return (characters + 48).astype(np.uint8).tobytes().decode("ascii")


def string_to_counts(text: str | bytes) -> NDArray[np.int64]:
    """Run lengths in COCO's compressed string ``text``; they may be negative or of any sum where the text is damaged.

    Raises:
        SplatsegError: a character outside the alphabet, or a last count cut short.
    """
    raw = (
        np.frombuffer(text.encode("latin-1", "replace") if isinstance(text, str) else text, np.uint8).astype(np.int64)
        - 48
    )
    if len(raw) == 0:
        raise SplatsegError("counts: expected a COCO run-length string, found an empty one")
    if raw.min() < 0 or raw.max() > 63:
        raise SplatsegError(
            "counts: expected a COCO run-length string (characters '0' to 'o'), found another character"
        )
    if raw[-1] & 32:
        raise SplatsegError("counts: expected a whole COCO run-length string, found one that is cut short")
    last = np.flatnonzero((raw & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    groups = last - first + 1
    if groups.max() > _MAX_GROUPS:
        raise SplatsegError(f"counts: expected at most {_MAX_GROUPS} characters a run length, found {groups.max()}")
    index = np.arange(len(raw)) - np.repeat(first, groups)
    values = np.add.reduceat((raw & 31) << (5 * index), first)
    values -= np.where(raw[last] & 16, np.int64(1) << (5 * groups), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def check_counts(counts: NDArray[np.integer] | Sequence[int], height: int, width: int) -> Counts:
    """``counts`` in canonical form, after checking that they describe a (height, width) mask.

    Raises:
        SplatsegError: not integers, negative, or not summing to height * width.
    """
    values = np.asarray(counts)
    if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "iu":
        raise SplatsegError(f"counts: expected a list of run lengths, found shape {values.shape} of {values.dtype}")
    if int(values.min()) < 0:
        raise SplatsegError(f"counts: expected run lengths >= 0, found {int(values.min())}")
    total = int(values.sum(dtype=np.int64))
    if total != height * width or int(values.max()) > height * width:
        raise SplatsegError(
            f"counts: expected run lengths that sum to {height} * {width} = {height * width}, found {total}"
        )
    return canonical(values)
