"""Layouts of the public data sets of protocols (b)-(e), read into :class:`ReferenceTask`.

Every loader takes the views of the scene (as the run's COLMAP model names them) and matches annotation files to
them by the stems of their names. Masks of another size than the view's camera (the sets are annotated at full or
quarter size, runs may be fitted at any) are resized to it, nearest pixel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.reading import regular
from splatseg.core.scene import View
from splatseg.evaluate.reference import ReferenceTask

IMAGES = {".png", ".jpg", ".jpeg"}
MIN_INSTANCE = 0.005  # share of the reference image below which a Replica instance is no task


def load_nvos(root: Path | str, scene: str, views: Sequence[View]) -> list[ReferenceTask]:
    """(b) NVOS (Ren et al., Neural Volumetric Object Selection, CVPR 2022): scribbles in one LLFF view, one target
    view.

    Layout: ``reference_image/SCENE/<image>``, ``scribbles/SCENE/pos_*.png`` and ``neg_*.png`` (drawn on the reference),
    ``masks/SCENE/<image>`` beside ``masks/SCENE/*_mask.*`` (the target and its mask). The set's measures are IoU and
    accuracy on the target. Scenes: fern, flower, fortress, horns_center, horns_left, leaves, orchids, trex.
    """
    root = Path(root)
    reference = _view(views, _only(root / "reference_image" / scene, lambda name: True), root)
    positive = _mask(_only(root / "scribbles" / scene, lambda name: "pos" in name), reference)
    negative = _mask(_only(root / "scribbles" / scene, lambda name: "neg" in name), reference)
    target = _view(views, _only(root / "masks" / scene, lambda name: "_mask" not in name), root)
    truth = _mask(_only(root / "masks" / scene, lambda name: "_mask" in name), target)
    return [ReferenceTask(scene, reference.name, positive, negative & ~positive, {target.name: truth})]


def load_mvseg(folder: Path | str, views: Sequence[View]) -> list[ReferenceTask]:
    """(c) MVSeg of SPIn-NeRF (Mirzaei et al., CVPR 2023): one object, its mask in many views.

    Layout: a folder of PNGs, each named after its view (names with ``cutout`` or ``pseudo`` are no annotations).
    The first view by name is the reference, all others are targets, as SA3D (Cen et al., NeurIPS 2023) evaluates
    it.
    """
    folder = Path(folder)
    files = [p for p in _images(folder) if "cutout" not in p.name and "pseudo" not in p.name]
    found = {}
    for path in files:
        matching = [view for view in views if _stem(view.name) in path.stem]
        if matching:
            view = max(matching, key=lambda v: len(_stem(v.name)))  # "img_1" is also in "img_10"
            found[view.name] = _mask(path, view)
    if len(found) < 2:
        raise SplatsegError(f"{folder}: expected annotations of at least two of the scene's views, found {len(found)}")
    reference, *others = sorted(found)
    mask = found[reference]
    return [ReferenceTask(folder.name, reference, mask, ~mask, {name: found[name] for name in others})]


def load_replica(folder: Path | str, views: Sequence[View]) -> list[ReferenceTask]:
    """(d) Replica instances, as rendered for Semantic-NeRF (Zhi et al., ICCV 2021).

    Layout: ``semantic_instance/semantic_instance_<i>.png`` (8 or 16 bit ids) for the view whose name ends in ``<i>``
    (``rgb/rgb_<i>.png``). An instance is a task: the view that shows most of it is the reference, all others that
    show it are targets; instances that never cover 0.5 % of a view, and id 0, are left out.
    """
    folder = Path(folder)
    numbered = {_number(view.name): view for view in views if _number(view.name) is not None}
    labels: dict[str, tuple[View, NDArray[np.int64]]] = {}
    for path in _images(folder / "semantic_instance"):
        view = numbered.get(_number(path.name))
        if view is not None:
            labels[view.name] = (view, _resized(_read(path), view).astype(np.int64))
    if len(labels) < 2:
        raise SplatsegError(f"{folder}: expected instance images of at least two views, found {len(labels)}")
    tasks = []
    for instance in sorted({int(i) for _, ids in labels.values() for i in np.unique(ids)} - {0}):
        masks = {name: torch.from_numpy(ids == instance) for name, (_, ids) in labels.items()}
        shown = {name: float(mask.float().mean()) for name, mask in masks.items() if bool(mask.any())}
        reference = max(sorted(shown), key=lambda name: shown[name])
        if shown[reference] < MIN_INSTANCE or len(shown) < 2:
            continue
        targets = {name: masks[name] for name in sorted(shown) if name != reference}
        mask = masks[reference]
        tasks.append(ReferenceTask(f"instance {instance}", reference, mask, ~mask, targets))
    return tasks


def load_lerf_mask(folder: Path | str, views: Sequence[View]) -> list[ReferenceTask]:
    """(e) LERF-Mask (Gaussian Grouping, Ye et al., ECCV 2024): named objects in two to four held-out views.

    Layout: ``test_mask/<view>/<object>.png``. A view's folder is named after the view, or numbers the held-out
    views (those in ``images`` but not in ``images_train``, by name). The published protocol asks with text; here
    the object's mask in the first view that shows it is the prompt and its other views are the targets, so numbers
    do not compare. Measures: IoU and boundary IoU.
    """
    folder = Path(folder)
    annotated: dict[str, dict[str, Tensor]] = {}
    for view_folder in sorted(p for p in _listing(folder / "test_mask") if p.is_dir()):
        view = _lerf_view(folder, view_folder.name, views)
        for path in _images(view_folder):
            mask = _mask(path, view)
            if bool(mask.any()):
                annotated.setdefault(path.stem, {})[view.name] = mask
    tasks = []
    for name, masks in sorted(annotated.items()):
        if len(masks) > 1:
            reference, *others = sorted(masks)
            mask = masks[reference]
            tasks.append(ReferenceTask(name, reference, mask, ~mask, {other: masks[other] for other in others}))
    if not tasks:
        raise SplatsegError(f"{folder / 'test_mask'}: expected an object that two views show, found none")
    return tasks


def _lerf_view(folder: Path, name: str, views: Sequence[View]) -> View:
    matching = [view for view in views if _stem(view.name) == name]
    if len(matching) == 1:
        return matching[0]
    if name.isdigit() and (folder / "images_train").is_dir():
        trained = {p.stem for p in _images(folder / "images_train")}
        held_out = sorted((v for v in views if _stem(v.name) not in trained), key=lambda v: v.name)
        if int(name) < len(held_out):
            return held_out[int(name)]
    raise SplatsegError(
        f"{folder / 'test_mask' / name}: expected the name or number of a held-out view, found no such view"
    )


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _number(name: str) -> int | None:
    """The number that a file's stem ends in."""
    match = re.search(r"(\d+)$", _stem(name))
    return int(match[1]) if match else None


def _listing(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise SplatsegError(f"{folder}: expected a folder of annotations, found none")
    return sorted(folder.iterdir())


def _images(folder: Path) -> list[Path]:
    return [p for p in _listing(folder) if p.suffix.lower() in IMAGES]


def _only(folder: Path, wanted: object) -> Path:
    """The one image in ``folder`` whose name fits."""
    assert callable(wanted)
    found = [p for p in _images(folder) if wanted(p.name)]
    if len(found) != 1:
        raise SplatsegError(f"{folder}: expected exactly one image of its kind, found {len(found)}")
    return found[0]


def _view(views: Sequence[View], path: Path, root: Path) -> View:
    found = [view for view in views if _stem(view.name) == path.stem]
    if len(found) != 1:
        raise SplatsegError(f"{path}: expected one view of the scene with this name, found {len(found)}")
    return found[0]


def _read(path: Path) -> NDArray[np.generic]:
    """(h, w) values: a color image counts by its largest channel, transparency does not count."""
    try:
        with Image.open(regular(path)) as image:
            pixels = np.array(image if image.mode in ("1", "L", "P", "I", "I;16", "F") else image.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise SplatsegError(f"{path}: unreadable annotation ({error})") from None
    return pixels.max(axis=2) if pixels.ndim == 3 else pixels


def _resized(values: NDArray[np.generic], view: View) -> NDArray[np.generic]:
    """Nearest-pixel resize to the view's camera, sampled at pixel centers."""
    height, width = view.camera.height, view.camera.width
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(np.int64)
    return values[rows[:, None], columns[None, :]]


def _mask(path: Path, view: View) -> Tensor:
    """(h, w) bool at the view's size: above half of the image's range (0/1 and 0/255 masks both occur)."""
    values = _read(path).astype(np.float64)
    peak = float(values.max(initial=0))
    return torch.from_numpy(np.ascontiguousarray(_resized(values > 0.5 * peak if peak else values > 0, view)))
