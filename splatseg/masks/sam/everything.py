"""Everything-mode of segment-anything, streamed.

The masks are those of ``segment_anything.SamAutomaticMaskGenerator`` with the same settings (Kirillov et al., "Segment
Anything", ICCV 2023, appendix B), but no step holds more than a few of them at image size: the points of a batch are
decoded in small groups, masks that fail the predicted IoU never leave their 256 x 256 form, the others are upsampled a
few at a time, scored, thresholded and at once run-length encoded.

Box NMS cannot come before the upsampling: the boxes that it compares are those of the upsampled masks, which bilinear
interpolation may move by a pixel either way, and a mask that the stability score drops must not suppress others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from splatseg.masks.mask_set import MaskSet
from splatseg.masks.rle import Counts, decode_mask, encode_mask
from splatseg.masks.sam.config import SamConfig
from splatseg.masks.sam.model import PromptModel
from splatseg.masks.sam.regions import remove_small_regions
from splatseg.masks.sam.torchvision_standin import nms

# Points a decoder pass on the CPU: 40 MB each in float32; more are no faster.
CPU_DECODE_POINTS = 8
EDGE_TOLERANCE = 20.0  # pixels; masks that end this close to a crop's edge are parts of something larger

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class ScoredMasks(MaskSet):
    """Masks with what the model says of them; row i belongs to ``counts[i]``.

    Attributes:
        predicted_iou: (n,) float32, the model's own estimate.
        stability: (n,) float32 stability score.
        points: (n, 2) float64 prompt [x, y] in pixels of the image.
        crops: (n, 4) int64 x0 y0 x1 y1 of the crop that the mask was found in.
    """

    predicted_iou: NDArray[np.float32]
    stability: NDArray[np.float32]
    points: NDArray[np.float64]
    crops: NDArray[np.int64]

    def to_amg(self) -> list[dict[str, Any]]:
        """The records that segment-anything's ``amg.py --convert-to-rle`` writes: boxes are [x, y, width, height]
        there with width = last - first column, one less than COCO's."""
        boxes, areas = _boxes_of(self.counts, self.height, self.width), self.areas
        return [
            {
                "segmentation": mask,
                "area": int(areas[i]),
                "bbox": _xywh(boxes[i]),
                "predicted_iou": float(self.predicted_iou[i]),
                "point_coords": [self.points[i].tolist()],
                "stability_score": float(self.stability[i]),
                "crop_box": _xywh(self.crops[i]),
            }
            for i, mask in enumerate(self.to_coco())
        ]


@dataclass(eq=False)
class _Candidates:
    """Masks so far: run lengths at image size, and one row each of the arrays. Boxes are x0 y0 x1 y1, last pixel
    included."""

    counts: list[Counts] = field(default_factory=list)
    boxes: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    ious: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    stability: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    points: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    crops: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 4), np.int64))

    _ARRAYS = ("boxes", "ious", "stability", "points", "crops")

    def extend(self, other: _Candidates) -> None:
        self.counts += other.counts
        for name in self._ARRAYS:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))

    def keep(self, index: Tensor) -> None:
        rows = index.cpu().numpy()
        self.counts = [self.counts[i] for i in rows]
        for name in self._ARRAYS:
            setattr(self, name, getattr(self, name)[rows])

    def nms(self, scores: NDArray[np.float32], threshold: float) -> Tensor:
        return nms(torch.from_numpy(self.boxes).float(), torch.from_numpy(scores), threshold)


def everything_masks(model: PromptModel, image: NDArray[np.uint8], config: SamConfig) -> ScoredMasks:
    """All masks of an (h, w, 3) uint8 RGB ``image``, in the order segment-anything gives them."""
    height, width = image.shape[:2]
    found = _Candidates()
    crops = crop_boxes(height, width, config.crop_n_layers, config.crop_overlap_ratio)
    for crop, layer in crops:
        found.extend(_masks_of_crop(model, image, crop, layer, config))
    if len(crops) > 1:
        areas = (found.crops[:, 2] - found.crops[:, 0]) * (found.crops[:, 3] - found.crops[:, 1])
        # Reciprocal in float32 as the library's 1 / tensor: a double would order equal crops otherwise.
        found.keep(found.nms((1 / areas.astype(np.float32)).astype(np.float32), config.crop_nms_thresh))
    if config.min_mask_region_area > 0:
        _clean_regions(found, height, width, config)
    return ScoredMasks(height, width, tuple(found.counts), found.ious, found.stability, found.points, found.crops)


