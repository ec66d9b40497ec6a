"""scripts/evaluate.py on the tiny scene: ceiling, table, JSON and contact sheets; and the pieces they are made of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData
from script_runner import run_script
from test_evaluate_hierarchical import write_scene
from test_evaluate_labels3d import write_points
from tiny_splat import HEIGHT, WIDTH, make_camera, make_splat, write_capture, write_run

from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.label_tree import tree_from_leaves
from splatseg.core.scene import View
from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.draw.layout import Cell, contact_sheet
from splatseg.evaluate.ceiling import evaluate_ceiling, in_subtree, node_weights, truth_labels
from splatseg.evaluate.hierarchical import evaluate_scene, load_hierarchical
from splatseg.evaluate.report import markdown_table, update_metrics
from splatseg.evaluate.sheets import extreme_queries, overlay
from splatseg.io.labels import save_labels
from splatseg.io.ply import save_gaussians
from splatseg.segment.scores import project_selection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run and, in ``gt``, its scene: capture view 0 is the annotated view, test and training view at once."""
    splat = make_splat()
    run = write_run(tmp_path / "run", splat)
    gt = write_scene(tmp_path / "gt", splat)
    write_capture(gt, count=1)
    shutil.copy(gt / "gt" / "test_000.npz", gt / "gt" / "view_0.npz")
    (gt / "test_images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 150)).save(gt / "test_images" / "test_000.jpg")
    return run


def test_everything_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "metrics.json").write_text(json.dumps({"psnr_held_out": 30.5}))
    assert run_script("evaluate.py", folder, "--gt", folder.parent / "gt", "--quiet") == 0
    printed = capsys.readouterr().out
    assert "| tiny" not in printed and "| gt | core | oracle | 4 |" in printed and "ceiling" in printed
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["psnr_held_out"] == 30.5  # figures of the fit stay
    found = metrics["hierarchical"]
    assert found["core"]["mean"] > 0.9 and found["ceiling"]["core"]["mean"] > 0.9 and len(found["queries"]) == 6
    assert found["queries"][0]["view"] == "test_000" and 0 < found["queries"][0]["proposed1"] <= 1
    assert (folder / "evaluation.md").read_text() in printed
    for name in ("evaluation_worst.png", "evaluation_best.png"):
        assert np.array(Image.open(folder / name)).std() > 10  # a picture, not a blank sheet


