"""The stand-ins of torchvision and timm against plain implementations, and that they leave no trace."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splatseg.masks.sam import timm_standin
from splatseg.masks.sam import torchvision_standin as standin

ROOT = Path(__file__).parent.parent


def plain_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Greedy NMS, one pair at a time, from its definition; float32 arithmetic as in torchvision."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda k: -scores[k]):  # sorted() is stable
        for j in kept:
            w = max(np.float32(0), min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0]))
            h = max(np.float32(0), min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1]))
            area_i, area_j = ((boxes[k, 2] - boxes[k, 0]) * (boxes[k, 3] - boxes[k, 1]) for k in (i, j))
            union = area_j + area_i - w * h
            if union > 0 and float(w * h / union) > threshold:
                break
        else:
            kept.append(i)
    return kept


def random_boxes(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integer boxes (as masks give them), some empty, and scores with many ties."""
    rng = np.random.default_rng(seed)
    corner, size = rng.integers(0, 30, (n, 2)), rng.integers(0, 20, (n, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(rng.integers(0, 8, n).astype(np.float32) / 8)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.6, 0.7, 1.0])
@pytest.mark.parametrize("n", [0, 1, 120])
def test_nms(n: int, threshold: float) -> None:
    boxes, scores = random_boxes(n, seed=n)
    assert standin.nms(boxes, scores, threshold).tolist() == plain_nms(boxes.numpy(), scores.numpy(), threshold)


def test_nms_threshold_is_a_double() -> None:
    """IoU exactly 3/5: float32(0.6) is more than the double 0.6, so the box goes, as in torchvision."""
    boxes = torch.tensor([[0.0, 0.0, 5.0, 1.0], [0.0, 0.0, 3.0, 1.0]])
    assert standin.nms(boxes, torch.tensor([1.0, 0.5]), 0.6).tolist() == [0]


def test_batched_nms_keeps_categories_apart() -> None:
    boxes, scores = random_boxes(90, seed=3)
    groups = torch.arange(90) % 3
    found = standin.batched_nms(boxes, scores, groups, 0.5).tolist()
    expected = set()
    for group in range(3):
        members = (groups == group).nonzero()[:, 0].numpy()
        expected |= {int(members[k]) for k in plain_nms(boxes.numpy()[members], scores.numpy()[members], 0.5)}
    assert set(found) == expected
    assert scores[found].tolist() == sorted(scores[found].tolist(), reverse=True)
    one = standin.batched_nms(boxes, scores, torch.zeros(90), 0.5)
    assert one.tolist() == standin.nms(boxes, scores, 0.5).tolist()


def test_box_area() -> None:
    """int32 corners of a large crop must not overflow."""
    boxes = torch.tensor([[0, 0, 60000, 60000], [2, 3, 5, 7]], dtype=torch.int32)
    assert standin.box_area(boxes).tolist() == [3_600_000_000, 12]
    assert standin.box_area(torch.tensor([[0.5, 0.0, 2.0, 2.0]])).tolist() == [3.0]


