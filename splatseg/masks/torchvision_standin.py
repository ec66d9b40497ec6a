"""The four torchvision functions that segment-anything uses, for machines without a torchvision that imports.

torchvision must match torch's build to the letter, and a mismatch fails at import; segment-anything needs it for a box
NMS and a PIL resize only. :func:`torchvision_or_standin` lets an import go through without it and leaves no trace: the
modules are taken out of ``sys.modules`` again, so that no other package takes them for the real one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression, best score first (ties: lower index first).

    Args:
        boxes: (n, 4) float x0 y0 x1 y1.
        scores: (n,).
        iou_threshold: a box is dropped where its IoU with a kept one is above this. Degenerate boxes (0/0) drop
            nothing.

    Returns:
        (kept,) int64 indices in descending order of score.
    """
    corners = boxes.detach().cpu().numpy()
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    remaining = torch.argsort(scores.detach().cpu(), descending=True, stable=True).numpy()
    kept = []
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        kept.append(int(best))
        low = np.maximum(corners[best, :2], corners[remaining, :2])
        high = np.minimum(corners[best, 2:], corners[remaining, 2:])
        overlap = np.prod(np.maximum(high - low, 0), axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = overlap / (areas[best] + areas[remaining] - overlap)
        # Compared in double, as torchvision does: float32(0.6) is more than 0.6.
        remaining = remaining[~(iou.astype(np.float64) > iou_threshold)]
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """:func:`nms` within each category of ``idxs`` (n,): boxes of different categories never suppress each other."""
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for category in idxs.unique():
        members = (idxs == category).nonzero()[:, 0].to(boxes.device)
        kept[members[nms(boxes[members], scores[members], iou_threshold)]] = True
    chosen = kept.nonzero()[:, 0]
    return chosen[torch.argsort(scores[chosen], descending=True, stable=True)]


def box_area(boxes: Tensor) -> Tensor:
    """(n,) areas of (n, 4) x0 y0 x1 y1 ``boxes``, in int64 where those are integers."""
    if not boxes.is_floating_point():
        boxes = boxes.to(torch.int64)
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def to_pil_image(pic: NDArray[np.uint8]) -> Image.Image:
    """An (h, w, 3) or (h, w) uint8 array as a PIL image."""
    return Image.fromarray(np.ascontiguousarray(pic))


def resize(img: Image.Image, size: Sequence[int]) -> Image.Image:
    """``img`` resized to ``size`` (height, width), bilinear with antialiasing, as torchvision does for PIL images."""
    return img.resize((int(size[1]), int(size[0])), Image.Resampling.BILINEAR)


@contextmanager
def torchvision_or_standin() -> Iterator[bool]:
    """Within the block ``import torchvision...`` works: the real one where it imports, else the stand-in.

    Yields:
        True if it is the real one.
    """
    if _real_imports():
        yield True
        return
    modules = _modules()
    saved = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield False
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(saved)


def _real_imports() -> bool:
    before = set(sys.modules)
    try:
        importlib.import_module("torchvision.ops.boxes")
        importlib.import_module("torchvision.transforms.functional")
    except (
        ImportError,
        RuntimeError,
        OSError,
        AttributeError,
    ):  # a torchvision built for another torch raises any of these
        for name in set(sys.modules) - before:
            if name == "torchvision" or name.startswith("torchvision."):
                del sys.modules[name]
        return False
    return True


def _modules() -> dict[str, ModuleType]:
    """The stand-in modules by name, linked as packages."""
    contents: dict[str, dict[str, object]] = {
        "torchvision": {},
        "torchvision.ops": {"nms": nms, "batched_nms": batched_nms, "box_area": box_area},
        "torchvision.ops.boxes": {"nms": nms, "batched_nms": batched_nms, "box_area": box_area},
        "torchvision.transforms": {},
        "torchvision.transforms.functional": {"resize": resize, "to_pil_image": to_pil_image},
    }
    modules: dict[str, ModuleType] = {}
    for name, members in contents.items():
        module = modules[name] = ModuleType(name, "Stand-in of splatseg; see splatseg.masks.torchvision_standin.")
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        module.__dict__.update(members)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    return modules
