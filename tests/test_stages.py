"""A result belongs to its inputs: whatever it was made from changes, it is made anew, and a line says why; else not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splatseg.features import FeatureConfig
from splatseg.geometry import GeometryConfig
from splatseg.pipeline import Fit, FitConfig, FitInputs
from splatseg.sampling import SamplingConfig
from splatseg.stages import VERSIONS
from splatseg.synthetic import SceneConfig, write_scene

TINY = FitConfig(
    geometry=replace(GeometryConfig.preset("fast"), steps=4, max_gaussians=3000),
    features=FeatureConfig(dim=4, steps=3, sampling=SamplingConfig(pool_pixels=500, batch_pixels=500)),
)
OUTPUTS = {
    "geometry": "geometry.ply",
    "hierarchy": "hierarchy/train_000.jpg.npz",
    "features": "features.safetensors",
    "labels": "labels.ply",
    "sheet": "contact_sheet.png",
}


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small views with masks; the model as text, to be edited."""
    folder = tmp_path_factory.mktemp("capture") / "scene"
    write_scene(folder, SceneConfig(objects=2, views=4, test_views=1, width=64, height=48))
    write_text_model(folder / "sparse/0")
    return folder


@pytest.fixture(scope="module")
def finished(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with the capture beside it as ``scene``."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(capture, folder / "scene")
    fit(folder)
    return folder


@pytest.fixture
def room(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run and its capture, to be changed."""
    shutil.copytree(finished, tmp_path / "room")
    identity = tmp_path / "room/run/scene.json"
    identity.write_text(identity.read_text().replace(str(finished), str(tmp_path / "room")))
    return tmp_path / "room"


def write_text_model(folder: Path) -> None:
    import pycolmap

    pycolmap.Reconstruction(str(folder)).write_text(str(folder))
    for path in folder.glob("*.bin"):
        path.unlink()


def fit(room: Path, config: FitConfig = TINY) -> None:
    Fit(FitInputs(room / "scene", room / "run", str(room / "scene/masks_2d")), config, quiet=True).execute()


def changed(room: Path, act: Callable[[], object]) -> set[str]:
    """The stages whose result ``act`` wrote anew."""
    for name in OUTPUTS.values():
        os.utime(room / "run" / name, (1, 1))
    act()
    return {stage for stage, name in OUTPUTS.items() if (room / "run" / name).stat().st_mtime_ns != 10**9}


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change the fields of the first line of ``path`` that is no comment."""
    lines = path.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    lines[first] = " ".join(change(lines[first].split(" ")))
    path.write_text("\n".join(lines) + "\n")


def test_nothing_changed_nothing_is_done(room: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Labels and the sheet, too; photos and masks that were only touched or copied are the same."""
    for path in (*(room / "scene/images").iterdir(), *(room / "scene/masks_2d").iterdir()):
        os.utime(path, (5, 5))
    for _ in range(2):
        assert changed(room, lambda: fit(room)) == set()
    assert "anew" not in caplog.text


def photo(room: Path) -> None:
    path = room / "scene/images/train_001.jpg"
    size, times = path.stat().st_size, path.stat()
    with Image.open(path) as image:
        pixels = np.array(image)
    Image.fromarray(255 - pixels).save(path, quality=30)
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync -t and cp -p leave them


def poses(room: Path) -> None:
    def move(fields: list[str]) -> list[str]:
        return [*fields[:5], str(float(fields[5]) + 0.25), *fields[6:]]

    path = room / "scene/sparse/0/images.txt"
    lines = path.read_text().splitlines()
    found = next(i for i, line in enumerate(lines) if line.endswith("train_001.jpg"))
    lines[found] = " ".join(move(lines[found].split(" ")))
    path.write_text("\n".join(lines) + "\n")


def intrinsics(room: Path) -> None:
    edit(room / "scene/sparse/0/cameras.txt", lambda fields: [*fields[:4], str(float(fields[4]) * 1.1), *fields[5:]])


def points(room: Path) -> None:
    edit(room / "scene/sparse/0/points3D.txt", lambda fields: [fields[0], str(float(fields[1]) + 0.5), *fields[2:]])


@pytest.mark.parametrize("change", [photo, poses, intrinsics, points])
def test_a_changed_capture_is_fitted_anew(
    room: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """f581d69 kept the old splat when COLMAP's model changed; the second call then does nothing."""
    change(room)
    assert {"geometry", "features", "labels", "sheet"} <= changed(room, lambda: fit(room))
    name = {"photo": "photos"}.get(change.__name__, change.__name__)
    lines = [line for line in caplog.messages if line.startswith("geometry:")]
    assert lines == [f"geometry: {name} changed, fitted anew"]
    caplog.clear()
    assert changed(room, lambda: fit(room)) == set()
    assert "anew" not in caplog.text


def test_a_held_out_photo_is_measured_again_and_not_fitted(room: Path) -> None:
    before = json.loads((room / "run/metrics.json").read_text())["psnr_held_out"]
    (room / "scene/test_cameras.json").unlink()
    fit(room)  # every eighth of the photos is held out instead
    held_out = json.loads((room / "run/metrics.json").read_text())["psnr_held_out"]
    assert held_out != before
    with Image.open(room / "scene/images/train_000.jpg") as image:
        pixels = np.array(image)
    Image.fromarray(255 - pixels).save(room / "scene/images/train_000.jpg")
    assert changed(room, lambda: fit(room)) == {"sheet"}
    assert json.loads((room / "run/metrics.json").read_text())["psnr_held_out"] != held_out


@pytest.mark.parametrize("stage", ["geometry", "hierarchy", "features", "labels", "sheet"])
def test_other_code_makes_another_result(
    room: Path, stage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(VERSIONS, stage, VERSIONS[stage] + 1)
    assert stage in changed(room, lambda: fit(room))
    made = {"geometry": "fitted", "features": "fitted"}.get(stage, "made")
    assert f"{stage}: code changed, {made} anew" in caplog.messages
    assert changed(room, lambda: fit(room)) == set()


def test_a_run_of_an_older_version_is_fitted_anew_with_a_line(room: Path, caplog: pytest.LogCaptureFixture) -> None:
    stamp = room / "run/stages/geometry.json"
    old = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({"digest": "0123456789abcdef", "outputs": old["outputs"], "finished": "2026"}))
    assert "geometry" in changed(room, lambda: fit(room))
    assert "geometry: made by an older version of splatseg, fitted anew" in caplog.messages
    assert changed(room, lambda: fit(room)) == set()


def test_names_given_to_labels_are_kept(room: Path) -> None:
    """f581d69 clustered anew, and wrote over them, on every call."""
    path = room / "run/labels.json"
    path.write_text(path.read_text().replace('"name": "', '"name": "my ', 1))
    named = path.read_bytes()
    fit(room)
    assert path.read_bytes() == named
    fit(room, replace(TINY, clusters=replace(TINY.clusters, seed=TINY.clusters.seed + 1)))
    assert path.read_bytes() != named


def test_a_kill_while_a_result_is_written_leaves_none_of_other_inputs(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the new splat was written and before the stamp; then the old inputs again."""
    old = (room / "run/geometry.ply").read_bytes()
    other = replace(TINY, geometry=replace(TINY.geometry, steps=5))

    def killed(self: Fit, *arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(room, other)
    assert (room / "run/geometry.ply").read_bytes() != old
    fit(room)
    assert (room / "run/geometry.ply").read_bytes() == old
