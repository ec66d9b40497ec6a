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
import torch
from PIL import Image
from script_runner import run_script

from splatseg.core.errors import SplatsegError
from splatseg.core.scene import View
from splatseg.fit.features import FeatureConfig
from splatseg.fit.geometry import GeometryConfig
from splatseg.fit.pipeline import Fit
from splatseg.fit.pixel_pools import SamplingConfig
from splatseg.fit.records import StageRecords
from splatseg.fit.settings import FitConfig, FitInputs
from splatseg.fit.stages import VERSIONS
from splatseg.io.colmap import load_colmap
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.io.run import Run
from splatseg.io.run_scene import load_run_scene
from splatseg.masks import MaskSet
from splatseg.masks.hierarchy import HierarchyFolder
from splatseg.masks.sam.source import SamMasks
from splatseg.segment.discretize import ClusterConfig
from splatseg.session import Workspace
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
    Fit(FitInputs(room / "scene", room / "run", str(room / "scene/masks_2d")), config).execute()


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


# Masks ---------------------------------------------------------------------------------------------------------------


def halves(self: SamMasks, view: View) -> MaskSet:
    dense = np.zeros((2, view.camera.height, view.camera.width), bool)
    dense[0, : view.camera.height // 2] = dense[1, :, : view.camera.width // 2] = True
    return MaskSet.from_dense(dense)


def masks_of(run: Path, name: str) -> dict[str, tuple[bytes, int]]:
    """Contents and times of the masks of source ``name``."""
    found = (run / "masks").glob(f"{name}-*/**/*.npz")
    return {str(path.relative_to(run)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_masks_made_ahead_are_taken_and_never_overwritten(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In f581d69 the fit's default, watershed, went over the masks of ``masks.py --source sam``. Later neither the
    weights nor the settings are needed."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SamMasks, "settings", lambda self: {**self.config.result_settings(), "weights": "0123"})
        patch.setattr(SamMasks, "masks", halves)
        assert run_script("masks.py", capture, "--out", run, "--preset", "fast", "--quiet") == 0
    made = masks_of(run, "sam")
    assert len(made) == 4
    monkeypatch.setenv("SPLATSEG_OFFLINE", "1")
    monkeypatch.setenv("SPLATSEG_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        Fit(FitInputs(capture, run), TINY).execute()
        assert [line for line in caplog.messages if "taking those of 'sam'" in line and "sam-" in line]
        caplog.clear()
        assert (
            HierarchyFolder(run / "hierarchy")["train_001.jpg"].membership.shape[0] == 4
        )  # one half, the other, both, none
        assert masks_of(run, "sam") == made and not masks_of(run, "watershed")
        Fit(FitInputs(capture, run, "watershed"), TINY).execute()
        assert "hierarchy: masks changed, made anew" in caplog.messages
        caplog.clear()
        assert masks_of(run, "sam") == made and len(masks_of(run, "watershed")) == 4
        shutil.rmtree(next((run / "masks").glob("watershed-*")))


def test_of_masks_made_ahead_the_newest_are_taken(
    capture: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Views that a killed ``masks.py`` left come from the same source and settings."""
    run = tmp_path / "run"
    arguments = ["masks.py", capture, "--out", run, "--source", "watershed", "--quiet", "--watershed.min-area"]
    for area in (20, 30, 20):
        assert run_script(*arguments, area) == 0
    newest = max((run / "masks").iterdir(), key=lambda folder: (folder / "source.json").stat().st_mtime_ns)
    assert len(list((run / "masks").iterdir())) == 2
    assert json.loads((newest / "source.json").read_text())["settings"]["min_area"] == 20
    before = (newest / "train_002.jpg.npz").read_bytes()
    (newest / "train_002.jpg.npz").unlink()
    Fit(FitInputs(capture, run), TINY).execute()
    assert f"in {newest}, the newest of 2" in caplog.text
    assert (newest / "train_002.jpg.npz").read_bytes() == before
    assert len(list((run / "masks").iterdir())) == 2


def test_masks_that_an_older_version_left_are_read(capture: Path, tmp_path: Path) -> None:
    """They lay in ``masks`` itself; hours of work are not done again."""
    run = tmp_path / "run"
    arguments = ["masks.py", capture, "--out", run, "--source", "watershed"]
    assert run_script(*arguments, "--quiet") == 0
    (folder,) = (run / "masks").iterdir()
    for path in folder.glob("*.npz"):
        path.rename(run / "masks" / path.name)
    shutil.rmtree(folder)
    old = {path: path.read_bytes() for path in (run / "masks").glob("*.npz")}
    assert run_script(*arguments, "--quiet") == 0
    assert not masks_of(run, "watershed") and len(old) == 4
    assert all(path.read_bytes() == content for path, content in old.items())


@pytest.mark.parametrize(("given", "points"), [([], 16), (["--sam.points-per-side", 32], 32)])
def test_an_explicit_option_beats_the_preset(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[object], points: int
) -> None:
    """32 is the default, too: in f581d69 ``--preset fast`` then gave 16."""
    monkeypatch.setattr(SamMasks, "settings", lambda self: {**self.config.result_settings(), "weights": "0123"})
    monkeypatch.setattr(SamMasks, "masks", halves)
    for order in ([*given, "--preset", "fast"], ["--preset=fine", "--preset=fast", *given]):
        out = tmp_path / f"run{len(order)}"
        assert run_script("masks.py", capture, "--out", out, "--quiet", *order) == 0
        (about,) = (out / "masks").glob("*/source.json")
        settings = json.loads(about.read_text())["settings"]
        assert settings["points_per_side"] == points and settings["crop_n_layers"] == 0


def test_an_explicit_setting_of_the_clusters_makes_labels_anew(room: Path) -> None:
    """Also one that equals the default, where the labels that are there were made with another."""
    assert run_script("export.py", room / "run", "--clusters.min-gaussians", 3000, "--quiet") == 0
    other = (room / "run/labels.json").read_bytes()
    assert run_script("export.py", room / "run", "--quiet") == 0
    assert (room / "run/labels.json").read_bytes() == other
    default, before = ClusterConfig().min_gaussians, (room / "run/labels.json").stat().st_mtime_ns
    assert run_script("export.py", room / "run", "--clusters.min-gaussians", default, "--quiet") == 0
    # Made anew; in so small a scene the labels may come out the same.
    assert (room / "run/labels.json").stat().st_mtime_ns > before


# The scene of a run --------------------------------------------------------------------------------------------------


def found_poses(room: Path) -> None:
    """As if SfM of the photos had found the poses, elsewhere than the model that the capture has."""
    shutil.copytree(room / "scene/sparse", room / "run/sfm/sparse")
    move_cameras(room / "run/sfm")
    config = room / "run/config.yaml"
    config.write_text(config.read_text().replace("sfm: false", "sfm: true"))


def move_cameras(scene: Path) -> None:
    lines = (path := scene / "sparse/0/images.txt").read_text().splitlines()
    for number, line in enumerate(lines):
        if line.endswith(".jpg"):
            fields = line.split(" ")
            lines[number] = " ".join([*fields[:5], str(float(fields[5]) + 3), *fields[6:]])
    path.write_text("\n".join(lines) + "\n")


def test_poses_found_by_sfm_are_those_that_the_viewer_and_scripts_see(room: Path) -> None:
    """The capture has a model, too: in f581d69 the viewer took that one."""
    found_poses(room)
    run = Run.existing(room / "run")
    theirs = load_colmap(room / "scene").views[0].camera.cam_from_world
    for _ in range(2):
        workspace = Workspace.open(room / "run")
        assert workspace.scene is not None
        ours = workspace.scene.views[0].camera.cam_from_world
        assert torch.equal(ours, load_run_scene(run).views[0].camera.cam_from_world)
        assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("sfm", [False, True])
def test_a_moved_capture_can_be_pointed_to(room: Path, sfm: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if sfm:
        found_poses(room)
    run = Run.existing(room / "run")
    before = load_run_scene(run).views
    (room / "scene").rename(room / "moved")
    click = ["segment.py", run.folder, "--view", "train_000", "--pixel", 30, 20, "--threshold", -1, "--quiet"]
    for _ in range(2):
        assert run_script(*click) == 2
        assert "was it moved? --scene says where it is now" in capsys.readouterr().err
        run_script(*click, "--scene", room / "moved")  # whether a splat of four steps is hit there is no matter
        assert "expected the capture" not in capsys.readouterr().err
        after = load_run_scene(run, room / "moved").views
        assert [view.name for view in after] == [view.name for view in before]
        for one, other in zip(after, before, strict=True):
            assert torch.equal(one.camera.cam_from_world, other.camera.cam_from_world)
            assert one.image_path.is_relative_to(room / "moved") and one.image().shape == (48, 64, 3)
        workspace = Workspace.open(run.folder, room / "moved")
        assert workspace.scene is not None and len(workspace.scene.views) == 4
    assert Workspace.open(run.folder).scene is None
    with pytest.raises(SplatsegError, match="nowhere: expected the capture of"):
        Workspace.open(run.folder, room / "nowhere")


# A kill --------------------------------------------------------------------------------------------------------------


def test_a_kill_while_a_result_is_written_leaves_none_of_other_inputs(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the new splat was written and before the stamp; then the old inputs again."""
    old = (room / "run/geometry.ply").read_bytes()
    other = replace(TINY, geometry=replace(TINY.geometry, steps=5))

    def killed(self: Fit, *arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StageRecords, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(room, other)
    assert (room / "run/geometry.ply").read_bytes() != old
    fit(room)
    assert (room / "run/geometry.ply").read_bytes() == old


# A capture elsewhere, and refusals -----------------------------------------------------------------------------------


def test_a_moved_capture_is_fitted_on_in_its_run(room: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On f581d69, and until frames were normalized, the new place was refused, whatever lay there."""
    (room / "scene").rename(room / "moved")
    masks = str(room / "moved/masks_2d")

    def again() -> None:
        Fit(FitInputs(room / "moved", room / "run", masks), TINY).execute()

    assert changed(room, again) == set()
    assert [line for line in caplog.messages if f"its capture is in {room / 'moved'} now" in line]
    caplog.clear()
    assert changed(room, again) == set() and caplog.messages == []
    assert load_run_scene(Run.existing(room / "run")).views[0].image_path.is_relative_to(room / "moved")
    points(room.joinpath("moved").rename(room / "scene").parent)  # back, and changed meanwhile
    assert "geometry" in changed(room, lambda: fit(room))
    assert "geometry: points changed, fitted anew" in caplog.messages
    assert run_script("masks.py", room / "scene", "--out", room / "run", "--source", "watershed", "--quiet") == 0
    (room / "scene").rename(room / "there")
    assert run_script("masks.py", room / "there", "--out", room / "run", "--source", "watershed", "--quiet") == 0
    assert len(list((room / "run/masks").glob("watershed-*"))) == 1


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_another_capture_does_not_take_over_a_run(room: Path, tmp_path: Path) -> None:
    """Photos under the same names with other contents; the run stays as it is, also where its capture is gone."""
    shutil.copytree(room / "scene", tmp_path / "other")
    for path in (tmp_path / "other/images").iterdir():
        with Image.open(path) as image:
            pixels = np.array(image)
        Image.fromarray(255 - pixels).save(path)
    before = contents(room / "run")
    for _ in range(2):
        with pytest.raises(SplatsegError, match=r"run: scene: .*other with 0 of its 4 photos; choose another --out"):
            Fit(FitInputs(tmp_path / "other", room / "run"), TINY).execute()
        assert run_script("masks.py", tmp_path / "other", "--out", room / "run", "--source", "watershed") == 2
        found = contents(room / "run")
        assert {name: found[name] for name in before if name != "lock"} == {
            name: before[name] for name in before if name != "lock"
        }
        shutil.rmtree(room / "scene", ignore_errors=True)


def test_found_poses_go_with_a_moved_capture_and_are_not_given_up_for_another(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their key was the place and times of the photos: with either another one, hours of SfM were deleted."""
    import pycolmap

    def reconstruct(images: Path, names: list[str], single: bool, masks: dict[str, Path], out: Path) -> None:
        reconstructed.append(images)
        (out / "database.db").write_bytes(b"features")
        shutil.copytree(room / "model", out / "sparse/0")

    reconstructed: list[Path] = []
    monkeypatch.setattr("splatseg.io.sfm._reconstruct", reconstruct)
    (room / "model").mkdir()
    pycolmap.Reconstruction(str(room / "scene/sparse/0")).write_binary(str(room / "model"))
    shutil.rmtree(room / "scene/sparse")
    run = room / "sfm-run"

    def again(scene: Path) -> None:
        Fit(FitInputs(scene, run, str(room / "masks"), sfm=True), TINY).execute()

    (room / "scene/masks_2d").rename(room / "masks")
    again(room / "scene")
    splat = (run / "geometry.ply").read_bytes()
    shutil.copytree(room / "scene", tmp_path / "other")
    for number, place in enumerate(("moved", "again")):
        (room / "scene" if number == 0 else room / "moved").rename(room / place)
        for path in (room / place / "images").iterdir():
            os.utime(path, (7, 7))
        again(room / place)
        assert len(reconstructed) == 1 and (run / "geometry.ply").read_bytes() == splat
        assert (run / "sfm/images").resolve() == room / place / "images"
    with Image.open(tmp_path / "other/images/train_001.jpg") as image:
        pixels = np.array(image)
    Image.fromarray(255 - pixels).save(tmp_path / "other/images/train_001.jpg")
    before = {name: content for name, content in contents(run).items() if name != "lock"}
    for _ in range(2):
        with pytest.raises(SplatsegError, match=r"expected the photos that its poses were found from.*another --out"):
            again(tmp_path / "other")
        assert {name: content for name, content in contents(run).items() if name != "lock"} == before


def _bytes(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: folder.joinpath(name).write_bytes(content)


def far_splat(folder: Path) -> None:
    gaussians = load_gaussians(folder / "geometry.ply")
    save_gaussians(folder / "geometry.ply", replace(gaussians, means=gaussians.means + 1000))


REFUSED: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no splat there": (lambda folder: (folder / "geometry.ply").unlink(), ("--splat", "geometry.ply")),
    "unreadable splat": (_bytes("geometry.ply", b"ply\nno"), ("--splat", "geometry.ply")),
    "splat of another frame": (far_splat, ("--splat", "geometry.ply")),
    "unreadable transform": (
        _bytes("t.json", b"{}"),
        ("--splat", "geometry.ply", "--splat-transform", "t.json"),
    ),
    "masks of no view": (lambda folder: (folder / "none").mkdir(), ("--masks", "none")),
    "no weights": (lambda folder: None, ("--masks", "sam")),
    "damaged model": (_bytes("scene/sparse/0/images.txt", b"1 2 3"), ()),
    "no model": (lambda folder: shutil.rmtree(folder / "scene/sparse"), ()),
    "missing photo": (lambda folder: (folder / "scene/images/train_002.jpg").unlink(), ()),
    "photo that breaks off": (_bytes("scene/images/train_002.jpg", b"\xff\xd8\xff\xe0"), ()),
    "photo whose end is missing": (
        lambda folder: os.truncate(folder / "scene/images/train_002.jpg", 900),
        ("--config.geometry.steps=12",),  # every photo is looked at
    ),
    "broken test cameras": (_bytes("scene/test_cameras.json", b"{"), ()),
    "photos of nothing in common": (
        lambda folder: [p.unlink() for p in (folder / "scene/images").glob("train_00[123].jpg")],
        ("--sfm",),
    ),
}
ONCE_STARTED = ("photo whose end is missing", "photos of nothing in common")  # found while the first stage works


@pytest.mark.parametrize(
    ("case", "out"),
    [(case, "deep/er/new") for case in REFUSED]
    + [(case, "run") for case in REFUSED if case not in ONCE_STARTED]
    + [("unreadable splat", "empty"), ("unreadable splat", "new")],
)
def test_a_refusal_leaves_no_run_and_changes_none(
    room: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
    out: str,
) -> None:
    """Before, ``config.yaml``, ``scene.json`` and a cache were left, which the next ``--out`` then stumbled over."""
    monkeypatch.chdir(room)
    monkeypatch.setenv("SPLATSEG_OFFLINE", "1")
    monkeypatch.setenv("SPLATSEG_CACHE", str(tmp_path / "weights"))
    shutil.copy(room / "run/geometry.ply", room / "geometry.ply")
    (room / "empty").mkdir()
    (room / "empty/.hidden").write_text("mine")
    act, options = REFUSED[case]
    act(room)
    (room / "run/lock").unlink()
    before, folders = contents(room), sorted(p for p in room.rglob("*") if p.is_dir())
    for _ in range(2):
        assert run_script("fit.py", "scene", "--out", out, "--quiet", "--preset", "fast", *options) == 2
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(error) == 1
        (room / "run/lock").unlink(missing_ok=True)
        assert contents(room) == before
        if out != "run":
            assert sorted(p for p in room.rglob("*") if p.is_dir()) == folders


def test_what_took_time_is_kept_though_a_later_stage_is_refused(room: Path, tmp_path: Path) -> None:
    (room / "scene/masks_2d").rename(room / "masks")
    for path in (room / "masks").rglob("*.*"):
        path.write_bytes(b"no masks")
    arguments = ["fit.py", room / "scene", "--out", tmp_path / "kept", "--quiet", "--preset", "fast"]
    arguments += ["--config.geometry.steps=3", "--masks", room / "masks"]
    for _ in range(2):
        assert run_script(*arguments) == 2
        assert (tmp_path / "kept/geometry.ply").is_file() and (tmp_path / "kept/config.yaml").is_file()
