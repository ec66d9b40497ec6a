"""Protocol (a) on a tiny scene folder in the layout of shared/data: three objects of two parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_splat import HEIGHT, WIDTH, TinySplat, make_splat

import splatseg.render as rendering
from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.splat import FeatureSplat
from splatseg.evaluate.hierarchical import evaluate_scene, load_hierarchical
from splatseg.evaluate.metrics import iou
from splatseg.segment.clicks import EMPTY_ALPHA
from splatseg.segment.scores import project_selection
from splatseg.segment.splat import SegmentableSplat


def write_scene(folder: Path, splat: TinySplat) -> Path:
    """Ground truth from the splat itself: node 1..3 objects, 4..9 parts, seen where a part covers a pixel."""
    (folder / "gt").mkdir(parents=True)
    one_hot = torch.nn.functional.one_hot(splat.parts, 6).float()
    rendered = rendering.render(splat.gaussians, splat.camera, one_hot)
    assert rendered.features is not None
    part = rendered.features.argmax(-1)
    covered = rendered.alpha >= EMPTY_ALPHA
    levels = torch.stack([torch.where(covered, part + 4, 0), torch.where(covered, part // 2 + 1, 0)])
    np.savez_compressed(folder / "gt" / "test_000.npz", levels=levels.numpy().astype(np.uint16))
    nodes: list[dict[str, Any]] = [
        {"id": o + 1, "name": f"object{o}", "parent": 0, "depth": 0, "stuff": False} for o in range(3)
    ]
    nodes += [
        {"id": p + 4, "name": f"object{p // 2}/part{p}", "parent": p // 2 + 1, "depth": 1, "stuff": False}
        for p in range(6)
    ]
    (folder / "gt" / "tree.json").write_text(json.dumps({"levels": 2, "nodes": nodes}))
    queries = [
        {
            "view": "test_000",
            "pixel": splat.pixel_of(p),
            "l1": p + 4,
            "l2": p // 2 + 1,
            "kind": "part<object",
            "core": p < 4,
        }
        for p in range(6)
    ]
    (folder / "queries.json").write_text(json.dumps({"queries": queries}))
    K, pose = splat.camera.K, splat.camera.cam_from_world
    image = {"name": "test_000.jpg", "R": pose[:3, :3].tolist(), "t": pose[:3, 3].tolist()}
    cameras = {
        "model": "PINHOLE",
        "width": WIDTH,
        "height": HEIGHT,
        "params": [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])],
        "images": [image],
    }
    (folder / "test_cameras.json").write_text(json.dumps(cameras))
    return folder


@pytest.fixture
def splat() -> TinySplat:
    return make_splat()


@pytest.fixture
def folder(tmp_path: Path, splat: TinySplat) -> Path:
    return write_scene(tmp_path / "tiny", splat)


def test_ideal_features_reach_the_top(folder: Path, splat: TinySplat) -> None:
    report = evaluate_scene(FeatureSplat(splat.gaussians, splat.field), load_hierarchical(folder))
    assert report.scene == "tiny" and len(report.results) == 6
    core, rest = report.averages(), report.averages(core=False)
    assert (core["queries"], rest["queries"]) == (4, 2)
    # Pixels that blend two parts are scored by both and may fall on either side; objects do not touch.
    assert core["iou1"] > 0.9 and core["iou2"] > 0.98
    assert report.headline == core["mean"] == pytest.approx((core["iou1"] + core["iou2"]) / 2)
    assert core["boundary_mean"] == pytest.approx((core["boundary1"] + core["boundary2"]) / 2)
    assert core["boundary1"] > 0.75 and core["boundary2"] > 0.95
    assert core["proposed_mean"] > core["mean"] - 0.1


def test_proposed_levels_are_measured_by_the_masks_that_are_exported(folder: Path, splat: TinySplat) -> None:
    fitted, scene = SegmentableSplat(splat.gaussians, splat.field), load_hierarchical(folder)
    report = evaluate_scene(fitted, scene)
    for result in report.results:
        query = result.query
        camera = scene.in_frame_of(splat.gaussians).views[query.view].camera
        column, row = query.pixel
        found = fitted.click(camera, column + 0.5, row + 0.5)
        masks = [project_selection(splat.gaussians, level.selection, camera) for level in found.levels]
        levels = torch.from_numpy(scene.levels(query.view).astype(np.int64))
        for value, node in ((result.proposed1, query.l1), (result.proposed2, query.l2)):
            assert value == pytest.approx(max(iou(mask, (levels == node).any(0)) for mask in masks))


def test_features_without_parts_lose_level_one_only(folder: Path, splat: TinySplat) -> None:
    objects = torch.nn.functional.one_hot(splat.objects, 3).float()
    blind = FeatureField(objects, splat.field.fingerprint)
    gt = load_hierarchical(folder)
    sharp, flat = (
        evaluate_scene(FeatureSplat(splat.gaussians, splat.field), gt),
        evaluate_scene(FeatureSplat(splat.gaussians, blind), gt),
    )
    assert flat.averages()["iou1"] < sharp.averages()["iou1"] - 0.2
    assert flat.averages()["boundary1"] < sharp.averages()["boundary1"] - 0.2
    assert flat.averages()["iou2"] == pytest.approx(sharp.averages()["iou2"], abs=0.05)


def test_scaling_features_changes_nothing_and_proposals_can_be_left_out(folder: Path, splat: TinySplat) -> None:
    gt = load_hierarchical(folder)
    noisy = make_splat(noise=0.1).field  # no ties, which rounding would break either way
    scaled = FeatureField(noisy.features * 8, splat.field.fingerprint)
    a = evaluate_scene(FeatureSplat(splat.gaussians, noisy), gt, proposals=False)
    b = evaluate_scene(FeatureSplat(splat.gaussians, scaled), gt, proposals=False)
    assert [r.iou1 for r in a.results] == pytest.approx([r.iou1 for r in b.results], abs=1e-3)
    assert a.results[0].proposed1 is None and "proposed1" not in a.averages()


def test_field_of_another_splat(folder: Path, splat: TinySplat) -> None:
    foreign = FeatureField(splat.field.features, "0" * 16)
    with pytest.raises(SplatsegError, match="fingerprint"):
        evaluate_scene(FeatureSplat(splat.gaussians, foreign), load_hierarchical(folder))


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_broken_folders(folder: Path, splat: TinySplat) -> None:
    def fails(match: str) -> None:
        with pytest.raises(SplatsegError, match=match):
            evaluate_scene(FeatureSplat(splat.gaussians, splat.field), load_hierarchical(folder))

    labels = folder / "gt" / "test_000.npz"
    whole = labels.read_bytes()
    np.savez(labels, levels=np.zeros((2, 5, 5), np.uint16))
    fails(r"test_000\.npz: expected 48x32 labels as its camera says, found 5x5")
    np.savez(labels, levels=np.zeros((2, 32, 48), np.uint16))
    fails("truth: expected at least one true pixel")
    labels.write_bytes(whole[: len(whole) // 2])
    fails(r"test_000\.npz: expected an npz")
    labels.unlink()
    fails(r"test_000\.npz: ground truth of view 'test_000' not found")
    edit(folder / "queries.json", lambda c: c["queries"][0].update(l1=99))
    fails(r"queries\.json: node 99 or 1: not in gt/tree\.json")
    edit(folder / "queries.json", lambda c: c["queries"][0].update(view="test_777"))
    fails(r"queries\.json: view 'test_777': not in test_cameras\.json")
    edit(folder / "queries.json", lambda c: c["queries"][0].pop("pixel"))
    fails("KeyError.*pixel")
    (folder / "queries.json").write_text("{")
    fails(r"queries\.json: expected JSON")
    (folder / "queries.json").unlink()
    fails(r"queries\.json: file of the hierarchical scene not found")


def test_a_query_outside_the_image_is_named(folder: Path, splat: TinySplat) -> None:
    edit(folder / "queries.json", lambda c: c["queries"][0].update(pixel=[48, 3]))
    with pytest.raises(SplatsegError, match=r"pixel: expected column in 0\.\.47"):
        evaluate_scene(FeatureSplat(splat.gaussians, splat.field), load_hierarchical(folder))


@pytest.mark.parametrize("scene", ["dev_kitchen", "dev_robots"])
def test_real_folders_are_read(data_dir: Path, scene: str) -> None:
    gt = load_hierarchical(data_dir / scene)
    assert len(gt.views) == 10 and len(gt.queries) == 160 and sum(q.core for q in gt.queries) == 120
    query = gt.queries[0]
    levels = gt.levels(query.view)
    column, row = query.pixel
    part, whole = (levels == query.l1).any(0), (levels == query.l2).any(0)
    assert part[row, column] and not (part & ~whole).any()
