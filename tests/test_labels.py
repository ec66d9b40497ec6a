"""Exports: what stands in the files, and that broken or foreign ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData
from tiny_splat import TinySplat, make_camera, make_splat

from splatseg.core.errors import SplatsegError
from splatseg.core.label_tree import LabelTree
from splatseg.core.scene import View
from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.io.labels import load_labels, save_labels, save_selection, save_without
from splatseg.io.ply import load_gaussians
from splatseg.io.sidecar import load_sidecar
from splatseg.segment.discretize import ClusterConfig, discretize
from splatseg.segment.mask_images import mask_paths, save_masks

INRIA = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
INRIA += ["rot_0", "rot_1", "rot_2", "rot_3"]


@pytest.fixture(scope="module")
def splat() -> TinySplat:
    return make_splat(noise=0.05)


@pytest.fixture(scope="module")
def tree(splat: TinySplat) -> LabelTree:
    return discretize(FeatureSplat(splat.gaussians, splat.field), ClusterConfig(min_cluster=20, min_gaussians=20))


def test_labels_ply_keeps_inria_order_and_adds_integers(tmp_path: Path, splat: TinySplat, tree: LabelTree) -> None:
    written = save_labels(tmp_path / "labels.ply", splat.gaussians, tree)
    assert [p.name for p in written] == ["labels.ply", "labels.json"]
    vertices = PlyData.read(str(written[0]))["vertex"]
    names = [p.name for p in vertices.properties]
    labels = [f"label_{level}" for level in range(tree.levels)]
    assert names == [*INRIA, "label", *labels]
    assert all(p.val_dtype == "i4" for p in vertices.properties[len(INRIA) :])
    assert np.array_equal(vertices["label"], tree.labels[:, tree.default_level])
    for level, name in enumerate(labels):
        assert np.array_equal(vertices[name], tree.labels[:, level])
    assert torch.equal(load_gaussians(written[0]).means, splat.gaussians.means)


@pytest.mark.parametrize("sidecar", [False, True])
def test_labels_come_back(tmp_path: Path, splat: TinySplat, tree: LabelTree, sidecar: bool) -> None:
    named = tree.renamed(1, "Stuhl «groß»")
    written = save_labels(tmp_path / "labels.ply", splat.gaussians, named, sidecar)
    loaded = load_labels(written[0], splat.gaussians)
    assert np.array_equal(loaded.labels, named.labels) and loaded.nodes == named.nodes
    assert loaded.default_level == named.default_level
    if sidecar:
        vertices = PlyData.read(str(written[0]))["vertex"]
        assert [p.name for p in vertices.properties] == INRIA
        columns = ["label", *(f"label_{k}" for k in range(tree.levels))]
        assert list(load_sidecar(written[2]).columns) == columns


def test_broken_label_files(tmp_path: Path, splat: TinySplat, tree: LabelTree) -> None:
    path, json_path, npz = save_labels(tmp_path / "labels.ply", splat.gaussians, tree, sidecar=True)

    def fails(match: str) -> None:
        with pytest.raises(SplatsegError, match=match):
            load_labels(path, splat.gaussians)

    content: dict[str, Any] = json.loads(json_path.read_text())
    json_path.write_text(json.dumps(content | {"fingerprint": "0" * 16}))
    fails(r"labels\.json: expected labels of the splat with fingerprint")
    json_path.write_text(json.dumps(content | {"format": "other"}))
    fails(r"labels\.json: format: expected 'splatseg-labels-1', found 'other'")
    json_path.write_text(json.dumps(content | {"nodes": content["nodes"][1:]}))
    fails(r"labels\.ply: labels: expected ids of the tree's nodes, found 1")
    json_path.write_text(json.dumps(content)[:-20])
    fails(r"labels\.json: expected a label tree")
    json_path.write_text(json.dumps(content))
    npz.write_bytes(npz.read_bytes()[:100])
    fails(r"labels\.npz: expected an npz of labels")
    npz.unlink()
    fails(r"labels\.ply: expected the labels label_0.* found no label_0")
    json_path.unlink()
    fails(r"labels\.json: label tree not found")


def test_labels_of_another_splat(tmp_path: Path, splat: TinySplat, tree: LabelTree) -> None:
    with pytest.raises(SplatsegError, match="labels: expected one for each of 3 Gaussians, found 432"):
        save_labels(tmp_path / "labels.ply", splat.gaussians.select(torch.arange(3)), tree)
    assert not list(tmp_path.iterdir())


def test_selection_and_rest_make_the_scene(tmp_path: Path, splat: TinySplat) -> None:
    selection = Selection(splat.objects == 1)
    save_selection(tmp_path / "in.ply", splat.gaussians, selection)
    save_without(tmp_path / "out.ply", splat.gaussians, selection)
    inside, outside = load_gaussians(tmp_path / "in.ply"), load_gaussians(tmp_path / "out.ply")
    assert torch.equal(inside.means, splat.gaussians.means[selection.mask])
    assert torch.equal(outside.means, splat.gaussians.means[~selection.mask])


def test_empty_whole_and_foreign_selections(tmp_path: Path, splat: TinySplat) -> None:
    nothing = Selection.none(432)
    with pytest.raises(SplatsegError, match=r"a\.ply: expected something selected"):
        save_selection(tmp_path / "a.ply", splat.gaussians, nothing)
    with pytest.raises(SplatsegError, match=r"a\.ply: expected something left"):
        save_without(tmp_path / "a.ply", splat.gaussians, nothing.invert())
    with pytest.raises(SplatsegError, match="a selection of 432 Gaussians, found one of 5"):
        save_selection(tmp_path / "a.ply", splat.gaussians, Selection.none(5))
    assert not list(tmp_path.iterdir())


def views_named(*names: str) -> list[View]:
    return [View(name, make_camera(0.3 * i), Path(name)) for i, name in enumerate(names)]


def test_masks_of_every_view(tmp_path: Path, splat: TinySplat) -> None:
    views = views_named("a.jpg", "left/b.jpg", "left/c.jpg", "left/c.png")
    shares: list[float] = []
    selection = Selection(splat.objects == 1)
    paths = save_masks(tmp_path / "m", splat.gaussians, selection, views, lambda name, share: shares.append(share))
    found = sorted(str(p.relative_to(tmp_path / "m")) for p in (tmp_path / "m").rglob("*.*"))
    assert found == ["a.png", "left/b.png", "left/c.jpg.png", "left/c.png.png"]  # c.jpg and c.png do not collide
    assert shares == [0.25, 0.5, 0.75, 1.0]
    column, row = splat.pixel_of(2)
    with Image.open(paths["a.jpg"]) as image:
        mask = np.array(image)
        assert image.mode == "L" and mask.shape == (32, 48)
    assert mask[row, column] == 255 and mask[0, 0] == 0 and set(np.unique(mask)) == {0, 255}


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "b/../../a.jpg"])
def test_view_names_cannot_leave_the_folder(name: str) -> None:
    path = mask_paths("m", views_named(name))[name]
    assert path.parent == Path("m") and path.name.startswith("a~") and path.suffix == ".png"
