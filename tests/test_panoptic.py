"""Names and classes of labels, and what every photo shows of them in COCO's panoptic form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from known_run import make_run
from PIL import Image
from script_runner import run_script
from tiny_splat import make_splat, write_run

from splatseg.core.label_tree import LabelTree, tree_from_columns
from splatseg.core.selection import Selection
from splatseg.io.labels import load_labels, save_labels
from splatseg.io.ply import load_extra
from splatseg.segment.panoptic import save_panoptic
from splatseg.segment.scores import project_selection

NAMES = {1: "left (3)", 2: "right"}


def two_labels() -> LabelTree:
    """The small splat divided at x = 0, the larger side a sofa."""
    means = make_splat().gaussians.means
    tree = tree_from_columns([1 + (means[:, 0] > 0).numpy().astype(int)])
    for node in tree.nodes:
        tree = tree.renamed(node.id, NAMES[node.id])
    return tree.classified(1, "sofa")


def test_pixels_areas_and_boxes_are_those_of_the_labels(tmp_path: Path) -> None:
    known, tree = make_run(tmp_path), two_labels()
    space = known.workspace
    for _ in range(2):
        path = save_panoptic(tmp_path / "out", space.gaussians, tree, 0, space.views)
    content = json.loads(path.read_text())
    assert [c["name"] for c in content["categories"]] == ["sofa", "unclassified"]
    assert all({"id", "name", "supercategory", "isthing", "color"} == set(c) for c in content["categories"])
    assert len({tuple(c["color"]) for c in content["categories"]}) == 2
    assert [(e["name"], e.get("class")) for e in content["labels"]] == [("left (3)", "sofa"), ("right", None)]
    for view, image, entry in zip(space.views, content["images"], content["annotations"], strict=True):
        assert (image["file_name"], image["id"]) == (view.name, entry["image_id"])
        pixels = np.asarray(Image.open(tmp_path / "out" / entry["file_name"]), np.int64)
        ids = pixels @ [1, 256, 65536]
        assert {s["id"] for s in entry["segments_info"]} == set(np.unique(ids).tolist()) - {0}
        for segment in entry["segments_info"]:
            rows, columns = np.nonzero(ids == segment["id"])
            assert segment["area"] == len(rows)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert segment["bbox"] == box and segment["category_id"] == segment["id"]
            whole: Selection = tree.selection(segment["id"])
            shown = project_selection(space.gaussians, whole, view.camera).numpy()
            assert np.mean(shown == (ids == segment["id"])) > 0.95  # what is half transparent has no label


def test_a_class_survives_files_merging_and_splitting(tmp_path: Path) -> None:
    gaussians, tree = make_splat().gaussians, two_labels()
    save_labels(tmp_path / "labels.ply", gaussians, tree)
    assert load_labels(tmp_path / "labels.ply", gaussians).nodes == tree.nodes
    count = tree.node(1).count
    assert tree.split(1, np.arange(count) % 2).node(1).category == "sofa"
    assert tree.merge(1, 2).node(1).category == "sofa"
    assert "class" not in tree.classified(1, "").node(1).to_json()


def test_the_command_names_and_classifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splat = make_splat()
    folder = write_run(tmp_path / "run", splat)
    save_labels(folder / "labels.ply", splat.gaussians, two_labels())
    before = load_extra(folder / "labels.ply")["label"]
    for _ in range(2):
        assert run_script("labels.py", "name", folder, 2, "--name", "my chair", "--class", "chair") == 0
    node = load_labels(folder / "labels.ply", splat.gaussians).node(2)
    assert (node.name, node.category) == ("my chair", "chair")
    assert np.array_equal(load_extra(folder / "labels.ply")["label"], before)
    capsys.readouterr()
    for wrong, message in (
        (("name", folder, "nobody", "--name", "x"), "label: expected the name or id of one label"),
        (("name", folder, 1), "--name, --class: expected one of them, found none"),
    ):
        assert run_script("labels.py", *wrong) == 2
        assert message in capsys.readouterr().err
