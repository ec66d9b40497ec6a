"""Captures that went wrong, each through ``scripts/fit.py`` (``../shared/cases`` or $SPLATSEG_CASES).

``SPLATSEG_CHECKOUT=FOLDER`` fits them with another checkout: all of them fail on f581d69 (docs/development/trust.md).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from script_runner import run_script

from splatseg.fit.geometry import psnr
from splatseg.io.colmap import load_colmap
from splatseg.io.ply import load_gaussians
from splatseg.masks.hierarchy import HierarchyFolder

FEW = ["--preset", "fast", "--quiet", "--config.geometry.steps=60", "--config.features.steps=2"]
FEW += ["--config.features.sampling.pool-pixels=500", "--config.features.sampling.batch-pixels=500"]


def copied(cases: Path, name: str, to: Path) -> Path:
    if not (cases / name).is_dir():
        pytest.skip(f"no {name} in {cases}")
    shutil.copytree(cases / name, to / name)
    for path in (to / name, *(to / name).rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    return to / name


def fitted(scene: Path, *options: object) -> tuple[Path, dict[str, float]]:
    """The run of ``scene``, beside it, and its figures."""
    run = scene.parent / "run"
    assert run_script("fit.py", scene, "--out", run, *FEW, *options) == 0
    return run, json.loads((run / "metrics.json").read_text())


def hashes(folder: Path) -> dict[Path, str]:
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_absolute_names_leave_all_photos_as_they_are(cases: Path, tmp_path: Path) -> None:
    if not (cases / "make_absolute_names.py").is_file():
        pytest.skip(f"no make_absolute_names.py in {cases}")
    # In a process of its own: it imports pycolmap, and this one shall not need it.
    subprocess.run([sys.executable, cases / "make_absolute_names.py", tmp_path / "scene"], check=True, timeout=120)
    before = hashes(tmp_path / "scene")
    code = run_script("fit.py", tmp_path / "scene", "--out", tmp_path / "run", *FEW)
    assert hashes(tmp_path / "scene") == before and len(before) > 9
    assert code == 0
    assert len(list(HierarchyFolder(tmp_path / "run/hierarchy"))) == 7


def test_of_two_models_the_one_of_all_photos_is_fitted(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    scene = copied(cases, "two_models", tmp_path)
    run, _ = fitted(scene)
    assert len(list(HierarchyFolder(run / "hierarchy"))) == 7  # two of nine are held out
    assert "sparse/0 (3 photos), sparse/1 (9 photos); taking sparse/1" in caplog.text


@pytest.mark.parametrize("name", ["grey16", "text_names_with_spaces"])
def test_photos_come_out_as_they_are(cases: Path, tmp_path: Path, name: str) -> None:
    scene = copied(cases, name, tmp_path)
    run, figures = fitted(scene)
    assert figures["psnr_held_out"] > 12  # white or black photos, or lost ones, end far from it on either side
    assert figures["psnr_held_out"] < 40
    views = load_colmap(scene, cache=run / "cache").views
    assert len(views) == 9 and all(20 < float(view.image().float().mean()) < 235 for view in views)


def test_hidden_colors_are_not_trained(cases: Path, tmp_path: Path) -> None:
    scene = copied(cases, "rgba", tmp_path)
    run, figures = fitted(scene)
    assert figures["psnr_held_out"] > 12  # of what is shown
    views = load_colmap(scene, cache=run / "cache").views
    gaussians = load_gaussians(run / "geometry.ply")
    assert psnr(gaussians, views) > 12
    for view in views:
        alpha = np.array(Image.open(view.image_path).getchannel("A")) >= 128
        pixels, fitted_to = view.photo()
        assert fitted_to is not None and torch.equal(fitted_to, torch.from_numpy(alpha))
        assert not bool(pixels[~fitted_to].any())


def test_masks_of_distorted_photos_follow_them(cases: Path, tmp_path: Path) -> None:
    scene = copied(cases, "masks_of_distorted_photos", tmp_path)
    run, figures = fitted(scene, "--masks", scene / "masks_2d")
    assert figures["masks_per_view"] > 1
    for view in load_colmap(scene, cache=run / "cache").views[1:8]:
        hierarchy = HierarchyFolder(run / "hierarchy")[view.name]
        assert hierarchy.patch_ids.shape == (view.camera.height, view.camera.width)


def test_one_registered_view_is_fitted(cases: Path, tmp_path: Path) -> None:
    run, _ = fitted(copied(cases, "one_view", tmp_path))
    assert (run / "labels.ply").is_file() and (run / "contact_sheet.png").is_file()
