"""The patch hierarchy of a view (OmniSeg3D section 3.2): its finest patches and which masks hold each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatseg.core.atomic import atomic_write
from splatseg.core.errors import DAMAGED, SplatsegError, check_dims
from splatseg.core.reading import read_npz
from splatseg.io.names import run_path
from splatseg.masks.mask_set import MaskSet
from splatseg.ops.levels import votes as count_votes
from splatseg.ops.patches import patches

_FORMAT = 1


@dataclass(frozen=True)
class HierarchyConfig:
    """How masks become a hierarchy.

    Attributes:
        nesting: a mask that covers more than this share of a smaller one absorbs it (gets all its pixels and those
            of what that one absorbed); 1 turns it off.
        min_area: smaller masks, in pixels, are left out; at least 1: an empty mask says nothing.
    """

    nesting: float = 0.9
    min_area: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.nesting <= 1:
            raise SplatsegError(f"nesting: expected a share in (0, 1], found {self.nesting}")
        if self.min_area < 1:
            raise SplatsegError(f"min_area: expected at least 1 pixel, found {self.min_area}")


@dataclass(frozen=True, eq=False)
class PatchHierarchy:
    """Patches of one view and the masks each lies in.

    Attributes:
        patch_ids: (h, w) int32 patch of each pixel; 0 = in no mask (reserved, whether or not there are such pixels).
        membership: (p, words) int64, bit m % 64 of word m // 64 of row k: mask m contains patch k. Masks are numbered
            by area, ascending. Row 0 is zero.

    Raises:
        SplatsegError: wrong shapes or types, or an id without a row.
    """

    patch_ids: Tensor
    membership: Tensor

    def __post_init__(self) -> None:
        check_dims("patch_ids", self.patch_ids, ("h", "w"))
        check_dims("membership", self.membership, ("p", "words"))
        if self.patch_ids.dtype != torch.int32 or self.membership.dtype != torch.int64:
            raise SplatsegError(
                f"hierarchy: expected int32 patch_ids and int64 membership, found {self.patch_ids.dtype} and "
                f"{self.membership.dtype}"
            )
        low, high = (int(v) for v in self.patch_ids.aminmax())
        if low < 0 or high >= len(self.membership):
            raise SplatsegError(f"patch_ids: expected 0..{len(self.membership) - 1}, found {low}..{high}")
        if bool(self.membership[0].any()):
            raise SplatsegError("membership: expected row 0 (pixels in no mask) to be zero, found bits set")

    def __len__(self) -> int:
        """Number of patches, the reserved one included."""
        return len(self.membership)

    def areas(self) -> Tensor:
        """(p,) int64 pixels of each patch."""
        return torch.bincount(self.patch_ids.flatten(), minlength=len(self))

    def votes(self, ids: Tensor | None = None) -> Tensor:
        """(k, k) int32 for patches ``ids`` (k,), None for all: how many masks hold both patches (equation 1)."""
        return count_votes(self.membership, ids)

    def masks_of(self, patch: int) -> list[int]:
        """Numbers of the masks that hold ``patch``, smallest mask first."""
        row = self.membership[patch].tolist()
        return [64 * word + bit for word, bits in enumerate(row) for bit in range(64) if bits >> bit & 1]

    def mask(self, number: int) -> Tensor:
        """(h, w) bool: the pixels of mask ``number`` (after absorption)."""
        inside = (self.membership[:, number // 64] >> (number % 64)) & 1
        return inside.bool()[self.patch_ids.long()]

    def save(self, path: str | Path) -> None:
        """Write a compressed npz (tens of kB per view), whole or not at all.

        Raises:
            SplatsegError: the disk is full or the folder cannot be written to.
        """
        ids = self.patch_ids.numpy()
        arrays: dict[str, Any] = {
            "format": np.array(_FORMAT),
            "rows": _differences(ids.astype(np.uint16) if len(self) <= 2**16 else ids.view(np.uint32)),
            "membership": self.membership.numpy(),
        }
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> PatchHierarchy:
        """Read what :meth:`save` wrote.

        Raises:
            SplatsegError: the file is missing, damaged or no hierarchy; names it.
        """
        try:
            content = read_npz(path)
            if int(content["format"]) != _FORMAT:
                raise SplatsegError(f"format: expected {_FORMAT}, found {int(content['format'])}")
            ids = _sums(content["rows"]).astype(np.int32)
            return cls(torch.from_numpy(ids), torch.from_numpy(content["membership"]))
        except FileNotFoundError:
            raise SplatsegError(f"{path}: hierarchy not found") from None
        except SplatsegError as error:
            raise SplatsegError(f"{path}: {error}") from None
        except DAMAGED as error:
            raise SplatsegError(f"{path}: expected a hierarchy, found a damaged or another file ({error})") from None


def _differences(ids: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """Each id minus the one to its left, wrapping round; zero inside a patch, which is what makes the file small."""
    return np.diff(ids, axis=1, prepend=ids.dtype.type(0))


def _sums(rows: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    if rows.ndim != 2 or rows.dtype not in (np.uint16, np.uint32):
        raise SplatsegError(f"rows: expected (h, w) uint16 or uint32, found {rows.shape} {rows.dtype}")
    return np.cumsum(rows, axis=1, dtype=rows.dtype)


def build_hierarchy(masks: MaskSet, config: HierarchyConfig = HierarchyConfig()) -> PatchHierarchy:
    """Patches and membership of ``masks``; the same, to the bit, in whatever order the masks come.

    Masks are sorted by area ascending (equal areas by their run lengths). Without masks all pixels are patch 0.
    """
    order = sorted(
        np.flatnonzero(masks.areas >= config.min_area), key=lambda i: (masks.areas[i], masks.counts[i].tobytes())
    )
    runs = [masks.counts[i] for i in order]
    counts = np.concatenate([np.zeros(0, np.uint32), *runs])
    offsets = np.cumsum([0, *(len(one) for one in runs)], dtype=np.int64)
    # uint32 run lengths of an image below 2^31 pixels have the same bits as int32.
    return PatchHierarchy(
        *patches(
            torch.from_numpy(counts.view(np.int32)),
            torch.from_numpy(offsets),
            masks.height,
            masks.width,
            config.nesting,
        )
    )


class HierarchyFolder(Mapping[str, PatchHierarchy]):
    """The hierarchies of a run, one file per view, read when asked for and not kept.

    Args:
        folder: where they are; view ``a/b.jpg`` is in ``a/b.jpg.npz`` (:func:`splatseg.io.names.run_path`). Iteration
            gives the names as they are in the files: of a view whose name is no plain path, what it was mapped to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, view_name: str) -> Path:
        return run_path(self.folder, view_name, ".npz")

    def __getitem__(self, view_name: str) -> PatchHierarchy:
        if view_name not in self:
            raise KeyError(view_name)
        return PatchHierarchy.load(self.path(view_name))

    def __contains__(self, view_name: object) -> bool:
        return self.path(str(view_name)).is_file()

    def __iter__(self) -> Iterator[str]:
        files = (p for p in self.folder.rglob("*.npz") if not p.name.startswith("."))
        return iter(sorted(p.relative_to(self.folder).as_posix().removesuffix(".npz") for p in files))

    def __len__(self) -> int:
        return sum(1 for _ in self)
