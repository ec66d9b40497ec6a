"""MobileSAM and SAM 2 themselves, with seeded random weights, against their own generators.

Skipped where the packages are not at hand; ``requirements-segmenters.txt`` says how they are installed in 15 seconds.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_segmenters import fake_segmenters
from PIL import Image
from script_runner import run_script
from test_sam_everything import LOOSE, add_blobs, assert_same, generator_settings, photo

from splatseg.core.errors import SplatsegError
from splatseg.masks.mask_set import MaskSet
from splatseg.masks.sam.config import SamConfig
from splatseg.masks.sam.everything import everything_masks
from splatseg.masks.sam.model import PromptModel
from splatseg.masks.sam.registry import load_model
from splatseg.masks.sam.sam2 import CONFIGS, import_sam2
from splatseg.masks.sam.segment_anything import import_mobile_sam
from splatseg.masks.sam.torchvision_standin import torchvision_or_standin
from splatseg.masks.sam.weights import CHECKPOINTS

CPU = torch.device("cpu")
# SAM 2 compiles its photo transforms with it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(
        bool(missing), reason=f"{', '.join(missing)} not installed: see requirements-segmenters.txt"
    )


@dataclass(frozen=True)
class Segmenter:
    """One of the packages: ``build`` makes its network as the package does, ``state`` what its checkpoints hold,
    ``generator`` its own mask generator."""

    model: str
    build: Callable[[], Any]
    state: Callable[[Any], dict[str, Any]]
    decoder: Callable[[PromptModel], torch.nn.Module]
    network: Callable[[PromptModel], Any]
    generator: Callable[[], Any]


def build_mobile_sam() -> Any:
    return import_mobile_sam().sam_model_registry["vit_t"]()


def build_sam2() -> Any:
    return import_sam2()[0].build_sam2(
        CONFIGS["sam2.1_hiera_tiny"], ckpt_path=None, device="cpu", apply_postprocessing=False
    )


def sam2_generator() -> Any:
    with torchvision_or_standin():
        return importlib.import_module("sam2.automatic_mask_generator").SAM2AutomaticMaskGenerator


MOBILE_SAM = Segmenter(
    "vit_t",
    build_mobile_sam,
    lambda network: network.state_dict(),
    lambda model: model._sam.mask_decoder,
    lambda model: model._sam,
    lambda: import_mobile_sam().SamAutomaticMaskGenerator,
)
SAM2 = Segmenter(
    "sam2.1_hiera_tiny",
    build_sam2,
    lambda network: {"model": network.state_dict()},
    lambda model: model._predictor.model.sam_mask_decoder,
    lambda model: model._predictor.model,
    sam2_generator,
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(MOBILE_SAM, marks=needs("mobile_sam"), id="MobileSAM"),
        pytest.param(SAM2, marks=needs("sam2", "hydra", "iopath"), id="SAM2"),
    ],
)
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    return request.param


@pytest.fixture(scope="module")
def weights(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the package's authors store theirs, with seeded random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / CHECKPOINTS[segmenter.model].filename
    torch.save(segmenter.state(segmenter.build()), path)
    return path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """How a matrix product is split over threads, and so rounded, depends on its shape, and eight points at a time have
    another shape than 64."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def point_dependent(decoder: torch.nn.Module) -> None:
    """Let ``decoder`` give blobs around the points, whatever else it returns."""

    def hook(module: torch.nn.Module, args: Any, inputs: dict[str, Any], outputs: Any) -> Any:
        return (*add_blobs(outputs[0], outputs[1], inputs), *outputs[2:])

    decoder.register_forward_hook(hook, with_kwargs=True)


def own_masks(generator: Any, network: Any, image: np.ndarray, config: SamConfig) -> list[dict[str, Any]]:
    return generator(network, output_mode="uncompressed_rle", **generator_settings(config)).generate(image)


@pytest.mark.slow
def test_same_masks_as_the_package(segmenter: Segmenter, weights: Path) -> None:
    """Both filters and NMS, several decoder passes on our side; the network from the checkpoint on disk."""
    model = load_model(segmenter.model, weights, CPU)
    point_dependent(segmenter.decoder(model))
    config = replace(LOOSE, model=segmenter.model, points_per_side=5)
    image = photo(150, 210)
    ours = everything_masks(model, image, config)
    theirs = own_masks(segmenter.generator(), segmenter.network(model), image, config)
    assert 5 < len(ours) < 3 * 25  # of three masks per point, some are left
    for record in theirs:  # SAM 2's generator holds its points in float32
        nearest = ours.points[np.abs(ours.points - record["point_coords"]).sum(axis=1).argmin()]
        np.testing.assert_allclose(record["point_coords"], [nearest], rtol=1e-6)
        record["point_coords"] = [nearest.tolist()]
    assert_same(ours, theirs)