def test_labels_are_measured_where_both_are_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splat = make_splat()
    tree = tree_from_leaves(splat.parts.numpy(), [np.arange(6) // 2, np.arange(6)], 0)
    save_labels(folder / "labels.ply", splat.gaussians, tree)
    x, y, z = splat.gaussians.means.numpy().T
    part, whole = splat.parts.numpy().astype(np.uint16) + 4, splat.objects.numpy().astype(np.uint16) + 1
    write_points(folder.parent / "gt" / "gt" / "points.ply", x=x, y=y, z=z, level_0=part, level_1=whole)
    options = ("--no-ceiling", "--no-sheets", "--no-proposals")
    assert run_script("evaluate.py", folder, "--gt", folder.parent / "gt", *options) == 0
    assert json.loads((folder / "metrics.json").read_text())["hierarchical"]["labels"]["miou"] == 1.0
    assert "| gt | all nodes | 1.000 |" in capsys.readouterr().out
    assert not (folder / "evaluation_best.png").exists()


def test_a_reference_protocol(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splat = make_splat()
    for k in range(3):
        mask = project_selection(splat.gaussians, Selection(splat.objects == 1), make_camera(0.3 * k))
        (folder.parent / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(folder.parent / "masks" / f"view_{k}.png")
    assert run_script("evaluate.py", folder, "--gt", folder.parent / "masks", "--protocol", "mvseg") == 0
    assert json.loads((folder / "metrics.json").read_text())["mvseg"]["mean"]["iou"] > 0.9
    assert "| mvseg | mean |" in capsys.readouterr().out
    assert run_script("evaluate.py", folder, "--gt", folder.parent / "masks", "--protocol", "nvos") == 2
    assert "expected a folder of annotations" in capsys.readouterr().err


def test_missing_ground_truth(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.parent / "gt" / "gt" / "view_0.npz").unlink()
    assert run_script("evaluate.py", folder, "--gt", folder.parent / "gt", "--quiet") == 2
    assert "view_0.npz: ground truth of view 'view_0' not found" in capsys.readouterr().err
    assert run_script("evaluate.py", folder, "--gt", folder.parent / "gt", "--no-ceiling", "--quiet") == 0
    assert run_script("evaluate.py", folder, "--gt", folder / "none", "--quiet") == 2


def test_ceiling_bounds_features(folder: Path) -> None:
    splat = make_splat()
    gt = load_hierarchical(folder.parent / "gt")
    views = [View("view_0.png", splat.camera, Path("none"))]
    ceiling = evaluate_ceiling(splat.gaussians, gt, views, stride=1)
    measured = evaluate_scene(FeatureSplat(splat.gaussians, splat.field), gt, proposals=False)
    assert [r.query for r in ceiling.results] == [r.query for r in measured.results]
    assert ceiling.headline >= measured.headline - 0.02 and ceiling.headline > 0.95
    with pytest.raises(SplatsegError, match="ceiling: expected training views"):
        evaluate_ceiling(splat.gaussians, gt, [])


def test_truth_labels_are_the_parts(folder: Path) -> None:
    splat = make_splat()
    gt = load_hierarchical(folder.parent / "gt")
    weights = node_weights(splat.gaussians, gt, [View("view_0.png", splat.camera, Path("none"))], stride=1)
    labels = truth_labels(weights, gt)
    seen = weights.sum(1) > 0.05
    assert float((labels[seen] == splat.parts[seen] + 4).float().mean()) > 0.95
    assert bool((labels[weights.sum(1) == 0] == 0).all())  # unseen Gaussians have no label
    assert torch.equal(in_subtree(labels, 2, gt), torch.isin(labels, torch.tensor([2, 6, 7])))


def test_majority_goes_by_objects_before_parts(folder: Path) -> None:
    """Two parts of one object outweigh a third object together, though neither does alone."""
    gt = load_hierarchical(folder.parent / "gt")
    weights = torch.zeros(1, 10)
    weights[0, [4, 5, 6]] = torch.tensor([0.3, 0.25, 0.45])  # nodes 4, 5: parts of 1; node 6: part of 2
    assert truth_labels(weights, gt).tolist() == [4]


# Report and pictures -----------------------------------------------------------------------------------------------


def test_table() -> None:
    table = markdown_table(["name", "x"], [["a", 0.12345], ["b", None], ["c", float("nan")]])
    assert table == "| name | x |\n|---|---:|\n| a | 0.123 |\n| b | - |\n| c | - |\n"


def test_metrics_of_another_kind_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    for content, message in (("[1]", "expected a JSON object, found a list"), ("{", "expected JSON")):
        path.write_text(content)
        with pytest.raises(SplatsegError, match=message):
            update_metrics(path, "a", {})
        assert path.read_text() == content


def test_overlay_colors_hits_and_misses() -> None:
    photo = torch.full((4, 4, 3), 128, dtype=torch.uint8)
    truth, predicted = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    truth[:, :2], predicted[:2] = True, True
    picture = overlay(photo, predicted, truth).astype(int)
    hit, extra, missed, rest = picture[0, 0], picture[0, 3], picture[3, 0], picture[3, 3]
    assert hit.argmax() == 1 and extra.argmax() == 0 and missed.argmax() == 2 and np.ptp(rest) == 0
    assert np.ptp(overlay(photo, predicted, truth, (3, 3))[3, 3].astype(int)) > 0  # the click is marked


def test_contact_sheet_places_every_cell() -> None:
    cells = [Cell(np.full((10, 20, 3), 40 * k, np.uint8), f"cell {k}") for k in range(5)]
    sheet = np.array(contact_sheet(cells, columns=2, width=40))
    assert sheet.shape[1] == 92 and all((sheet == 40 * k).all(2).any() for k in range(5))
    with pytest.raises(SplatsegError, match="at least one picture"):
        contact_sheet([], 2)


def test_extremes_are_core_queries_in_order(folder: Path) -> None:
    splat = make_splat(noise=0.3)
    report = evaluate_scene(
        FeatureSplat(splat.gaussians, splat.field), load_hierarchical(folder.parent / "gt"), proposals=False
    )
    worst, best = extreme_queries(report, 3)
    assert len(worst) == len(best) == 3 and all(r.query.core for r in worst + best)
    assert [r.mean for r in worst] == sorted(r.mean for r in worst)
    assert [r.mean for r in best] == sorted((r.mean for r in best), reverse=True)


def measured(folder: Path) -> list[float]:
    """Figures of the run in ``folder`` against ``gt`` beside it, by all that knows where the splat is."""
    assert run_script("evaluate.py", folder, "--gt", folder.parent / "gt", "--quiet") == 0
    found = json.loads((folder / "metrics.json").read_text())["hierarchical"]
    proposed = [query["proposed1"] for query in found["queries"]]
    return [found["core"]["mean"], found["ceiling"]["core"]["mean"], found["labels"]["miou"], *proposed]


def move_truth(gt: Path, move: np.ndarray) -> None:
    """The annotated scene of unturned cameras with its origin at ``move`` of another frame."""
    path = gt / "test_cameras.json"
    cameras = json.loads(path.read_text())
    for image in cameras["images"]:
        image["t"] = (np.array(image["t"]) - np.array(image["R"]) @ move).tolist()
    path.write_text(json.dumps(cameras))
    lines = (gt / "sparse/0/images.txt").read_text().splitlines()
    fields = lines[0].split(" ")
    assert fields[1:5] == ["1", "0", "0", "0"]
    fields[5:8] = [repr(float(value) - shift) for value, shift in zip(fields[5:8], move.tolist(), strict=True)]
    (gt / "sparse/0/images.txt").write_text("\n".join([" ".join(fields), *lines[1:]]) + "\n")
    x, y, z = move.tolist()
    (gt / "sparse/0/points3D.txt").write_text(f"1 {x!r} {y!r} {z!r} 128 128 128 0.5 1 0\n")
    points = PlyData.read(str(gt / "gt/points.ply"))["vertex"].data
    columns = {name: np.array(points[name]) for name in points.dtype.names}
    columns |= {axis: columns[axis].astype(np.float64) + shift for axis, shift in zip("xyz", move, strict=True)}
    write_points(gt / "gt/points.ply", **columns)


@pytest.mark.parametrize("drift", [(0.0, 0.0, 0.0), (3.0, -2.0, 1.5)])
def test_a_capture_far_away_is_measured_as_one_at_the_origin(folder: Path, drift: tuple[float, ...]) -> None:
    """The splat is in a local frame, ``drift`` from that of the cameras; the truth was taken as if it lay in it."""
    splat, move = make_splat(), np.array([448262.0, 5411932.0, 131.0])
    x, y, z = splat.gaussians.means.numpy().T
    part, whole = splat.parts.numpy().astype(np.uint16) + 4, splat.objects.numpy().astype(np.uint16) + 1
    write_points(folder.parent / "gt/gt/points.ply", x=x, y=y, z=z, level_0=part, level_1=whole)
    tree = tree_from_leaves(splat.parts.numpy(), [np.arange(6) // 2, np.arange(6)], 0)
    save_labels(folder / "labels.ply", splat.gaussians, tree)
    before = measured(folder)
    assert min(before[:3]) > 0.9
    move_truth(folder.parent / "gt", move)
    gaussians = replace(
        splat.gaussians,
        means=splat.gaussians.means - torch.tensor(drift),
        offset=tuple((move + drift).tolist()),  # type: ignore[arg-type]
    )
    save_gaussians(folder / "geometry.ply", gaussians)
    FeatureField(splat.field.features, gaussians.fingerprint()).save(folder / "features.safetensors")
    save_labels(folder / "labels.ply", gaussians, tree)
    for _ in range(2):
        np.testing.assert_allclose(measured(folder), before, atol=0.02)
