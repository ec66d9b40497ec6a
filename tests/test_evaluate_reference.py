"""Protocols (b)-(e): tiny folders in the layout of each data set, and the engine they share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_splat import TinySplat, make_camera, make_splat

from splatseg.core.errors import SplatsegError
from splatseg.core.scene import View
from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.evaluate.datasets import load_lerf_mask, load_mvseg, load_nvos, load_replica
from splatseg.evaluate.reference import ReferenceTask, evaluate_tasks
from splatseg.segment.scores import project_selection


@pytest.fixture(scope="module")
def splat() -> TinySplat:
    return make_splat(noise=0.05)


def views_of(*names: str) -> list[View]:
    return [View(name, make_camera(0.3 * k), Path(name)) for k, name in enumerate(names)]


def truth(splat: TinySplat, view: View, obj: int) -> torch.Tensor:
    return project_selection(splat.gaussians, Selection(splat.objects == obj), view.camera)


def save(path: Path, values: np.ndarray, size: tuple[int, int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image.resize(size, Image.Resampling.NEAREST) if size else image).save(path)


def save_mask(path: Path, mask: torch.Tensor, high: int = 255, size: tuple[int, int] | None = None) -> None:
    save(path, mask.numpy().astype(np.uint8) * high, size)


def run(splat: TinySplat, views: list[View], tasks: list[ReferenceTask]) -> dict[str, float]:
    report = evaluate_tasks(
        FeatureSplat(splat.gaussians, splat.field), {view.name: view for view in views}, tasks, "test"
    )
    assert set(report.references) == {task.name for task in tasks}
    return report.averages()


# (b) NVOS ----------------------------------------------------------------------------------------------------------


def write_nvos(root: Path, splat: TinySplat, views: list[View]) -> None:
    for name, kind in (("IMG_1.png", "reference_image/fern"), ("IMG_2.png", "masks/fern")):
        save(root / kind / name, np.zeros((32, 48, 3), np.uint8))
    save_mask(root / "masks" / "fern" / "IMG_2_mask.png", truth(splat, views[1], 1), size=(192, 128))  # full size
    positive, negative = torch.zeros(32, 48, dtype=torch.bool), torch.zeros(32, 48, dtype=torch.bool)
    for part in (2, 3):
        column, row = splat.pixel_of(part)
        positive[row, column - 2 : column + 3] = True
    for part in (0, 5):
        column, row = splat.pixel_of(part)
        negative[row, column - 2 : column + 3] = True
    rgba = np.zeros((32, 48, 4), np.uint8)
    rgba[..., 3] = 255  # opaque background: transparency must not count as scribble
    rgba[positive.numpy()] = (255, 0, 0, 255)
    save(root / "scribbles" / "fern" / "pos_0_fern.png", rgba)
    save_mask(root / "scribbles" / "fern" / "neg_0_fern.png", negative)


def test_nvos(tmp_path: Path, splat: TinySplat) -> None:
    views = views_of("IMG_1.JPG", "IMG_2.JPG", "IMG_3.JPG")
    write_nvos(tmp_path, splat, views)
    (task,) = load_nvos(tmp_path, "fern", views)
    assert task.reference == "IMG_1.JPG" and set(task.targets) == {"IMG_2.JPG"}
    assert int(task.positive.sum()) == int(task.negative.sum()) == 10
    assert torch.equal(task.targets["IMG_2.JPG"], truth(splat, views[1], 1))  # resized back, nearest pixel
    found = run(splat, views, [task])
    assert found["iou"] > 0.9 and found["accuracy"] > 0.97


def test_nvos_broken(tmp_path: Path, splat: TinySplat) -> None:
    views = views_of("IMG_1.JPG", "IMG_2.JPG")
    write_nvos(tmp_path, splat, views)
    with pytest.raises(SplatsegError, match="fortress: expected a folder of annotations"):
        load_nvos(tmp_path, "fortress", views)
    with pytest.raises(SplatsegError, match=r"IMG_1\.png: expected one view of the scene with this name, found 0"):
        load_nvos(tmp_path, "fern", views[1:])
    scribble = tmp_path / "scribbles" / "fern" / "pos_0_fern.png"
    scribble.write_bytes(scribble.read_bytes()[:40])
    with pytest.raises(SplatsegError, match=r"pos_0_fern\.png: unreadable annotation"):
        load_nvos(tmp_path, "fern", views)
    scribble.unlink()
    with pytest.raises(SplatsegError, match="scribbles/fern: expected exactly one image of its kind, found 0"):
        load_nvos(tmp_path, "fern", views)
    save_mask(scribble, torch.zeros(32, 48, dtype=torch.bool))
    with pytest.raises(SplatsegError, match=r"task 'fern': expected positive pixels in 'IMG_1\.JPG', found none"):
        load_nvos(tmp_path, "fern", views)


# (c) MVSeg ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("high", [1, 255])  # both are in the wild
def test_mvseg(tmp_path: Path, splat: TinySplat, high: int) -> None:
    views = views_of("img_1.jpg", "img_10.jpg", "img_2.jpg")
    for view in views:
        save_mask(tmp_path / "room" / f"{Path(view.name).stem}.png", truth(splat, view, 2), high)
    save_mask(tmp_path / "room" / "img_1_cutout.png", torch.ones(32, 48, dtype=torch.bool))
    save_mask(tmp_path / "room" / "img_2_pseudo.png", torch.ones(32, 48, dtype=torch.bool))
    (task,) = load_mvseg(tmp_path / "room", views)
    assert task.reference == "img_1.jpg" and set(task.targets) == {"img_10.jpg", "img_2.jpg"}
    assert torch.equal(task.targets["img_10.jpg"], truth(splat, views[1], 2))  # not taken for img_1
    assert run(splat, views, [task])["iou"] > 0.9
    with pytest.raises(SplatsegError, match="at least two of the scene's views, found 1"):
        load_mvseg(tmp_path / "room", views[:1])


# (d) Replica -------------------------------------------------------------------------------------------------------


def test_replica(tmp_path: Path, splat: TinySplat) -> None:
    views = views_of("rgb/rgb_0.png", "rgb/rgb_1.png", "rgb/rgb_2.png")
    for k, view in enumerate(views):
        ids = np.zeros((32, 48), np.uint16)
        for obj in range(3):
            ids[truth(splat, view, obj).numpy()] = 300 + obj  # more than a byte
        ids[0, 0] = 77  # too small to be a task
        save(tmp_path / "semantic_instance" / f"semantic_instance_{k}.png", ids)
    tasks = load_replica(tmp_path, views)
    assert [task.name for task in tasks] == ["instance 300", "instance 301", "instance 302"]
    assert all(len(task.targets) == 2 for task in tasks)
    assert run(splat, views, tasks)["iou"] > 0.9
    with pytest.raises(SplatsegError, match="instance images of at least two views, found 0"):
        load_replica(tmp_path, views_of("a.png"))


# (e) LERF-Mask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [lambda k, view: Path(view.name).stem, lambda k, view: str(k)])
def test_lerf_mask(tmp_path: Path, splat: TinySplat, name: Callable[[int, View], str]) -> None:
    """Folders of held-out views carry the view's name or its number."""
    views = views_of("frame_1.jpg", "frame_2.jpg", "frame_3.jpg")
    save(tmp_path / "images_train" / "frame_1.jpg", np.zeros((4, 4, 3), np.uint8))
    for k, view in enumerate(views[1:]):
        save_mask(tmp_path / "test_mask" / name(k, view) / "green apple.png", truth(splat, view, 0))
        save_mask(tmp_path / "test_mask" / name(k, view) / "nothing.png", torch.zeros(32, 48, dtype=torch.bool))
    save_mask(tmp_path / "test_mask" / name(0, views[1]) / "once.png", truth(splat, views[1], 1))
    (task,) = load_lerf_mask(tmp_path, views)
    assert task.name == "green apple" and task.reference == "frame_2.jpg" and set(task.targets) == {"frame_3.jpg"}
    found = run(splat, views, [task])
    assert found["iou"] > 0.9 and found["boundary_iou"] > 0.8


