"""Segment Anything as a mask source: settings, weights, and what is said when something is missing."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_sam_everything import LOOSE, build_sam, photo

from splatseg.core.camera import Camera
from splatseg.core.errors import MissingExtraError, SplatsegError
from splatseg.core.scene import View
from splatseg.masks import mask_source
from splatseg.masks.sam.model import autocast_on, load_weights
from splatseg.masks.sam.registry import load_model
from splatseg.masks.sam.segment_anything import SegmentAnything, import_segment_anything
from splatseg.masks.sam.source import SamConfig, SamMasks
from splatseg.masks.sam.weights import CHECKPOINTS


@pytest.fixture
def view(tmp_path: Path) -> View:
    Image.fromarray(photo(90, 130)).save(tmp_path / "a.png")
    return View("a.png", Camera(torch.eye(3), torch.eye(4), 130, 90), tmp_path / "a.png")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    import_segment_anything()
    torch.save(build_sam().state_dict(), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


def tiny_model(model: str, checkpoint: Path, device: torch.device, autocast: str) -> SegmentAnything:
    library = import_segment_anything()
    sam = build_sam(seed=5)
    load_weights(sam, checkpoint, "tiny")
    return SegmentAnything(sam.to(device), library.SamPredictor)


def test_masks_of_a_view(view: View, weights: Path) -> None:
    """The weights of the file are used, not the ones the model was built with; scores come along."""
    config = replace(LOOSE, checkpoint=weights, device="cpu")
    masks = SamMasks(config, load=tiny_model).masks(view)
    assert (masks.height, masks.width) == (90, 130)
    assert len(masks) == len(masks.predicted_iou) == len(masks.points) > 5
    assert (masks.predicted_iou > LOOSE.pred_iou_thresh).all()
    assert (masks.stability >= LOOSE.stability_score_thresh).all()
    other = build_sam(seed=6)
    torch.save(other.state_dict(), weights)
    changed = SamMasks(config, load=tiny_model).masks(view)
    assert [c.tolist() for c in changed.counts] != [c.tolist() for c in masks.counts]


def test_rgb_order(view: View, weights: Path) -> None:
    """Swapped channels give other masks, so the order matters; the photo's own order is RGB."""
    library = import_segment_anything()
    model = tiny_model("tiny", weights, torch.device("cpu"), "off")
    predictor = library.SamPredictor(build_sam())
    image = view.image().numpy()
    model.embed(image)
    predictor.set_image(image, image_format="RGB")
    assert torch.equal(model._predictor.features, predictor.features)
    predictor.set_image(image, image_format="BGR")
    assert not torch.equal(model._predictor.features, predictor.features)


def test_settings_name_what_decides_the_masks(weights: Path) -> None:
    """Batch size, precision and the file's place change no mask; the weights' content does."""
    config = SamConfig(model="vit_b", checkpoint=weights)
    settings = SamMasks(config).settings()
    copy = weights.with_name("copy.pth")
    copy.write_bytes(weights.read_bytes())
    same = replace(config, points_per_batch=3, autocast="off", checkpoint=copy, device="cpu")
    assert SamMasks(same).settings() == settings
    copy.write_bytes(b"fine-tuned")
    assert SamMasks(same).settings() != settings
    assert SamMasks(replace(config, points_per_side=31)).settings() != settings


def test_cached_file_that_is_not_the_official_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right name and size, wrong content: put there by hand, damaged."""
    monkeypatch.setenv("SPLATSEG_CACHE", str(tmp_path))
    with (tmp_path / CHECKPOINTS["vit_t"].filename).open("wb") as file:
        file.truncate(CHECKPOINTS["vit_t"].size)
    with pytest.raises(SplatsegError, match=r"mobile_sam.pt: expected SHA-256 6dbb9052"):
        SamMasks(SamConfig(model="vit_t")).settings()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"no pickle at all", "tensor", "other model"])
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "sam_vit_b.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(torch.zeros(3) if content == "tensor" else {"some.weight": torch.zeros(3)}, path)
    with pytest.raises(SplatsegError, match=r"sam_vit_b.pth: expected a checkpoint of vit_b") as error:
        load_weights(torch.nn.Linear(2, 2), path, "vit_b")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "package", "extra"), [("vit_t", "mobile_sam", "mobilesam"), ("sam2.1_hiera_tiny", "sam2", "sam2")]
)
def test_missing_packages(tmp_path: Path, model: str, package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(MissingExtraError, match=rf"splatseg\[{extra}\]"):
        load_model(model, tmp_path / "weights.pt", torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vit_x"}, "sam.model: expected one of vit_h"),
        ({"points_per_side": 0}, "sam.points_per_side: expected at least 1, found 0"),
        ({"min_mask_region_area": -1}, "sam.min_mask_region_area: expected 0 or more, found -1"),
        ({"stability_score_offset": float("nan")}, "sam.stability_score_offset"),
        ({"box_nms_thresh": 1.5}, "sam.box_nms_thresh: expected an IoU in 0..1, found 1.5"),
        ({"crop_overlap_ratio": 1.0}, "sam.crop_overlap_ratio"),
        (
            {"points_per_side": 4, "crop_n_layers": 3, "crop_n_points_downscale_factor": 2},
            "expected at least one point",
        ),
        ({"autocast": "int8"}, "sam.autocast"),
        ({"device": "gpu"}, "sam.device: expected a device such as"),
        ({"device": "cuda:99"}, "sam.device: expected a device of this machine"),
    ],
)
def test_bad_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SplatsegError, match=message):
        SamConfig(**changes)  # type: ignore[arg-type]


def test_presets() -> None:
    """The defaults are the paper's; presets change the grid and the crops only."""
    default = SamConfig.preset("default")
    assert default == SamConfig()
    assert (default.points_per_side, default.pred_iou_thresh, default.stability_score_thresh) == (32, 0.88, 0.95)
    assert SamConfig.preset("fast", model="vit_b") == SamConfig(model="vit_b", points_per_side=16)
    fine = SamConfig.preset("fine")
    assert (fine.crop_n_layers, fine.crop_n_points_downscale_factor) == (1, 2)
    with pytest.raises(SplatsegError, match=r"sam.preset: expected one of fast, default, fine"):
        SamConfig.preset("slow")  # type: ignore[arg-type]


def test_reached_by_name(weights: Path) -> None:
    source = mask_source("sam", config=SamConfig(model="vit_b", checkpoint=weights))
    assert source.name == "sam"
    assert np.isfinite(source.settings()["pred_iou_thresh"])


@pytest.mark.parametrize(
    ("autocast", "has_bf16", "dtype"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float16),
        ("bf16", False, torch.bfloat16),
        ("fp16", True, torch.float16),
        ("off", True, None),
    ],
)
def test_autocast_is_what_the_device_has(
    autocast: Any, has_bf16: bool, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CUDA bf16 where there is bf16, else fp16, or what was asked for; on the CPU always float32."""
    asked: list[tuple[str, torch.dtype]] = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch, "autocast", lambda device, dtype: asked.append((device, dtype)))
    autocast_on(torch.device("cpu"), autocast)
    assert asked == []
    autocast_on(torch.device("cuda"), autocast)
    assert asked == ([] if dtype is None else [("cuda", dtype)])
