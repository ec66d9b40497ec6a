"""What tests/campaign.py found, each kind once: damage that came out as a traceback, or as a wrong state taken up."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from campaign_bases import TINY
from known_run import make_run
from PIL import Image
from script_runner import run_script
from test_colmap import make_scene

from splatseg.core import reading
from splatseg.core.atomic import remove_leftovers, temporary_name
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.label_tree import LabelNode, LabelTree
from splatseg.core.photos import read_photo
from splatseg.core.scene import View
from splatseg.fit.pipeline import Fit
from splatseg.fit.settings import FitInputs
from splatseg.fit.splat_transform import read_splat_transform
from splatseg.io import colmap_text, colmap_undistort
from splatseg.io.colmap import load_colmap
from splatseg.io.labels import load_labels, save_labels
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.io.run import Run
from splatseg.io.run_scene import read_config
from splatseg.io.test_cameras import held_out_views, read_object
from splatseg.masks.files import FileMasks, load_array
from splatseg.masks.hierarchy import PatchHierarchy
from splatseg.session import Session, store
from splatseg.synthetic import SceneConfig, write_scene

ENDED = 2**22 + 1  # the number of no process: above the largest that Linux gives


def view(path: Path) -> View:
    return View("v.png", Camera(torch.eye(3), torch.eye(4), 4, 3), path)


def test_an_array_that_claims_a_terabyte_is_refused_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((3, 4), np.uint8))
    data = (tmp_path / "v.npy").read_bytes()
    shape = b"(3, 99999999999999), }"
    start = data.index(b"(3, 4), }")
    (tmp_path / "v.npy").write_bytes(data[:start] + shape + data[start + len(shape) :])
    for _ in range(2):
        with pytest.raises(SplatsegError, match=r"v\.npy: unreadable array"):
            FileMasks(tmp_path).masks(view(tmp_path))


def test_deep_json_is_refused_by_name(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {"scene": "a"})
    (run.folder / "scene.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    for _ in range(2):
        with pytest.raises(SplatsegError, match=r"scene\.json: expected the settings of a run"):
            run.scene_settings()


def test_an_error_that_quotes_a_parser_is_one_line(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {})
    run.config.write_text("a: [1,\nb: }")
    with pytest.raises(SplatsegError, match=r"config\.yaml: expected YAML") as caught:
        read_config(run)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("bit", [0, 7])
def test_a_checkpoint_with_a_flipped_bit_is_not_taken_up(tmp_path: Path, bit: int) -> None:
    """torch.load does not compare the check sums that torch.save writes: the fit went on from other numbers."""
    run = Run.open(tmp_path / "run", {})
    run.save_checkpoint("geometry", {"x": torch.arange(1000, dtype=torch.float32)})
    path = run.checkpoint_path("geometry")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = data.index(archive.read(next(n for n in archive.namelist() if n.endswith("data/0"))))
    data[at + 400] ^= 1 << bit
    path.write_bytes(bytes(data))
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"geometry\.pt: unreadable checkpoint ignored"):
            assert run.load_checkpoint("geometry") is None


def rewritten(path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    """The archive written anew, with right check sums, of what ``change`` makes of its members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in change(members).items():
            archive.writestr(name, content)


def ending(members: dict[str, bytes], name: str) -> str:
    return next(found for found in members if found.endswith(name))


def swapped(members: dict[str, bytes]) -> dict[str, bytes]:
    one, other = ending(members, "data/0"), ending(members, "data/1")
    return {**members, one: members[other], other: members[one]}


def changed_number(members: dict[str, bytes]) -> dict[str, bytes]:
    name = ending(members, "data/0")
    return {**members, name: np.float32(7).tobytes() + members[name][4:]}


def changed_step(members: dict[str, bytes]) -> dict[str, bytes]:
    name = ending(members, "data.pkl")
    assert members[name].count(b"K\x11") == 1  # 17, as pickle writes it
    return {**members, name: members[name].replace(b"K\x11", b"K\x12")}


def another_name(members: dict[str, bytes]) -> dict[str, bytes]:
    name = ending(members, "data.pkl")
    return {**members, name: members[name].replace(b"moments", b"momentS")}


