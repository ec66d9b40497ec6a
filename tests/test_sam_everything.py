"""Streamed everything-mode against segment_anything.SamAutomaticMaskGenerator, with seeded random weights.

Random weights give low scores, so the thresholds are set to quantiles of what the model says, the same on both sides:
    each
filter then drops some masks and keeps others, and the tests say so.
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from splatseg.masks.sam.attention import bound_attention
from splatseg.masks.sam.config import SamConfig
from splatseg.masks.sam.everything import ScoredMasks, everything_masks
from splatseg.masks.sam.segment_anything import SegmentAnything, import_segment_anything


@pytest.fixture(scope="module")
def library() -> ModuleType:
    return import_segment_anything()


def add_blobs(logits: torch.Tensor, ious: torch.Tensor, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a mask decoder with random weights gives for ``inputs``, with masks that depend on the point, as trained
    ones do.

    With random weights alone every point gets the same mask, and one remains after NMS. This adds the similarity of
    each pixel's position encoding to the point's embedding, at three levels: blobs of three sizes around the point,
    their edges and scores disturbed by the decoder's own output.
    """
    positions, point = inputs["image_pe"][0], inputs["sparse_prompt_embeddings"][:, 0]
    near = torch.einsum("chw,bc->bhw", positions, point)[:, None] / len(positions)
    near = torch.nn.functional.interpolate(near, logits.shape[-2:], mode="bilinear")
    levels = torch.tensor([0.15, 0.3, 0.42])[None, :, None, None]
    return 30 * (near - levels) + 10 * logits, ious + 0.9 * (0.5 + 0.5 * torch.sin(40 * point[:, :3]))