@pytest.mark.slow
def test_through_the_script(segmenter: Segmenter, weights: Path, tmp_path: Path) -> None:
    """``scripts/masks.py`` with the checkpoint on two photos: the package's own masks of both, in amg.py's format."""
    (tmp_path / "photos").mkdir()
    for i, size in enumerate(((64, 96), (90, 60))):
        Image.fromarray(photo(*size, seed=i)).save(tmp_path / f"photos/{i}.png")
    config = replace(
        LOOSE,
        model=segmenter.model,
        points_per_side=2,
        points_per_batch=64,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        box_nms_thresh=1.0,
    )
    names = ("model", "points_per_side", "pred_iou_thresh", "stability_score_thresh", "box_nms_thresh")
    options = [item for name in names for item in (f"--sam.{name.replace('_', '-')}", getattr(config, name))]
    options += ["--sam.min-mask-region-area", 0, "--sam-checkpoint", weights, "--sam.device", "cpu"]
    run = tmp_path / "run"
    assert run_script("masks.py", tmp_path / "photos", "--out", run, *options, "--coco", tmp_path / "coco") == 0
    network = segmenter.network(load_model(segmenter.model, weights, CPU))
    for i in range(2):
        image = np.array(Image.open(tmp_path / f"photos/{i}.png"))
        theirs = own_masks(segmenter.generator(), network, image, config)
        found = json.loads((tmp_path / f"coco/{i}.json").read_text())
        assert len(found) == len(theirs) == 12
        sets = [MaskSet.from_coco(records).counts for records in (found, theirs)]
        assert [one.tolist() for one in sets[0]] == [one.tolist() for one in sets[1]]
        assert [record["predicted_iou"] for record in found] == [record["predicted_iou"] for record in theirs]


def test_size_of_the_official_file(segmenter: Segmenter, weights: Path) -> None:
    """The same tensors under the same names: random ones take as many bytes as the authors' file, up to the padding of
    the archive (64 bytes per tensor at most)."""
    expected = CHECKPOINTS[segmenter.model].size
    state = torch.load(weights, weights_only=True)
    assert abs(weights.stat().st_size - expected) <= 64 * len(state.get("model", state))


@needs("sam2", "hydra", "iopath")
@pytest.mark.parametrize("model", sorted(CONFIGS))
def test_every_sam2_is_as_large_as_its_official_file(model: str) -> None:
    """The configuration files exist, and build networks whose tensors fill the authors' checkpoints, up to what the
    archive adds to each tensor. One block more or less would be megabytes."""
    network = import_sam2()[0].build_sam2(CONFIGS[model], ckpt_path=None, device="cpu", apply_postprocessing=False)
    tensors = network.state_dict().values()
    bytes_of_tensors = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert 200 < (CHECKPOINTS[model].size - bytes_of_tensors) / len(tensors) < 450


def test_weights_of_another_model(segmenter: Segmenter, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save(segmenter.state(torch.nn.Linear(2, 2)), other)
    with pytest.raises(SplatsegError, match=f"expected a checkpoint of {segmenter.model}, found another file"):
        load_model(segmenter.model, other, CPU)


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def sam2_signatures(decoder: str, prompts: str) -> dict[str, list[tuple[str, Any, Any]]]:
    """The signatures of what splatseg uses of the ``sam2`` that imports now."""
    build, predictor = import_sam2()
    transforms = importlib.import_module("sam2.utils.transforms").SAM2Transforms
    prompt_encoder = importlib.import_module(prompts).PromptEncoder
    used = {
        "build_sam2": build.build_sam2,
        "predictor": predictor.SAM2ImagePredictor,
        "set_image": predictor.SAM2ImagePredictor.set_image,
        "transform_coords": transforms.transform_coords,
        "postprocess_masks": transforms.postprocess_masks,
        "decoder": importlib.import_module(decoder).MaskDecoder.forward,
        "prompts": prompt_encoder.forward,
        "get_dense_pe": prompt_encoder.get_dense_pe,
    }
    return {name: parameters(function) for name, function in used.items()}


@needs("sam2", "hydra", "iopath")
def test_fake_sam2_has_the_real_signatures() -> None:
    """What ``test_sam_contract.py`` checks everywhere holds for the real package only if these agree."""
    with fake_segmenters():
        fake = sam2_signatures("sam2.modeling", "sam2.modeling")
    assert fake == sam2_signatures("sam2.modeling.sam.mask_decoder", "sam2.modeling.sam.prompt_encoder")


@needs("mobile_sam")
def test_fake_mobile_sam_has_the_real_names() -> None:
    with fake_segmenters():
        fake = import_mobile_sam()
    real = import_mobile_sam()
    assert fake is not real and set(fake.__all__) <= set(vars(real))
    assert parameters(fake.sam_model_registry["vit_t"]) == parameters(real.sam_model_registry["vit_t"])
