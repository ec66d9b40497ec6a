"""scripts/export.py: labels of a run, made once and kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from script_runner import run_script
from tiny_splat import make_splat, write_run

from splatseg.io.labels import load_labels, save_labels
from splatseg.io.ply import load_extra, load_gaussians, save_gaussians
from splatseg.io.run import Run

SMALL = ("--clusters.min-cluster", 20, "--clusters.min-gaussians", 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", make_splat(noise=0.05))


def test_labels_are_written_and_names_survive(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script("export.py", folder, "--quiet", *SMALL) == 0
    assert "label_0" in capsys.readouterr().out
    splat = make_splat(noise=0.05)
    tree = load_labels(folder / "labels.ply", splat.gaussians)
    assert len(tree.at_level(tree.levels - 1)) == 6
    save_labels(folder / "labels.ply", splat.gaussians, tree.renamed(1, "mine"))
    out = folder / "plain" / "labels.ply"
    assert run_script("export.py", folder, "--quiet", "--out", out, "--sidecar") == 0
    again = load_labels(out, splat.gaussians)
    assert again.node(1).name == "mine" and np.array_equal(again.labels, tree.labels)
    assert not load_extra(out) and out.with_suffix(".npz").is_file()
    assert run_script("export.py", folder, "--quiet", "--again", *SMALL) == 0
    assert load_labels(folder / "labels.ply").node(1).name == "1"


def test_bad_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ((folder / "none",), "expected a run folder"),
        ((folder, "--out", "x.npz"), "--out: expected a name that ends in .ply"),
        ((folder, "--clusters.samples", 1), "clusters.samples: expected at least 2"),
    ):
        assert run_script("export.py", *arguments) == 2
        assert message in capsys.readouterr().err
    (folder / "labels.json").write_text("{")
    (folder / "labels.ply").write_bytes((folder / "geometry.ply").read_bytes())
    assert run_script("export.py", folder) == 2
    assert "labels.json: expected a label tree" in capsys.readouterr().err


def test_a_file_per_label_and_one_label_and_the_rest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every Gaussian is in one of the files; twice; options that contradict each other are refused before that."""
    assert run_script("export.py", folder, "--quiet", *SMALL) == 0
    splat, parts = load_gaussians(Run.existing(folder).geometry), folder / "parts"
    tree = load_labels(Run.existing(folder).labels, splat)
    for _ in range(2):
        assert run_script("export.py", folder, "--split-by", "label", "--level", 0, "--out", parts) == 0
    table = json.loads((parts / "labels.json").read_text())
    assert {entry["file"] for entry in table["files"]} | {"labels.json"} == {path.name for path in parts.iterdir()}
    assert sum(len(load_gaussians(parts / entry["file"])) for entry in table["files"]) == len(splat)
    node = tree.at_level(0)[0]
    assert run_script("export.py", folder, "--label", node.name, "--out", folder / "one.ply") == 0
    assert run_script("export.py", folder, "--without", node.id, "--out", folder / "rest.ply") == 0
    one, rest = load_gaussians(folder / "one.ply"), load_gaussians(folder / "rest.ply")
    assert len(one) == node.count and len(rest) == len(splat) - node.count
    capsys.readouterr()
    for wrong, message in (
        (("--label", "1", "--without", "1"), "--without: expected to stand alone, found it beside --label"),
        (("--label", "1", "--split-by", "label"), "--split-by: expected to stand alone"),
        (("--level", 0), "--level: expected --split-by label or --panoptic beside it"),
        (("--split-by", "label", "--level", 99), "--level: expected 0.."),
        (("--label", "nobody"), "label: expected the name or id of one label"),
        (("--format", "spz", "--out", "a.ply"), "--out: expected a name that ends in .spz, found a.ply"),
    ):
        assert run_script("export.py", folder, *wrong) == 2
        assert message in capsys.readouterr().err


def test_what_a_format_does_not_hold_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Properties of other tools were left out of a GLB or SPZ, and segment and clean rounded, without a word."""
    run, splat = Run.existing(folder), make_splat(noise=0.05)
    save_gaussians(run.geometry, splat.gaussians, {"group": np.arange(len(splat.gaussians), dtype=np.int32)})
    pixel = splat.pixel_of(0)
    for command in (
        ("export.py", folder, "--quiet", *SMALL, "--format", "splat"),
        ("export.py", folder, "--label", "1", "--format", "splat"),
        ("segment.py", folder, "--view", "view_0.png", "--pixel", *pixel, "--quiet", "--out", folder / "a.splat"),
        ("clean.py", folder, "--no-photos", "--quiet", "--out", folder / "b.splat"),
    ):
        assert run_script(*command) == 0
        told = capsys.readouterr().out
        assert "note     splat holds colors, opacities and rotations to 8 bits" in told
        assert "note     splat holds no properties of other tools: group left out" in told
    assert run_script("export.py", folder, "--quiet", "--format", "glb") == 0
    assert "note" not in capsys.readouterr().out
    assert run_script("export.py", folder, "--quiet") == 0
    assert "note" not in capsys.readouterr().out
    assert load_extra(run.labels)["group"][5] == 5
