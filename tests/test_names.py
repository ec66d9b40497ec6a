"""Names from files: where what belongs to a view is written, whatever it is called; nothing outside is touched."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from script_runner import run_script
from test_colmap import make_scene

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.scene import View
from splatseg.io import load_colmap
from splatseg.io.names import by_stem, check_distinct, run_path, safe_name
from splatseg.io.run import Run
from splatseg.io.sfm import photo_names as photos_of_sfm
from splatseg.masks import MaskSet
from splatseg.masks.files import FileMasks
from splatseg.masks.hierarchy import HierarchyFolder, build_hierarchy

HOSTILE = [
    "/abs/photo.png",
    "../photo.png",
    "a/../../photo.png",
    "..",
    ".",
    "./a.png",
    "a//b.png",
    "a/",
    r"..\photo.png",
    r"C:\captures\photo.png",
    ".hidden.png",
    "a/.tmp/b.png",
    ".x.1-00000000.tmp.png",
    "a.npz/b.png",
    "line\nbreak.png",
    "x" * 300 + ".png",
    "/".join(["d" * 100] * 20),
    "e\u0301.png",
    "tail.",
    "~0123456789abcdef.png",
]
pieces = st.sampled_from(
    ["..", ".", "", "a", "A", "b.png", "b.npz", "~0123456789abcdef", "ä", "a\u0308", " ", "\\", "x" * 200]
)
names = st.one_of(st.lists(pieces, min_size=1, max_size=5).map("/".join), st.text(max_size=30))


def usable(name: str) -> bool:
    try:
        safe_name(name)
    except SplatsegError:
        return False
    return True


@pytest.mark.parametrize("name", ["0001.jpg", "cam0/IMG_0001.JPG", "A-DJI 0001 (402).jpg", "Grün/Ø.png", "x.tar.gz"])
def test_a_plain_name_is_its_own_path(name: str) -> None:
    assert safe_name(name) == name and run_path("run", name, ".npz") == Path("run") / f"{name}.npz"


@pytest.mark.parametrize("name", ["", "  ", "a\0b.png", "\ud800.png"])
def test_what_no_file_can_be_called_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(SplatsegError, match="view name: expected") as caught:
        safe_name(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_files_inside(tmp_path: Path, name: str) -> None:
    path = run_path(tmp_path / "run", name, ".npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    assert path.resolve().parent == (tmp_path / "run").resolve() and not path.name.startswith(".")


@settings(max_examples=300, deadline=None)
@given(st.lists(names, min_size=2, max_size=6, unique=True))
def test_different_names_have_different_paths_inside(several: list[str]) -> None:
    several = [name for name in several if usable(name)]
    for paths in (
        [run_path("run", name, ".npz") for name in several],
        list(by_stem("run", several, ".png").values()),
    ):
        assert len(set(paths)) == len(paths)
        for path in paths:
            parts = path.parts
            assert parts[0] == "run" and ".." not in parts and not path.is_absolute()
            assert all(len(part.encode()) < 220 and not part.startswith(".") for part in parts)
        assert not any(a in b.parents for a in paths for b in paths)  # none is a folder where another is a file


def test_stems_that_meet_keep_their_suffixes_also_where_case_alone_differs() -> None:
    found = by_stem("m", ["a.jpg", "a.png", "b.jpg", "B.png", "c.jpg"], ".png")
    assert [path.name for path in found.values()] == ["a.jpg.png", "a.png.png", "b.jpg.png", "B.png.png", "c.png"]
    assert len(set(by_stem("m", ["a.jpg", "a.png", "a.jpg.png"], ".png").values())) == 3


def test_names_that_differ_by_case_are_refused_where_the_disk_cannot_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_distinct(["a.png", "A.png"], tmp_path)
    monkeypatch.setattr("splatseg.io.names._folds_case", lambda folder: True)
    with pytest.raises(SplatsegError, match=r"differ by more than case .* found 'a\.png' and 'A\.png'"):
        check_distinct(["a.png", "b.png", "A.png"], tmp_path)


def test_hierarchies_of_views_whose_last_parts_are_the_same(tmp_path: Path) -> None:
    folder = HierarchyFolder(tmp_path / "run/hierarchy")
    views = ["/left/1.png", "../1.png", "1.png"]
    for number, name in enumerate(views):
        build_hierarchy(MaskSet.empty(number + 1, 2)).save(folder.path(name))
    assert [folder[name].patch_ids.shape[0] for name in views] == [1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


# Whole scripts: every file around the capture is hashed before and after --------------------------------------


def hashes(folder: Path, without: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_relative_to(without)
    }


def renamed(folder: Path, model: str, new: list[str]) -> None:
    """A capture whose photos are called ``new`` in the model and are where those names lead."""
    scene = make_scene(folder, model, views=len(new))
    for image, name in zip(scene.images.values(), new, strict=True):
        target = folder / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "images" / image.name, target)
        image.name = name
    scene.write_binary(str(folder / "sparse/0"))


view_names = st.lists(
    st.sampled_from(
        ["/ABS/1.png", "../1.png", "../x/../1b.png", "a/1.png", "A/1.png", "./c.png", ".h.png", "d//1.png"]
    ),
    min_size=2,
    max_size=3,
    unique=True,
)


@settings(max_examples=4, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(new=view_names, model=st.sampled_from(["PINHOLE", "OPENCV"]))
def test_masks_and_previews_are_written_inside_the_run_alone(
    tmp_path_factory: pytest.TempPathFactory, new: list[str], model: str
) -> None:
    around = tmp_path_factory.mktemp("around")
    renamed(around / "scene", model, [name.replace("/ABS", str(around / "elsewhere")) for name in new])
    before, run = hashes(around, around / "run"), around / "run"
    arguments = ["--out", run, "--source", "watershed", "--preview", "--quiet"]
    codes = [run_script("masks.py", around / "scene", *arguments) for _ in range(2)]
    assert hashes(around, run) == before
    assert codes == [0, 0]
    assert len([path for path in (run / "masks").rglob("*.npz")]) == len(new)
    assert len(list((run / "masks").rglob("preview/**/*.masks.png"))) == len(new)


def test_a_fit_of_hostile_names_writes_inside_its_run_alone(tmp_path: Path) -> None:
    new = [str(tmp_path / "elsewhere/1.png"), "../1.png", "a/1.png", "A/1.png"]
    renamed(tmp_path / "scene", "OPENCV", new)
    before, run = hashes(tmp_path, tmp_path / "run"), tmp_path / "run"
    tiny = ["--preset", "fast", "--quiet", "--config.geometry.steps=2", "--config.features.steps=2"]
    code = run_script("fit.py", tmp_path / "scene", "--out", run, *tiny, "--config.hold-out-every", "0")
    assert hashes(tmp_path, run) == before
    assert code == 0
    assert run_script("export.py", run, "--again", "--quiet") == 0
    # What is clicked may be nothing after two steps (exit code 2): where files go is what counts here.
    assert run_script("segment.py", run, "--view", new[0], "--pixel", "30", "20", "--quiet") in (0, 2)
    assert hashes(tmp_path, run) == before
    assert len(list((run / "hierarchy").rglob("*.npz"))) == 4


def test_absolute_names_of_a_distorted_camera_leave_the_photos_alone(tmp_path: Path) -> None:
    """maturk/dn-splatter#36: COLMAP's undistorter writes to out/NAME, which an absolute name leads out of."""
    make_scene(tmp_path / "scene", "OPENCV")
    renamed(tmp_path / "scene", "OPENCV", [str(tmp_path / f"scene/images/{i}.png") for i in range(4)])
    before = hashes(tmp_path, tmp_path / "cache")
    for _ in range(2):
        scene = load_colmap(tmp_path / "scene", cache=tmp_path / "cache")
        assert all(view.image_path.is_relative_to(tmp_path / "cache") for view in scene.views)
        assert all(Path(view.name).is_absolute() for view in scene.views)
    assert hashes(tmp_path, tmp_path / "cache") == before


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "/" + "d/" * 3000 + "v.png", "a/" * 300 + "v.png"])
def test_names_too_long_for_any_file_are_one_line(tmp_path: Path, name: str) -> None:
    scene = make_scene(tmp_path / "scene", views=2)
    scene.images[1].name = name
    scene.write_binary(str(tmp_path / "scene/sparse/0"))
    for downscale in (1, 2):
        (tmp_path / "scene/images_2").mkdir(exist_ok=True)
        with pytest.raises(SplatsegError, match="image of view") as caught:
            load_colmap(tmp_path / "scene", downscale, tmp_path / "cache")
        assert "\n" not in str(caught.value)
    (tmp_path / "masks").mkdir()
    assert FileMasks(tmp_path / "masks").find(View(name, Camera(torch.eye(3), torch.eye(4), 2, 2), tmp_path)) is None


