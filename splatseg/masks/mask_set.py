"""The masks of one image, run-length encoded: about 1 kB per mask instead of a byte per pixel."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.masks import rle
from splatseg.masks.rle import Counts


@dataclass(frozen=True, eq=False)
class MaskSet:
    """n binary masks of one image; they may overlap, repeat or be empty, and their order carries no meaning.

    Attributes:
        height: image rows, >= 1.
        width: image columns, >= 1.
        counts: run lengths of each mask, uint32, COCO order (column by column, zeros first), summing to height * width;
            brought to canonical form (no empty run but perhaps the first), so equal masks have equal counts.

    Raises:
        SplatsegError: a size below 1 or run lengths of another sum; names the mask.
    """

    height: int
    width: int
    counts: tuple[Counts, ...]

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise SplatsegError(f"masks: expected a positive size, found {self.width}x{self.height}")
        if self.height * self.width >= 2**31:
            raise SplatsegError(f"masks: expected fewer than 2^31 pixels, found {self.width}x{self.height}")
        checked = []
        for index, counts in enumerate(self.counts):
            try:
                checked.append(rle.check_counts(counts, self.height, self.width))
            except SplatsegError as error:
                raise SplatsegError(f"mask {index}: {error}") from None
        object.__setattr__(self, "counts", tuple(checked))

    def __len__(self) -> int:
        return len(self.counts)

    @classmethod
    def empty(cls, height: int, width: int) -> MaskSet:
        """No masks of an image of that size."""
        return cls(height, width, ())

    @classmethod
    def from_dense(cls, masks: Tensor | NDArray[Any] | Iterable[NDArray[Any]]) -> MaskSet:
        """From (n, h, w) masks, bool or 0 = out, or from an iterable of (h, w) ones, encoded one at a time.

        Raises:
            SplatsegError: not 3-dimensional, mixed sizes, or an iterable of none (use :meth:`empty`).
        """
        if isinstance(masks, Tensor):
            masks = masks.detach().cpu().numpy()
        counts, shape = [], None
        if isinstance(masks, np.ndarray):
            if masks.ndim != 3:
                raise SplatsegError(f"masks: expected shape (n, h, w), found {masks.shape}")
            shape = masks.shape[1:]
        for index, mask in enumerate(masks):
            mask = np.asarray(mask)
            shape = shape or mask.shape
            if mask.ndim != 2 or mask.shape != shape:
                raise SplatsegError(f"mask {index}: expected shape {shape}, found {mask.shape}")
            counts.append(rle.encode_mask(mask if mask.dtype == np.bool_ else mask != 0))
        if shape is None:
            raise SplatsegError("masks: expected at least one mask, found none")
        return cls(int(shape[0]), int(shape[1]), tuple(counts))

    @classmethod
    def from_coco(cls, annotations: Sequence[Mapping[str, Any]]) -> MaskSet:
        """From COCO run-length dicts ``{"size": [h, w], "counts": string or list}``, or dicts that hold one as
        ``"segmentation"`` (what segment-anything's ``amg.py`` writes). At least one; of one size.

        Raises:
            SplatsegError: a missing or malformed field; names the mask and field.
        """
        if not annotations:
            raise SplatsegError("masks: expected at least one annotation, found none")
        counts, size = [], None
        for index, annotation in enumerate(annotations):
            try:
                shape, one = _from_coco_dict(annotation)
                size = size or shape
                if shape != size:
                    raise SplatsegError(f"size: expected {list(size)} as the first mask, found {list(shape)}")
                counts.append(rle.check_counts(one, *shape))
            except SplatsegError as error:
                raise SplatsegError(f"mask {index}: {error}") from None
        assert size is not None
        return cls(size[0], size[1], tuple(counts))

    def to_coco(self) -> list[dict[str, Any]]:
        """COCO run-length dicts with compressed string counts."""
        size = [self.height, self.width]
        return [{"size": size, "counts": rle.counts_to_string(counts)} for counts in self.counts]

    def dense(self, index: int) -> Tensor:
        """(h, w) bool mask number ``index``."""
        return torch.from_numpy(rle.decode_mask(self.counts[index], self.height, self.width))

    def stack(self) -> Tensor:
        """(n, h, w) bool: all masks at full size. For tests and small images; it takes n * h * w bytes."""
        masks = torch.empty(len(self), self.height, self.width, dtype=torch.bool)
        for index in range(len(self)):
            masks[index] = self.dense(index)
        return masks

    @functools.cached_property
    def areas(self) -> NDArray[np.int64]:
        """(n,) int64 pixels of each mask."""
        return np.array([counts[1::2].sum(dtype=np.int64) for counts in self.counts], np.int64)

    def select(self, index: Iterable[int]) -> MaskSet:
        """The masks at ``index``, in that order."""
        return MaskSet(self.height, self.width, tuple(self.counts[int(i)] for i in index))

    def boxes(self) -> NDArray[np.int64]:
        """(n, 4) int64 bounding boxes [column, row, width, height] in pixels; zeros for an empty mask."""
        return np.array([_box(counts, self.height) for counts in self.counts], np.int64).reshape(-1, 4)


def _from_coco_dict(annotation: Mapping[str, Any]) -> tuple[tuple[int, int], NDArray[np.integer]]:
    """Size and run lengths in one COCO dict; the lengths are not checked against the size."""
    if not isinstance(annotation, Mapping):
        raise SplatsegError(f"expected a COCO dict, found {type(annotation).__name__}")
    encoded = annotation.get("segmentation", annotation)
    if not isinstance(encoded, Mapping) or "size" not in encoded or "counts" not in encoded:
        raise SplatsegError("segmentation: expected a COCO run-length dict with 'size' and 'counts'")
    size, counts = encoded["size"], encoded["counts"]
    if not (isinstance(size, Sequence) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)):
        raise SplatsegError(f"size: expected [height, width] in pixels, found {size!r}")
    if isinstance(counts, str | bytes):
        return (size[0], size[1]), rle.string_to_counts(counts)
    if not isinstance(counts, Sequence) or not all(type(c) is int and abs(c) < 2**31 for c in counts):
        raise SplatsegError("counts: expected a COCO string or a list of run lengths below 2^31")
    return (size[0], size[1]), np.array(counts, np.int64)


def _box(counts: Counts, height: int) -> tuple[int, int, int, int]:
    edges = np.cumsum(counts, dtype=np.int64)
    starts, ends = edges[0::2][: len(counts) // 2], edges[1::2]
    if len(ends) == 0:
        return 0, 0, 0, 0
    left, right = int(starts[0]) // height, int(ends[-1] - 1) // height
    if bool((starts // height != (ends - 1) // height).any()):  # a run over a column's end touches first and last row
        return left, 0, right - left + 1, height
    top, bottom = int((starts % height).min()), int(((ends - 1) % height).max())
    return left, top, right - left + 1, bottom - top + 1