@pytest.mark.parametrize("change", [swapped, changed_number, changed_step, another_name])
def test_a_checkpoint_written_anew_with_right_check_sums_is_not_taken_up(
    tmp_path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]
) -> None:
    """11 of 10,000 mutations: the check sums of a zip are of its members, not of what was saved."""
    run = Run.open(tmp_path / "run", {})
    state = {"step": 17, "x": torch.arange(10, dtype=torch.float32), "moments": {"a": torch.ones(10)}}
    run.save_checkpoint("geometry", state)
    path = run.checkpoint_path("geometry")
    rewritten(path, lambda members: members)
    kept = run.load_checkpoint("geometry")
    assert kept is not None and kept["step"] == 17 and torch.equal(kept["x"], state["x"])
    rewritten(path, change)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"geometry\.pt: .* ignored, stage geometry starts anew"):
            assert run.load_checkpoint("geometry") is None


def test_a_changed_feature_is_refused_by_name(tmp_path: Path) -> None:
    """safetensors has no check sums: a flipped bit was another feature."""
    path = tmp_path / "features.safetensors"
    FeatureField(torch.ones(20, 4), "of a splat").save(path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    for _ in range(2):
        with pytest.raises(SplatsegError, match=r"features\.safetensors: expected the tensors that were") as said:
            FeatureField.load(path)
        assert "\n" not in str(said.value)


def test_a_checkpoint_of_no_records_is_not_taken_up(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {})
    run.checkpoints.mkdir()
    with zipfile.ZipFile(run.checkpoint_path("geometry"), "w"):
        pass
    with pytest.warns(UserWarning, match="ignored"):
        assert run.load_checkpoint("geometry") is None


def test_a_damaged_member_of_an_archive_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "h.npz"
    np.savez_compressed(path, format=np.array(1), rows=np.zeros((30, 40), np.uint16), membership=np.zeros((1, 1), int))
    data = bytearray(path.read_bytes())
    data[data.index(b"rows.npy") + 12 : data.index(b"rows.npy") + 60] = b"\xff" * 48
    (tmp_path / "v.npz").write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SplatsegError, match=r"v\.npz"):
            PatchHierarchy.load(tmp_path / "v.npz")


def test_a_downscale_that_is_no_number_is_named(tmp_path: Path) -> None:
    from splatseg.io.run_scene import load_run_scene

    (tmp_path / "scene").mkdir()
    run = Run.open(tmp_path / "run", {"scene": str(tmp_path / "scene"), "downscale": 1})
    (run.folder / "scene.json").write_text(json.dumps({"scene": str(tmp_path / "scene"), "downscale": "word"}))
    with pytest.raises(SplatsegError, match=r"scene\.json: downscale: expected a whole number .*, found 'word'"):
        load_run_scene(run)


@pytest.mark.parametrize("change", [{"id": 1 << 40}, {"id": -1}, {"color": (300, 0, 0)}, {"id": 10**400}])
def test_a_label_that_no_table_can_hold_is_refused(change: dict[str, object]) -> None:
    fields: dict[str, object] = {"id": 1, "parent": 0, "level": 0, "count": 1, "name": "a", "color": (1, 2, 3)}
    LabelTree(np.ones((2, 1), np.int32), (LabelNode(**fields),))  # type: ignore[arg-type]
    with pytest.raises(SplatsegError, match="nodes: expected ids in"):
        LabelTree(np.ones((2, 1), np.int32), (LabelNode(**{**fields, **change}),))  # type: ignore[arg-type]


def test_what_a_killed_undistortion_left_is_removed(tmp_path: Path) -> None:
    """Its folder had a name that the clean-up does not know: a kill there left it in the cache for good."""
    make_scene(tmp_path / "scene", "OPENCV", views=2)
    cache = tmp_path / "cache"
    for name in ("undistorted-0123", "undistorted-4567"):
        dead = temporary_name(cache / name)
        dead = dead.with_name(dead.name.replace(f".{os.getpid()}-", f".{ENDED}-"))
        (dead / "out/images").mkdir(parents=True)
    load_colmap(tmp_path / "scene", cache=cache)
    assert [path.name for path in cache.iterdir() if ".tmp" in path.name] == []


