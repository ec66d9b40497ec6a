"""Settings of everything-mode, named as segment-anything names them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from splatseg.core.errors import SplatsegError

MODELS = (
    "vit_h",
    "vit_l",
    "vit_b",
    "vit_t",
    "sam2.1_hiera_tiny",
    "sam2.1_hiera_small",
    "sam2.1_hiera_base_plus",
    "sam2.1_hiera_large",
)
Preset = Literal["fast", "default", "fine"]
Autocast = Literal["auto", "off", "bf16", "fp16"]


@dataclass(frozen=True)
class SamConfig:
    """Everything-mode: a grid of points, three masks per point, filters, box NMS.

    The defaults are those of OmniSeg3D (section 3.1 and its code). Score thresholds of 0 or below filter nothing.

    Attributes:
        model: ``vit_b``, ``vit_l``, ``vit_h`` (segment-anything), ``vit_t`` (MobileSAM) or a ``sam2.1_hiera_*`` (SAM
            2).
        points_per_side: the grid has this many points squared.
        points_per_batch: points decoded at once; changes speed and memory only.
        pred_iou_thresh: masks whose quality, as the model predicts it, is not above this are dropped.
        stability_score_thresh: masks whose IoU between the thresholds +- ``stability_score_offset`` is below are
            dropped.
        stability_score_offset: in logits.
        box_nms_thresh: of masks whose boxes have a higher IoU only the best is kept.
        crop_n_layers: layer i cuts the image into (2^i)^2 overlapping crops, each looked at on its own.
        crop_nms_thresh: box NMS between crops; masks of smaller crops win.
        crop_overlap_ratio: overlap of the crops of layer 1, as a fraction of the image's short side.
        crop_n_points_downscale_factor: points per side in layer i are divided by this to the i.
        min_mask_region_area: holes and islands below this many pixels are filled and removed; 0 turns it off.
        autocast: precision of encoder and decoder on CUDA (``auto``: bf16 where the device has it, else fp16). On the
            CPU everything is float32.
        checkpoint: file with the weights; None: the official ones, from the cache folder or downloaded there.
        device: where the model runs, such as ``cuda:1``; None: CUDA where there is one.
    """

    model: str = "vit_h"
    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 128
    autocast: Autocast = "auto"
    checkpoint: Path | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise SplatsegError(f"sam.model: expected one of {', '.join(MODELS)}, found '{self.model}'")
        for name in ("points_per_side", "points_per_batch", "crop_n_points_downscale_factor"):
            if getattr(self, name) < 1:
                raise SplatsegError(f"sam.{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("crop_n_layers", "min_mask_region_area", "stability_score_offset"):
            if not getattr(self, name) >= 0:
                raise SplatsegError(f"sam.{name}: expected 0 or more, found {getattr(self, name)}")
        for name in ("box_nms_thresh", "crop_nms_thresh"):
            if not 0 <= getattr(self, name) <= 1:
                raise SplatsegError(f"sam.{name}: expected an IoU in 0..1, found {getattr(self, name)}")
        if not 0 <= self.crop_overlap_ratio < 1:
            raise SplatsegError(f"sam.crop_overlap_ratio: expected 0 <= ratio < 1, found {self.crop_overlap_ratio}")
        if self.points_per_side // self.crop_n_points_downscale_factor**self.crop_n_layers < 1:
            raise SplatsegError(
                f"sam.points_per_side: expected at least one point a side in crop layer {self.crop_n_layers}, "
                f"found none ({self.points_per_side} / {self.crop_n_points_downscale_factor}^{self.crop_n_layers})"
            )
        if self.device is not None:
            self._check_device(self.device)
        if self.autocast not in ("auto", "off", "bf16", "fp16"):
            raise SplatsegError(f"sam.autocast: expected auto, off, bf16 or fp16, found '{self.autocast}'")

    @staticmethod
    def _check_device(name: str) -> None:
        try:
            device = torch.device(name)
        except RuntimeError:
            raise SplatsegError(f"sam.device: expected a device such as cpu or cuda:0, found '{name}'") from None
        if device.type == "cuda" and not (
            torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
        ):
            raise SplatsegError(f"sam.device: expected a device of this machine, found '{name}'")

    @classmethod
    def preset(cls, name: Preset, **changes: Any) -> SamConfig:
        """``fast``: 16x16 points; ``default``; ``fine``: a layer of 2x2 crops with 16x16 points each besides.
        ``changes`` override fields.

        Raises:
            SplatsegError: no such preset.
        """
        presets: dict[str, dict[str, Any]] = {
            "fast": {"points_per_side": 16},
            "default": {},
            "fine": {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
        }
        if name not in presets:
            raise SplatsegError(f"sam.preset: expected one of {', '.join(presets)}, found '{name}'")
        return replace(cls(**presets[name]), **changes)

    def result_settings(self) -> dict[str, Any]:
        """The fields that decide the masks; batch size, precision, device and the weights' place are how, not what."""
        how = ("points_per_batch", "autocast", "checkpoint", "device")
        return {name: value for name, value in asdict(self).items() if name not in how}