def crop_boxes(height: int, width: int, layers: int, overlap_ratio: float) -> list[tuple[Box, int]]:
    """The crops (x0, y0, x1, y1; x1 and y1 excluded) of an image and the layer of each; the first is the image
    itself."""
    boxes: list[tuple[Box, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / n))
        crop_w, crop_h = (math.ceil((overlap * (n - 1) + size) / n) for size in (width, height))
        for i, j in product(range(n), range(n)):
            x0, y0 = (crop_w - overlap) * i, (crop_h - overlap) * j
            boxes.append(((x0, y0, min(x0 + crop_w, width), min(y0 + crop_h, height)), layer))
    return boxes


def point_grid(per_side: int) -> NDArray[np.float64]:
    """(per_side^2, 2) points [x, y] in 0..1, row by row, half a step from the edges."""
    offset = 1 / (2 * per_side)
    steps = np.linspace(offset, 1 - offset, per_side)
    return np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)


def _masks_of_crop(
    model: PromptModel, image: NDArray[np.uint8], crop: Box, layer: int, config: SamConfig
) -> _Candidates:
    x0, y0, x1, y1 = crop
    model.embed(image[y0:y1, x0:x1])
    per_side = int(config.points_per_side / config.crop_n_points_downscale_factor**layer)
    points = point_grid(per_side) * np.array([[x1 - x0, y1 - y0]])
    found = _Candidates()
    for group in _groups(points, model.device, config.points_per_batch):
        found.extend(_masks_of_points(model, group, crop, image.shape[:2], config))
    found.keep(found.nms(found.ious, config.box_nms_thresh))
    found.boxes = found.boxes + np.array([[x0, y0, x0, y0]])
    found.points = found.points + np.array([[x0, y0]])
    found.crops = np.tile(np.array([crop], np.int64), (len(found.counts), 1))
    return found


def _groups(points: NDArray[np.float64], device: torch.device, per_batch: int) -> Iterator[NDArray[np.float64]]:
    """``points`` in batches, each in equal groups of what a decoder pass may take."""
    limit = min(per_batch, CPU_DECODE_POINTS) if device.type == "cpu" else per_batch
    for start in range(0, len(points), per_batch):
        batch = points[start : start + per_batch]
        # Equal groups, not full ones and a rest: a group of one takes another matrix product, with other rounding.
        yield from np.array_split(batch, math.ceil(len(batch) / limit))