class Blobs(torch.nn.Module):
    """:func:`add_blobs` over a decoder."""

    def __init__(self, decoder: torch.nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return add_blobs(*self.decoder(**inputs), inputs)


def build_sam(size: int = 256, dim: int = 48, seed: int = 0) -> Any:
    """segment-anything's own model with a small image encoder."""
    import_segment_anything()
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(seed)
    grid = size // 16
    encoder = ImageEncoderViT(
        depth=2,
        embed_dim=dim,
        img_size=size,
        num_heads=2,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        global_attn_indexes=(1,),
        window_size=7,
        out_chans=64,
    )
    prompts = PromptEncoder(
        embed_dim=64, image_embedding_size=(grid, grid), input_image_size=(size, size), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=64, mlp_dim=128, num_heads=4)
    decoder = MaskDecoder(transformer_dim=64, transformer=transformer, iou_head_hidden_dim=32)
    sam = Sam(encoder, prompts, Blobs(decoder), pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375])
    return sam.eval()


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random picture with a few hard-edged discs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = 127 + 60 * np.sin(x / 17)[..., None] * np.cos(y / 23)[..., None] * rng.uniform(0.5, 1, 3)
    for _ in range(12):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(8, 50)
        image[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def library_masks(library: ModuleType, sam: Any, image: np.ndarray, config: SamConfig) -> list[dict[str, Any]]:
    """What the library's generator gives with the settings of ``config``, as uncompressed run lengths."""
    generator = library.SamAutomaticMaskGenerator(sam, output_mode="uncompressed_rle", **generator_settings(config))
    return generator.generate(image)


def generator_settings(config: SamConfig) -> dict[str, Any]:
    """``config`` as arguments of the libraries' generators."""
    how = ("model", "autocast", "checkpoint", "device")
    return {field.name: getattr(config, field.name) for field in fields(config) if field.name not in how}


def assert_same(ours: ScoredMasks, theirs: list[dict[str, Any]], scores_rtol: float = 0.0) -> None:
    """The same masks bit by bit, in the same order, with the same record for each (scores within ``scores_rtol``)."""
    assert len(ours) == len(theirs)
    for i, (record, expected) in enumerate(zip(ours.to_amg(), theirs, strict=True)):
        assert ours.counts[i].tolist() == expected["segmentation"]["counts"]
        for key in ("area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"):
            rtol = scores_rtol if key == "predicted_iou" else 0.0
            # an empty mask's stability is nan
            np.testing.assert_allclose(record[key], expected[key], rtol=rtol, atol=0, equal_nan=True, err_msg=key)


LOOSE = SamConfig(
    points_per_side=10,
    points_per_batch=24,  # 100 points: a batch of 4 remains
    pred_iou_thresh=0.3,
    stability_score_thresh=0.4,
    min_mask_region_area=0,
)


@pytest.fixture(scope="module")
def sam() -> Any:
    import_segment_anything()
    return build_sam()


@pytest.mark.parametrize(
    ("height", "width", "changes", "masks"),
    [
        pytest.param(150, 210, {}, 81, id="both-filters"),
        pytest.param(150, 210, {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}, 219, id="nothing-filtered"),
        pytest.param(301, 97, {}, 61, id="portrait-odd-larger-than-the-encoder"),
        pytest.param(150, 210, {"box_nms_thresh": 1.0}, 111, id="no-nms"),
        pytest.param(160, 220, {"crop_n_layers": 1}, 217, id="crops"),
        pytest.param(160, 220, {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2}, 110, id="crops-of-crops"),
        pytest.param(150, 210, {"pred_iou_thresh": 5.0}, 0, id="no-mask-left"),
        pytest.param(150, 210, {"points_per_side": 1}, 1, id="one-point"),
    ],
)
def test_same_masks_as_the_library(
    library: ModuleType, sam: Any, height: int, width: int, changes: dict[str, Any], masks: int
) -> None:
    config = replace(LOOSE, **changes)
    image = photo(height, width)
    ours = everything_masks(SegmentAnything(sam, library.SamPredictor), image, config)
    assert_same(ours, library_masks(library, sam, image, config))
    # Filters must bite and leave something; which borderline mask passes may depend on the processor's rounding.
    assert abs(len(ours) - masks) <= 0.1 * masks


def test_small_regions_like_the_library(library: ModuleType, sam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holes and islands, the duplicates they make, and unchanged masks first. OpenCV is played by scikit-image."""
    monkeypatch.setitem(sys.modules, "cv2", cv2_by_skimage())
    config = replace(LOOSE, min_mask_region_area=60, crop_n_layers=1, crop_n_points_downscale_factor=2)
    image = photo(160, 220)
    ours = everything_masks(SegmentAnything(sam, library.SamPredictor), image, config)
    assert_same(ours, library_masks(library, sam, image, config))
    raw = everything_masks(SegmentAnything(sam, library.SamPredictor), image, replace(config, min_mask_region_area=0))
    assert 0 < len(ours) <= len(raw)
    assert {c.tobytes() for c in ours.counts} - {c.tobytes() for c in raw.counts}, "no mask was changed"


def cv2_by_skimage() -> ModuleType:
    """The one OpenCV function that the library calls, by an implementation other than ours."""
    from skimage.measure import label

    def components(image: np.ndarray, connectivity: int) -> tuple[int, np.ndarray, np.ndarray, None]:
        labels, count = label(image, connectivity=connectivity // 4, return_num=True)
        stats = np.zeros((count + 1, 5), np.int32)
        stats[:, -1] = np.bincount(labels.ravel(), minlength=count + 1)
        return count + 1, labels, stats, None

    module = ModuleType("cv2")
    module.connectedComponentsWithStats = components  # type: ignore[attr-defined]
    return module


def test_batch_size_changes_nothing(library: ModuleType, sam: Any) -> None:
    """Points are decoded in other groups; the masks stay."""
    image = photo(150, 210)
    model = SegmentAnything(sam, library.SamPredictor)
    first = everything_masks(model, image, replace(LOOSE, points_per_batch=64))
    second = everything_masks(model, image, replace(LOOSE, points_per_batch=9))
    assert len(first) > 10
    assert [c.tolist() for c in first.counts] == [c.tolist() for c in second.counts]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_upsampling_is_the_librarys(library: ModuleType, sam: Any, count: int) -> None:
    """Any masks of any points, as many as passed the scores: bit by bit what the library gets with three a point.

    With one channel torch's interpolation rounds otherwise: a logit of 1e-8 may change its sign, and the mask a pixel.
    """
    image = photo(150, 210)
    model = SegmentAnything(sam, library.SamPredictor)
    model.embed(image)
    predictor = model._predictor
    logits = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = sam.postprocess_masks(logits, predictor.input_size, predictor.original_size).flatten(0, 1)
    rows = torch.tensor([1, 3, 4, 8, 0, 5, 2])[:count]
    assert torch.equal(model.upsample(logits.flatten(0, 1)[rows]), expected[rows])


def test_bounded_attention_is_the_librarys(library: ModuleType) -> None:
    """Global and windowed layers, one head at a time, against the untouched encoder."""
    plain, bounded = build_sam(seed=1).image_encoder, build_sam(seed=1).image_encoder
    assert bound_attention(bounded, budget=1) == 2
    x = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = plain(x), bounded(x)
    # One matrix product a head instead of a batch of them: the same sums, rounded once more at worst.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