def plain_resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Separable triangle filter, widened when shrinking, pixel centers at + 0.5."""

    def matrix(source: int, target: int) -> np.ndarray:
        scale = source / target
        support = max(scale, 1.0)
        centers = (np.arange(target)[:, None] + 0.5) * scale
        weights = np.maximum(0, 1 - np.abs(np.arange(source)[None] + 0.5 - centers) / support)
        return weights / weights.sum(axis=1, keepdims=True)

    rows, columns = (matrix(image.shape[axis], size[axis]) for axis in (0, 1))
    return np.einsum("ai,ijc,bj->abc", rows, image.astype(np.float64), columns)


@pytest.mark.parametrize("size", [(20, 31), (64, 64), (97, 150), (1, 5)])
def test_resize(size: tuple[int, int]) -> None:
    """Shrinking, enlarging, one row. Pillow rounds to bytes after each of its two passes: one gray level at most."""
    image = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    found = np.array(standin.resize(standin.to_pil_image(image), size))
    assert found.shape == (*size, 3)
    assert np.abs(found - plain_resize(image, size)).max() <= 1.01


def test_to_tensor() -> None:
    """Every byte by the definition; the photo is copied, and may be read-only or a PIL image."""
    image = np.arange(2 * 43 * 3, dtype=np.uint8).reshape(2, 43, 3)
    image.flags.writeable = False
    found = standin.ToTensor()(image)
    assert found.dtype == torch.float32 and found.is_contiguous()
    assert found[2, 1, 40].item() == np.float32(image[1, 40, 2]) / np.float32(255)
    assert (found.numpy() == np.moveaxis(image.astype(np.float32) / np.float32(255), 2, 0)).all()
    assert torch.equal(standin.ToTensor()(Image.fromarray(image)), found)


@pytest.mark.parametrize("size", [(20, 31), (64, 64), (97, 150), (1, 5), (40, 61)])
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_resize_of_tensors(size: tuple[int, int]) -> None:
    """Shrinking (antialiased), enlarging, one row, no change; the same compiled by TorchScript, as SAM 2 does."""
    image = torch.rand(3, 40, 61, generator=torch.Generator().manual_seed(0))
    found = standin.Resize(size)(image)
    assert torch.equal(torch.jit.script(standin.Resize(size))(image), found)
    expected = plain_resize(image.permute(1, 2, 0).numpy(), size)
    # torch computes the filter's weights in float32: sums of some ten products of numbers up to 1.
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-6 * 10)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_normalize() -> None:
    """Each channel has a mean and a deviation of its own, and the input stays as it was."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    module = standin.Normalize(mean, std)
    for channel in range(3):
        expected = (image[channel].double() - mean[channel]) / std[channel]
        # two roundings of numbers up to 3, half a unit of the last place (1.2e-7) each, and those of mean and std
        torch.testing.assert_close(module(image)[channel].double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(torch.jit.script(module)(image), module(image))
    assert torch.equal(image, before)


def test_drop_path() -> None:
    """In evaluation and without a probability nothing happens; in training whole samples go, and the mean stays."""
    x = torch.ones(20000, 2, 3)
    for probability in (None, 0.0, 0.25):
        module = timm_standin.DropPath(probability)
        assert module.eval()(x) is x
    assert timm_standin.DropPath(None).train()(x) is x
    torch.manual_seed(0)
    found = timm_standin.DropPath(0.25).train()(x)
    torch.testing.assert_close(found.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert (found == found[:, :1, :1]).all()  # a sample as a whole
    # the share that stays has a standard deviation of sqrt(.25 * .75 / 20000) = 0.003
    assert abs((found[:, 0, 0] > 0).float().mean().item() - 0.75) < 5 * 0.0031


def test_pairs() -> None:
    assert timm_standin.to_2tuple(7) == (7, 7)
    assert timm_standin.to_2tuple([3, 4]) == (3, 4)
    assert timm_standin.to_2tuple("ab") == ("ab", "ab")


def test_timm_leaves_no_trace() -> None:
    before = {name for name in sys.modules if name.split(".")[0] in ("timm", "torchvision")}
    with timm_standin.timm_or_standin() as real:
        layers = importlib.import_module("timm.models.layers")
        registry = importlib.import_module("timm.models.registry")
        if not real:
            assert layers.DropPath is timm_standin.DropPath
            assert registry.register_model(len) is len
    if not real:
        assert {name for name in sys.modules if name.split(".")[0] in ("timm", "torchvision")} == before


def test_leaves_no_trace() -> None:
    """Another package that asks for torchvision later must get the real one or an ImportError, never the stand-in."""
    before = {name for name in sys.modules if name.startswith("torchvision")}
    with standin.torchvision_or_standin() as real:
        boxes = importlib.import_module("torchvision.ops.boxes")
        functional = importlib.import_module("torchvision.transforms.functional")
        if not real:
            assert boxes.batched_nms is standin.batched_nms
            assert functional.resize is standin.resize
    if not real:
        assert {name for name in sys.modules if name.startswith("torchvision")} == before


def test_broken_torchvision(tmp_path: Path) -> None:
    """A torchvision of another torch build raises a RuntimeError: segment-anything imports all the same."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = (
        "from splatseg.masks.sam.segment_anything import import_segment_anything as f; import sys;"
        "print(f().SamPredictor.__name__, 'torchvision' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == ["SamPredictor", "False"]