def test_the_folder_of_an_undistortion_is_one_that_the_clean_up_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_scene(tmp_path / "scene", "OPENCV", views=2)
    made: list[str] = []
    write = colmap_undistort.write_cameras_and_images

    def noted(folder: Path, *rest: Any) -> None:
        made.append(folder.parent.name)
        write(folder, *rest)

    monkeypatch.setattr(colmap_undistort, "write_cameras_and_images", noted)
    load_colmap(tmp_path / "scene", cache=tmp_path / "cache")
    assert made and all(f".{os.getpid()}-" in name for name in made)
    (tmp_path / "later" / made[0].replace(f".{os.getpid()}-", f".{ENDED}-")).mkdir(parents=True)
    remove_leftovers(tmp_path / "later")
    assert not list((tmp_path / "later").iterdir())


def test_a_killed_masks_job_leaves_nothing_for_good(tmp_path: Path) -> None:
    """scripts/masks.py did not look for what a killed call was writing, in the run and in the folder of COCO files."""
    make_scene(tmp_path / "scene", views=2)
    arguments = [tmp_path / "scene", "--source", "watershed", "--quiet"]
    arguments += ["--out", tmp_path / "run", "--coco", tmp_path / "coco"]
    assert run_script("masks.py", *arguments) == 0
    (folder,) = (path for path in (tmp_path / "run/masks").iterdir() if path.is_dir())
    for place in (tmp_path / "run/scene.json", folder / "sub/v0.png.npz", tmp_path / "coco/sub/v0.json"):
        assert place.parent.is_dir()
        mine = temporary_name(place)
        mine.with_name(mine.name.replace(f".{os.getpid()}-", f".{ENDED}-")).touch()
    living = temporary_name(folder / "sub/v1.png.npz")
    living.touch()
    for _ in range(2):
        assert run_script("masks.py", *arguments) == 0
        assert [path for path in tmp_path.rglob("*.tmp*")] == [living]


# Pipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [reading.regular, reading.read_bytes, reading.read_text, reading.read_json])
def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path: Path, read: Callable[[Path], object]) -> None:
    """A pipe was waited for, a device read without end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero"), tmp_path):
        for _ in range(2):
            with pytest.raises(OSError, match="no regular file"):
                read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
    (tmp_path / "file").write_text("[1]")
    (tmp_path / "right").symlink_to("file")
    read(tmp_path / "right")


def test_pipes_in_the_place_of_inputs_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("test_cameras.json", "h.npz", "v.npy", "points.ply", "transform.json"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "v").mkdir()
    os.mkfifo(tmp_path / "v/0.png")
    (tmp_path / "v.npy").rename(tmp_path / "a.npy")
    readers: dict[str, Callable[[Path], object]] = {
        "test_cameras.json": read_object,
        "h.npz": PatchHierarchy.load,
        "a.npy": load_array,
        "points.ply": load_gaussians,
        "transform.json": read_splat_transform,
        "v": lambda path: FileMasks(path.parent).masks(view(path)),
    }
    for name, read in readers.items():
        with pytest.raises(SplatsegError, match=name):
            read(tmp_path / name)


# Kills -----------------------------------------------------------------------------------------------------------


def test_a_kill_between_a_stage_and_its_checkpoint_leaves_no_checkpoint(tmp_path: Path) -> None:
    """The stage was done, so nobody looked at its checkpoint again: it stayed in the run for good."""
    write_scene(tmp_path / "scene", SceneConfig(objects=2, views=4, test_views=1, width=64, height=48))
    inputs = FitInputs(tmp_path / "scene", tmp_path / "run", str(tmp_path / "scene/masks_2d"), device="cpu")
    Fit(inputs, TINY).execute()
    run = Run.existing(tmp_path / "run")
    for _ in range(2):
        for stage in ("geometry", "features"):
            run.save_checkpoint(stage, {"digest": "of the stage that is done", "state": {}})
        Fit(inputs, TINY).execute()
        assert list(run.checkpoints.iterdir()) == []


# Values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "column", "words"),
    [
        ("cameras.txt", 4, "sparse/0: view 'sub/v0.png': camera.K: expected finite"),
        ("images.txt", 5, "sparse/0: view 'sub/v0.png': camera.cam_from_world: expected finite"),
        ("points3D.txt", 1, "sparse/0: points.xyz: expected finite"),
    ],
)
def test_values_that_float32_cannot_hold_are_refused_with_their_file(
    tmp_path: Path, name: str, column: int, words: str
) -> None:
    make_scene(tmp_path / "scene", views=3, text=True)
    path = tmp_path / "scene/sparse/0" / name
    lines = path.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and line[0] != "#")
    fields = lines[first].split()
    fields[column] = "1e39"
    path.write_text("\n".join([*lines[:first], " ".join(fields), *lines[first + 1 :]]) + "\n")
    for _ in range(2):
        with pytest.raises(SplatsegError, match=words):
            load_colmap(tmp_path / "scene")


def image_of(turn: list[list[float]]) -> dict[str, Any]:
    return {"name": "a.jpg", "R": turn, "t": [0.0, 0.0, 0.0]}


SQUARE = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": [image_of([[2.0, 0.0, 0.0], *SQUARE[1:]])]}, "image 'a.jpg': R: expected a rotation"),
        ({"images": [image_of([[-1.0, 0.0, 0.0], *SQUARE[1:]])]}, "image 'a.jpg': R: expected a rotation"),
        ({"images": [image_of([[1e308, 1e308, 0.0], *SQUARE[1:]])]}, "image 'a.jpg': R: expected a rotation"),
        ({"images": [image_of([[float("nan"), 0.0, 0.0], *SQUARE[1:]])]}, "image 'a.jpg': expected finite R and t"),
        ({"params": [0.0, 60.0, 32.0, 24.0]}, "params: expected positive focal lengths"),
        ({"params": [1e39, 60.0, 32.0, 24.0]}, "image 'a.jpg': camera.K: expected finite"),
        ({"width": 64.5}, "width, height: expected whole numbers"),
        ({"images": [{"name": 3, "R": SQUARE, "t": [0, 0, 0]}]}, "images: expected each with a name"),
        ({"images": 7}, "expected camera fields"),
    ],
)
def test_test_cameras_that_no_camera_can_be_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """A matrix that is no rotation was taken."""
    content = {"model": "PINHOLE", "width": 64, "height": 48, "params": [60.0, 60.0, 32.0, 24.0]}
    content["images"] = [image_of(SQUARE)]
    path = tmp_path / "test_cameras.json"
    path.write_text(json.dumps(content))
    assert len(held_out_views(tmp_path)[1]) == 1
    path.write_text(json.dumps({**content, **change}))
    for _ in range(2):
        with pytest.raises(SplatsegError, match=rf"test_cameras\.json: {words}"):
            held_out_views(tmp_path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("positive_0", np.zeros((1, 3), np.float32)),
        ("positive_0", np.zeros((0, 9), np.float32)),
        ("positive_0", np.zeros(9, np.float32)),
        ("negative_0", np.zeros((1, 3), np.float32)),
        ("negative_0", np.full((1, 9), np.nan, np.float32)),
        ("positive_0", np.full((1, 9), "a")),
        ("fixed", np.zeros(3, np.uint8)),
        ("ids", np.zeros((2, 2), np.int32)),
    ],
)
def test_a_session_with_arrays_of_other_shapes_is_refused_by_name(
    tmp_path: Path, name: str, values: np.ndarray
) -> None:
    """Negative features of another length were a traceback of the product of the two."""
    known = make_run(tmp_path)
    session = Session(known.workspace)
    session.click_gaussian(5)
    session.save("mine")
    path = known.workspace.session_path("mine")
    field, weights = known.workspace.field, known.workspace.weights
    assert field.dim == 9
    store.load(path, field, weights)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    assert name in arrays
    np.savez(path, **{**arrays, name: values})  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(SplatsegError, match=r"mine\.npz: expected a whole session of this splat"):
            store.load(path, field, weights)


def test_a_fault_of_ours_in_reopening_a_session_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What wrapped the reading wrapped all that was made of it: a bug there was said to be a damaged file."""
    known = make_run(tmp_path)
    session = Session(known.workspace)
    session.click_gaussian(5)
    session.save("mine")

    def fault(*arguments: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(store.Pick, "of", fault)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        store.load(known.workspace.session_path("mine"), known.workspace.field, known.workspace.weights)


def test_a_scale_whose_exponential_is_infinite_is_refused_by_name(tmp_path: Path) -> None:
    """It was taken up, and refused without the file's name when it was drawn."""
    path = tmp_path / "splat.ply"
    gaussians = make_run(tmp_path).splat.gaussians
    sizes = gaussians.log_scales.clone()
    sizes[3, 1] = 88.6
    save_gaussians(path, replace(gaussians, log_scales=sizes))
    assert bool(load_gaussians(path).log_scales.exp().isfinite().all())
    sizes[3, 1] = 89.0
    save_gaussians(path, replace(gaussians, log_scales=sizes))
    for _ in range(2):
        with pytest.raises(SplatsegError, match=r"splat\.ply: property scale_1: expected at most 88\.7.*row 3"):
            load_gaussians(path)


def test_an_object_that_holds_a_gaussian_twice_is_refused(tmp_path: Path) -> None:
    known = make_run(tmp_path)
    session = Session(known.workspace)
    session.click_gaussian(5)
    session.keep("a")
    session.save("mine")
    path = known.workspace.session_path("mine")
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    arrays["ids"][1] = arrays["ids"][0]
    np.savez(path, **arrays)
    for _ in range(2):
        with pytest.raises(SplatsegError, match=r"mine\.npz: .*ids: expected each Gaussian of an object once"):
            store.load(path, known.workspace.field, known.workspace.weights)


def test_sidecar_labels_of_another_number_of_gaussians_are_refused(tmp_path: Path) -> None:
    gaussians = make_run(tmp_path).splat.gaussians
    node = LabelNode(id=1, parent=0, level=0, count=len(gaussians), name="a", color=(1, 2, 3))
    path = tmp_path / "plain.ply"
    save_labels(path, gaussians, LabelTree(np.ones((len(gaussians), 1), np.int32), (node,)), sidecar=True)
    load_labels(path, gaussians)
    np.savez(path.with_suffix(".npz"), label_0=np.ones(len(gaussians) - 1, np.int32))
    for _ in range(2):
        with pytest.raises(SplatsegError, match=rf"expected labels of {len(gaussians)} Gaussians"):
            load_labels(path, gaussians)


def test_a_palette_photo_without_its_palette_is_refused_by_name(tmp_path: Path) -> None:
    """Pillow asserts that there is one."""
    path = tmp_path / "photo.png"
    Image.fromarray(np.zeros((3, 4), np.uint8)).convert("P").save(path)
    data = path.read_bytes()
    start = data.index(b"PLTE") - 4
    path.write_bytes(data[:start] + data[start + 12 + int.from_bytes(data[start : start + 4], "big") :])
    for _ in range(2):
        with pytest.raises(SplatsegError, match=r"photo\.png: unreadable image of view 'v'"):
            read_photo(path, "v")


def test_a_label_tree_without_levels_is_refused(tmp_path: Path) -> None:
    gaussians = make_run(tmp_path).splat.gaussians
    node = LabelNode(id=1, parent=0, level=0, count=len(gaussians), name="a", color=(1, 2, 3))
    path = tmp_path / "labels.ply"
    save_labels(path, gaussians, LabelTree(np.ones((len(gaussians), 1), np.int32), (node,)))
    content = json.loads(path.with_suffix(".json").read_text())
    for levels in (0, -3):
        path.with_suffix(".json").write_text(json.dumps({**content, "levels": levels}))
        with pytest.raises(SplatsegError, match=r"labels\.json: levels: expected at least 1, found"):
            load_labels(path, gaussians)


def test_whole_numbers_that_no_field_can_hold_are_refused() -> None:
    assert colmap_text.integers("images.txt: line 2", [str(2**63 - 1), str(-(2**63))]) == [2**63 - 1, -(2**63)]
    for number in (2**63, -(2**70)):
        with pytest.raises(SplatsegError, match=r"images\.txt: line 2: expected numbers of 64 bits, found"):
            colmap_text.integers("images.txt: line 2", ["1", str(number)])


def test_a_downscale_beyond_any_photo_is_refused(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene", "PINHOLE", views=2)
    for downscale in (0, 10**6, 10**300):
        with pytest.raises(SplatsegError, match="downscale: expected"):
            load_colmap(tmp_path / "scene", downscale, tmp_path / "cache")