def _masks_of_points(
    model: PromptModel, points: NDArray[np.float64], crop: Box, image_size: tuple[int, ...], config: SamConfig
) -> _Candidates:
    """The masks of one decoder pass that survive the scores and the crop's edges. Boxes are relative to the crop."""
    logits, ious = (tensor.flatten(0, 1) for tensor in model.decode(points))
    prompts = points.repeat(len(ious) // len(points), axis=0)
    rows = torch.arange(len(ious), device=ious.device)
    if config.pred_iou_thresh > 0:
        rows = rows[ious > config.pred_iou_thresh]
    found = _Candidates()
    for chunk in rows.split(_chunk_size(model.device, crop)):
        full = model.upsample(logits[chunk])
        stability = stability_score(full, model.mask_threshold, config.stability_score_offset)
        masks = full > model.mask_threshold
        del full
        boxes = boxes_of_masks(masks)
        kept = ~_near_crop_edge(boxes, crop, image_size)
        if config.stability_score_thresh > 0:
            kept &= stability >= config.stability_score_thresh
        chosen = chunk[kept]
        found.extend(
            _Candidates(
                encode_in_image(masks[kept], crop, image_size),
                boxes[kept].cpu().numpy(),
                ious[chosen].cpu().numpy(),
                stability[kept].cpu().numpy(),
                prompts[chosen.cpu().numpy()],
                np.zeros((len(chosen), 4), np.int64),
            )
        )
    return found


def _chunk_size(device: torch.device, crop: Box) -> int:
    """Masks to hold at full size at once: about 18 bytes per pixel for logits, bools and temporaries. In threes, as
    ``PromptModel.upsample`` may work on three at a time."""
    budget = (128 if device.type == "cpu" else 1024) << 20
    return 3 * max(1, budget // (3 * 18 * (crop[2] - crop[0]) * (crop[3] - crop[1])))


def stability_score(logits: Tensor, threshold: float, offset: float) -> Tensor:
    """(m,) IoU of each of (m, h, w) ``logits`` thresholded ``offset`` above and below ``threshold``; NaN for an empty
    mask."""
    inner, outer = (
        (logits > threshold + shift).sum(-1, dtype=torch.int16).sum(-1, dtype=torch.int32)
        for shift in (offset, -offset)
    )
    return inner / outer


def boxes_of_masks(masks: Tensor) -> Tensor:
    """(m, 4) int64 x0 y0 x1 y1 of (m, h, w) bool ``masks``, last column and row included; zeros for an empty mask."""
    rows, columns = masks.any(dim=2), masks.any(dim=1)
    spans = []
    for used in (columns, rows):
        # argmax gives the first of equal values, from the front and from the back.
        first = used.to(torch.uint8).argmax(dim=1)
        last = used.shape[1] - 1 - used.flip(1).to(torch.uint8).argmax(dim=1)
        spans.append((first, last))
    boxes = torch.stack([spans[0][0], spans[1][0], spans[0][1], spans[1][1]], dim=1)
    return boxes * rows.any(dim=1)[:, None]


def encode_in_image(masks: Tensor, crop: Box, image_size: tuple[int, ...]) -> list[Counts]:
    """Run lengths at image size of (m, h, w) bool ``masks`` of a crop. The runs are found on the masks' device."""
    x0, y0, x1, y1 = crop
    height, width = image_size
    total = height * width
    encoded = []
    for mask in masks:
        columns = pad(mask, (x0, width - x1, y0, height - y1)).t().reshape(-1)
        changes = (columns[1:] ^ columns[:-1]).nonzero()[:, 0].cpu().numpy() + 1
        lead = [0, 0] if bool(columns[0]) else [0]
        encoded.append(np.diff(np.concatenate([lead, changes, [total]])).astype(np.uint32))
    return encoded


def _near_crop_edge(boxes: Tensor, crop: Box, image_size: tuple[int, ...]) -> Tensor:
    """(m,) bool: the box ends near an edge of the crop that is not an edge of the image."""
    height, width = image_size
    moved = boxes + torch.tensor([[crop[0], crop[1], crop[0], crop[1]]], device=boxes.device)
    near_crop = (moved - torch.tensor([crop], device=boxes.device)).abs() <= EDGE_TOLERANCE
    near_image = (moved - torch.tensor([[0, 0, width, height]], device=boxes.device)).abs() <= EDGE_TOLERANCE
    return (near_crop & ~near_image).any(dim=1)


def _clean_regions(found: _Candidates, height: int, width: int, config: SamConfig) -> None:
    """Fill small holes, drop small islands, and drop what has become a duplicate, unchanged masks first."""
    unchanged = np.ones(len(found.counts), np.float32)
    for i, counts in enumerate(found.counts):
        cleaned = remove_small_regions(decode_mask(counts, height, width), config.min_mask_region_area)
        if cleaned is not None:
            unchanged[i] = 0
            found.counts[i] = encode_mask(cleaned)
            found.boxes[i] = _boxes_of([found.counts[i]], height, width)[0]
    found.keep(found.nms(unchanged, max(config.box_nms_thresh, config.crop_nms_thresh)))


def _boxes_of(counts: list[Counts] | tuple[Counts, ...], height: int, width: int) -> NDArray[np.int64]:
    """(n, 4) x0 y0 x1 y1 of run lengths, last pixel included; zeros for an empty mask."""
    x, y, w, h = MaskSet(height, width, tuple(counts)).boxes().T
    return np.stack([x, y, np.maximum(x + w - 1, 0), np.maximum(y + h - 1, 0)], axis=1)


def _xywh(box: NDArray[np.int64]) -> list[int]:
    return [int(box[0]), int(box[1]), int(box[2] - box[0]), int(box[3] - box[1])]
