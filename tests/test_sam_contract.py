"""The adapters of SAM 2 and MobileSAM, run on small packages with the real ones' names and signatures.

The fake SAM 2 draws discs whose place and size are known; the fake MobileSAM is segment-anything's code around a tiny
encoder. ``test_sam_packages.py`` runs the real packages where they are installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_segmenters import fake_segmenters
from test_sam_everything import LOOSE, assert_same, library_masks, photo

from splatseg.core.errors import MissingExtraError, SplatsegError
from splatseg.masks.sam.config import MODELS, SamConfig
from splatseg.masks.sam.everything import everything_masks, point_grid
from splatseg.masks.sam.model import import_with_standins
from splatseg.masks.sam.registry import load_model
from splatseg.masks.sam.sam2 import load_sam2
from splatseg.masks.sam.segment_anything import import_mobile_sam, import_segment_anything

CPU = torch.device("cpu")
# SAM 2 compiles its photo transforms with it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
NOTHING_FILTERED = SamConfig(
    model="sam2.1_hiera_tiny",
    points_per_side=3,
    pred_iou_thresh=0.0,
    stability_score_thresh=0.0,
    box_nms_thresh=1.0,
    min_mask_region_area=0,
)


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    import_segment_anything()
    with fake_segmenters():
        yield


@pytest.fixture
def sam2_weights(tmp_path: Path) -> Path:
    torch.save({"model": {"gain": torch.tensor(2.0)}}, tmp_path / "sam2.pt")
    return tmp_path / "sam2.pt"


@pytest.mark.parametrize("model", [name for name in MODELS if name.startswith("sam2")])
def test_every_sam2_has_a_configuration(model: str, sam2_weights: Path) -> None:
    """The fake knows the files that the real package ships, and refuses others."""
    assert load_sam2(model, sam2_weights, CPU, "auto").device == CPU


@pytest.mark.parametrize(("height", "width"), [(120, 200), (300, 90), (64, 64)])
def test_sam2_masks_are_where_the_points_are(height: int, width: int, sam2_weights: Path) -> None:
    """Landscape, portrait, square: discs of 100, 200 and 300 pixels of the 1024 x 1024 that the photo is squeezed to
    are ellipses in the photo. Three points a side are nine: two decoder passes, none of a single point."""
    model = load_model("sam2.1_hiera_tiny", sam2_weights, CPU)
    found = everything_masks(model, photo(height, width), NOTHING_FILTERED)
    assert len(found) == 27
    centers = point_grid(3) * [width, height]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    for i in range(27):
        order = np.abs(found.points[i] - centers).sum(axis=1)
        assert order.min() < 1e-9
        radius = 100 * (1 + int(np.argmin(np.abs(np.array([0.9, 0.6, 0.3]) - found.predicted_iou[i]))))
        distance = np.hypot((x - found.points[i, 0]) * 1024 / width, (y - found.points[i, 1]) * 1024 / height)
        # The discs come on a grid of 4 model pixels and are interpolated; a photo's pixel may be wider than that.
        sure = np.abs(distance - radius) > 4
        assert (found.dense(i) == (distance < radius))[sure].all()
        assert sure.mean() > 0.9


def test_sam2_sees_the_photo_in_rgb_and_uses_the_checkpoint(sam2_weights: Path) -> None:
    """The score tells the mean of the normalized photo times the checkpoint's one weight."""
    model = load_model("sam2.1_hiera_tiny", sam2_weights, CPU)
    colors = np.array([255, 0, 0]), np.array([0, 0, 255]), np.array([100, 150, 200])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for color in colors:
        found = everything_masks(model, np.full((40, 60, 3), color, np.uint8), NOTHING_FILTERED)
        expected = 0.9 + 0.01 * 2.0 * ((color / 255 - mean) / std).mean()
        assert found.predicted_iou.max() == pytest.approx(expected, abs=1e-5)


def test_one_point_is_a_pass_of_its_own(sam2_weights: Path) -> None:
    """SAM 2's decoder takes one point with the image as it is, several with the image repeated."""
    model = load_model("sam2.1_hiera_tiny", sam2_weights, CPU)
    model.embed(photo(50, 70))
    one, several = (model.decode(np.array([[20.0, 30.0]] * n)) for n in (1, 3))
    for alone, together in zip(one, several, strict=True):
        assert len(alone) == 1 and len(together) == 3
        assert torch.equal(alone[0], together[2])


@pytest.mark.parametrize("content", [{"gain": torch.tensor(1.0)}, {"model": {"loss": torch.tensor(1.0)}}])
def test_sam2_checkpoint_of_another_kind(content: dict[str, object], tmp_path: Path) -> None:
    """Without the entry ``model``, as segment-anything's are; with another network in it."""
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(SplatsegError, match=r"other.pt: expected a checkpoint of sam2.1_hiera_small, found another"):
        load_model("sam2.1_hiera_small", tmp_path / "other.pt", CPU)


def test_mobile_sam_masks_are_those_of_its_generator(tmp_path: Path) -> None:
    """Weights from the file, in evaluation mode: the fake's encoder drops paths and normalizes over the batch else."""
    library = import_mobile_sam()
    torch.manual_seed(3)
    network = library.sam_model_registry["vit_t"]()
    torch.save(network.state_dict(), tmp_path / "mobile_sam.pt")
    model = load_model("vit_t", tmp_path / "mobile_sam.pt", CPU)
    config = SamConfig(**{**vars(LOOSE), "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0})
    image = photo(64, 96)
    found = everything_masks(model, image, config)
    assert len(found) == 300
    assert_same(found, library_masks(library, network.eval(), image, config))


def test_no_trace_of_the_standins() -> None:
    """Both packages imported by way of stand-ins: the next to ask for timm or torchvision gets no stand-in."""
    import_mobile_sam()
    import_with_standins("sam2.sam2_image_predictor", "sam2")
    for name in ("timm", "torchvision"):
        module = sys.modules.get(name)
        assert module is None or "splatseg" not in (module.__doc__ or "")


def test_what_a_package_needs_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself, or something it imports: which of the two decides what has to be installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "needy.py").write_text("import surely_not_installed")
    with pytest.raises(SplatsegError, match=r"needy: does not import \(No module named 'surely_not_installed'\); inst"):
        import_with_standins("needy", "sam2")
    with pytest.raises(MissingExtraError, match=r"absent: not installed; .*splatseg\[sam2\]"):
        import_with_standins("absent.module", "sam2")