@pytest.mark.parametrize("name", [r"D:\shots\{}.png", "/home/other/shots/{}.png"])
def test_paths_of_another_machine_find_their_photos_here(tmp_path: Path, name: str) -> None:
    scene = make_scene(tmp_path / "scene")
    for number, image in enumerate(scene.images.values()):
        shutil.move(tmp_path / "scene/images" / image.name, tmp_path / f"scene/images/{number}.png")
        image.name = name.format(number)
    scene.write_binary(str(tmp_path / "scene/sparse/0"))
    views = load_colmap(tmp_path / "scene").views
    assert [view.image_path.name for view in views] == ["0.png", "1.png", "2.png", "3.png"]


def test_sfm_finds_the_same_photos_beside_its_own_run_twice(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (20, 30)).save(tmp_path / f"{number}.png")
    run = Run.open(tmp_path / "runs/it", {"scene": str(tmp_path), "downscale": 1})
    for _ in range(2):
        assert photos_of_sfm(tmp_path, run.sfm) == ["0.png", "1.png", "2.png"]
        for ours in ("contact_sheet.png", "cache/undistorted-0/images/0.png", "masks/preview/0.png.masks.png"):
            (run.folder / ours).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / "0.png", run.folder / ours)


def test_masks_of_a_photo_folder_that_holds_the_run_are_the_same_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 30, 3), np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    monkeypatch.chdir(tmp_path)
    for made in (3, 0):
        assert run_script("masks.py", ".", "--out", "run", "--source", "watershed", "--preview") == 0
        assert f"3 views: {made} made" in capsys.readouterr().out
