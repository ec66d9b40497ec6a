"""What segment-anything, MobileSAM and SAM 2 use of torchvision, for machines without a torchvision that imports.

torchvision must match torch's build to the letter, and a mismatch fails at import; these packages need it for a box NMS
and for the resize of the photo only. :func:`torchvision_or_standin` lets an import go through without it and leaves no
trace: the modules are taken out of ``sys.modules`` again, so that no other package takes them for the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from splatseg.masks.sam.standin import real_or_standin


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


class ToTensor:
    """An (h, w, 3) uint8 array or PIL image as a (3, h, w) float32 tensor in 0..1."""

    def __call__(self, pic: NDArray[np.uint8] | Image.Image) -> Tensor:
        return torch.from_numpy(np.array(pic)).permute(2, 0, 1).contiguous().float() / 255


class Resize(torch.nn.Module):
    """(c, h, w) float tensors to ``size`` (height, width), bilinear with antialiasing (TorchScript can compile it)."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.height, self.width = int(size[0]), int(size[1])

    def forward(self, img: Tensor) -> Tensor:
        size = [self.height, self.width]
        return interpolate(img[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


class Normalize(torch.nn.Module):
    """(c, h, w) float tensors less ``mean``, divided by ``std``, a channel each (TorchScript can compile it)."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = [float(m) for m in mean], [float(s) for s in std]

    def forward(self, tensor: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, dtype=tensor.dtype, device=tensor.device)
        std = torch.tensor(self.std, dtype=tensor.dtype, device=tensor.device)
        return (tensor - mean[:, None, None]) / std[:, None, None]


def torchvision_or_standin() -> AbstractContextManager[bool]:
    """Within the block ``import torchvision...`` works: the real one where it imports, else the stand-in; see
    :func:`~splatseg.masks.sam.standin.real_or_standin`."""
    boxes: dict[str, object] = {"nms": nms, "batched_nms": batched_nms, "box_area": box_area}
    contents: dict[str, dict[str, object]] = {
        "torchvision": {},
        "torchvision.ops": boxes,
        "torchvision.ops.boxes": boxes,
        "torchvision.transforms": {"Normalize": Normalize, "Resize": Resize, "ToTensor": ToTensor},
        "torchvision.transforms.functional": {"resize": resize, "to_pil_image": to_pil_image},
    }
    return real_or_standin(["torchvision.ops.boxes", "torchvision.transforms.functional"], contents)
