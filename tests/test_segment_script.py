"""scripts/segment.py: what it writes, and one line on stderr with exit code 2 for every bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from script_runner import run_script
from tiny_splat import TinySplat, make_splat, write_run

from splatseg.core.field import FeatureField
from splatseg.io.ply import load_gaussians
from splatseg.session import Session


@pytest.fixture(scope="module")
def splat() -> TinySplat:
    return make_splat()


@pytest.fixture
def folder(tmp_path: Path, splat: TinySplat) -> Path:
    return write_run(tmp_path / "run", splat)


def segment(folder: Path, *arguments: object) -> int:
    return run_script("segment.py", folder, "--quiet", *arguments)


def test_part_and_object(folder: Path, splat: TinySplat, capsys: pytest.CaptureFixture[str]) -> None:
    column, row = splat.pixel_of(2)
    assert segment(folder, "--view", "view_0", "--pixel", column, row) == 0
    out = folder / "exports" / "selection.ply"
    assert torch.equal(load_gaussians(out).means, splat.gaussians.means[splat.parts == 2])
    assert "level 0" in capsys.readouterr().out
    masks = sorted(p.name for p in (folder / "exports" / "selection").iterdir())
    assert masks == ["view_0.png", "view_1.png", "view_2.png"]
    mask = np.array(Image.open(folder / "exports" / "selection" / "view_0.png"))
    assert mask.shape == (32, 48) and mask[row, column] == 255
    other = folder / "object.ply"
    assert segment(folder, "--view", "view_0", "--pixel", column, row, "--threshold", 0.3, "--out", other) == 0
    assert torch.equal(load_gaussians(other).means, splat.gaussians.means[splat.objects == 1])


def test_add_and_subtract(folder: Path, splat: TinySplat) -> None:
    clicks: list[object] = ["--pixel", *splat.pixel_of(2), "--add", *splat.pixel_of(4), "--add", *splat.pixel_of(5)]
    clicks += ["--subtract", *splat.pixel_of(3), "--threshold", 0.5]
    assert segment(folder, "--view", "view_0.png", *clicks) == 0
    wanted = torch.isin(splat.parts, torch.tensor([2, 4, 5]))
    found = load_gaussians(folder / "exports" / "selection.ply").means
    assert torch.equal(found, splat.gaussians.means[wanted])


def test_clicks_select_what_they_select_in_the_viewer(folder: Path, splat: TinySplat) -> None:
    """--add is a Shift-click and --subtract an Alt-click, twice over."""
    where = {part: tuple(float(x) + 0.5 for x in splat.pixel_of(part)) for part in (0, 2, 4)}
    for threshold in (None, 0.5):
        session = Session(folder)
        for part, mode in ((2, "replace"), (4, "add"), (0, "add")):
            session.click("view_0", *where[part], mode)
            if threshold is not None:
                session.set_threshold(threshold)
        session.click("view_0", *where[2], "subtract")
        clicks = ["--pixel", *where[2], "--add", *where[4], "--add", *where[0], "--subtract", *where[2]]
        options = [] if threshold is None else ["--threshold", threshold]
        assert segment(folder, "--view", "view_0", *clicks, *options) == 0
        found = load_gaussians(folder / "exports" / "selection.ply").means
        assert len(found) and torch.equal(found, splat.gaussians.means[session.selection.mask])
        session.workspace.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--view", "view_9", "--pixel", 3, 3), "view 'view_9': expected one of the scene's views"),
        (("--view", "view_0", "--pixel", 48, 3), "pixel: expected column in 0..47"),
        (("--view", "view_0", "--pixel", 0, 0), "click at column 0, row 0: expected something under it, found empty"),
        (
            ("--view", "view_0", "--pixel", 24, 12, "--threshold", 3),
            "threshold: expected a value in [-1, 1], found 3.0",
        ),
        (("--view", "view_0", "--pixel", 24, 12, "--threshold", 1), "selection.ply: expected something selected"),
        (("--view", "view_0", "--pixel", 24, 12, "--level", 9), "--level: expected one of the"),
        (("--view", "view_0", "--pixel", 24, 12, "--out", "a.npz"), "--out: a.npz: expected a name that ends in .ply"),
    ],
)
def test_bad_clicks(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str
) -> None:
    assert segment(folder, *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert not (folder / "exports").exists()


def test_bad_runs(folder: Path, splat: TinySplat, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def fails(message: str) -> None:
        assert segment(folder, "--view", "view_0", "--pixel", 24, 12) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.err.count("\n") == 1

    features = folder / "features.safetensors"
    FeatureField(splat.field.features, "0" * 16).save(features)
    fails("features.safetensors: expected features of the splat with fingerprint")
    features.write_bytes(features.read_bytes()[:50])
    fails("features.safetensors: expected a whole safetensors file")
    features.unlink()
    fails("features.safetensors: expected a finished fit")
    splat.field.save(features)
    (folder / "config.yaml").write_text("- a\n")
    fails("config.yaml: expected settings, found a list")
    (folder / "config.yaml").unlink()
    shutil.move(tmp_path / "run-capture", tmp_path / "elsewhere")
    fails("run-capture: expected the capture of")
    (folder / "scene.json").write_text(json.dumps({"scene": 3}))
    fails("scene.json: scene: expected a path, found 3")
    (folder / "scene.json").unlink()
    fails("expected a run folder (made by scripts/fit.py)")