def test_lerf_mask_broken(tmp_path: Path, splat: TinySplat) -> None:
    views = views_of("frame_1.jpg")
    save_mask(tmp_path / "test_mask" / "7" / "cup.png", truth(splat, views[0], 0))
    with pytest.raises(SplatsegError, match="test_mask/7: expected the name or number of a held-out view"):
        load_lerf_mask(tmp_path, views)


# Engine ------------------------------------------------------------------------------------------------------------


def make_task(splat: TinySplat, views: list[View], obj: int = 1) -> ReferenceTask:
    mask = truth(splat, views[0], obj)
    return ReferenceTask("t", views[0].name, mask, ~mask, {views[1].name: truth(splat, views[1], obj)})


def test_every_object_counts_alike(splat: TinySplat) -> None:
    """A task with many views does not outweigh one with a single view."""
    views = views_of("a.png", "b.png", "c.png")
    good = make_task(splat, views)
    empty = torch.zeros(32, 48, dtype=torch.bool)
    empty[0, 0] = True  # never found
    bad = ReferenceTask("bad", "a.png", good.positive, good.negative, {v.name: empty for v in views})
    report = evaluate_tasks(FeatureSplat(splat.gaussians, splat.field), {v.name: v for v in views}, [good, bad], "test")
    tasks = report.task_averages()
    assert report.averages()["iou"] == pytest.approx((tasks["t"]["iou"] + tasks["bad"]["iou"]) / 2)
    assert tasks["bad"]["iou"] == 0 and len(report.results) == 4


def test_bad_tasks(splat: TinySplat) -> None:
    views = views_of("a.png", "b.png")
    task = make_task(splat, views)
    by_name = {view.name: view for view in views}

    def fails(match: str, changed: ReferenceTask | None, named: dict[str, View] = by_name) -> None:
        with pytest.raises(SplatsegError, match=match):
            evaluate_tasks(FeatureSplat(splat.gaussians, splat.field), named, [changed] if changed else [], "p")

    fails("p: expected at least one task", None)
    fails(r"view 'b\.png': not in the scene", task, {"a.png": views[0]})
    small = ReferenceTask("t", "a.png", task.positive, task.negative, {"b.png": torch.ones(3, 4, dtype=torch.bool)})
    fails(r"mask of 'b\.png': expected 48x32 pixels, found 4x3", small)
    corner = torch.zeros(32, 48, dtype=torch.bool)
    corner[0, 0] = True
    fails(
        r"the object on the splat in 'a\.png', found empty space",
        ReferenceTask("t", "a.png", corner, ~corner, task.targets),
    )
    with pytest.raises(SplatsegError, match="at least one target view"):
        ReferenceTask("t", "a.png", task.positive, task.negative, {})
