"""scripts/masks.py: all photos of a folder or scene, resumed, shared by processes, drawn, and written as COCO."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rank_launcher import RankLauncher
from script_runner import run_script
from test_colmap import make_scene
from test_sam_everything import LOOSE, build_sam, photo
from test_sam_source import tiny_model

from splatseg.core.errors import SplatsegError
from splatseg.core.palette import palette
from splatseg.core.scene import View
from splatseg.draw.mask_preview import (
    hierarchy_preview,
    mask_overlay,
    most_nested_pixel,
    patch_overlay,
    pixel_levels,
)
from splatseg.fit.masks_job import MaskJob, run_masks
from splatseg.masks import MaskSet
from splatseg.masks.cache import MaskCache
from splatseg.masks.sam.source import SamMasks

ROOT = Path(__file__).parent.parent


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five small photos, one in a folder below."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(["a.png", "b.png", "c.jpg", "d.png", "more/e.png"]):
        Image.fromarray(photo(48, 64, seed=i)).save(folder / name)
    return folder


def masks_script(photos: Path, *arguments: object) -> int:
    return run_script("masks.py", photos, "--out", photos.parent / "run", "--source", "watershed", *arguments)


def made(run: Path) -> Path:
    """The one folder of masks of the run."""
    (folder,) = (run / "masks").iterdir()
    return folder


def times(folder: Path) -> dict[str, int]:
    """Time of change of each mask file of the one source."""
    return {p.relative_to(folder).as_posix().partition("/")[2]: p.stat().st_mtime_ns for p in folder.rglob("*.npz")}


def test_all_outputs_and_resume(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cache, pictures and COCO of every photo; a second call makes nothing, a lost or stale file only is made anew."""
    run, coco = photos.parent / "run", photos.parent / "coco"
    assert masks_script(photos, "--preview", "--coco", coco) == 0
    captured = capsys.readouterr()
    assert "5 views: 5 made, 0 already there" in captured.out
    assert "5/5" in captured.err
    first = times(run / "masks")
    assert sorted(first) == ["a.png.npz", "b.png.npz", "c.jpg.npz", "d.png.npz", "more/e.png.npz"]
    for name in ("a.png", "more/e.png"):
        assert Image.open(made(run) / f"preview/{name}.masks.png").size == (64, 48)
        assert Image.open(made(run) / f"preview/{name}.hierarchy.png").height > 48
    records = json.loads((coco / "more/e.json").read_text())
    assert (MaskSet.from_coco(records).areas == [record["area"] for record in records]).all()

    assert masks_script(photos, "--preview", "--coco", coco, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert times(run / "masks") == first

    (made(run) / "b.png.npz").unlink()
    (made(run) / "c.jpg.npz").write_bytes((made(run) / "c.jpg.npz").read_bytes()[:100])  # cut off by a crash
    Image.fromarray(photo(48, 64, seed=9)).save(photos / "d.png")  # another photo under the same name
    assert masks_script(photos) == 0
    assert "5 views: 3 made, 2 already there" in capsys.readouterr().out
    changed = {name for name, time in times(run / "masks").items() if time != first.get(name)}
    assert changed == {"b.png.npz", "c.jpg.npz", "d.png.npz"}


def test_written_coco_is_a_source_again(photos: Path) -> None:
    """``--coco DIR`` and then ``--source DIR``, also for a photo in a folder below: the same masks, bit by bit."""
    coco, again = photos.parent / "coco", photos.parent / "again"
    assert masks_script(photos, "--coco", coco, "--quiet") == 0
    assert (coco / "masks_of.txt").read_text() == "original\n"
    assert run_script("masks.py", photos, "--out", again, "--source", coco, "--quiet") == 0
    for name in ("a.png.npz", "more/e.png.npz"):
        with np.load(made(photos.parent / "run") / name) as first, np.load(made(again) / name) as second:
            assert len(first["lengths"]) > 0
            for key in ("size", "lengths", "counts"):
                assert (first[key] == second[key]).all()


def test_coco_of_a_distorted_scene_says_that_it_is_of_undistorted_photos(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene", "OPENCV")
    for number, path in enumerate(sorted((tmp_path / "scene/images/sub").iterdir())):
        Image.fromarray(photo(48, 64, seed=number)).save(path)
    for _ in range(2):
        assert masks_script(tmp_path / "scene", "--coco", tmp_path / "coco", "--quiet") == 0
        assert (tmp_path / "coco/masks_of.txt").read_text() == "undistorted\n"
    options = ["--out", tmp_path / "again", "--source", tmp_path / "coco", "--quiet"]
    assert run_script("masks.py", tmp_path / "scene", *options) == 0
    first, second = made(tmp_path / "run"), made(tmp_path / "again")
    names = sorted(path.relative_to(first) for path in first.rglob("*.npz"))
    assert len(names) == 4
    for name in names:
        with np.load(first / name) as one, np.load(second / name) as other:
            assert all((one[key] == other[key]).all() for key in ("size", "lengths", "counts"))


def test_pictures_alone_use_the_stored_masks(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert masks_script(photos) == 0
    before = times(photos.parent / "run/masks")
    assert masks_script(photos, "--preview", "--pixel", 10, 20) == 0
    assert "5 views: 0 made, 5 already there" in capsys.readouterr().out
    assert times(photos.parent / "run/masks") == before
    assert len(list((made(photos.parent / "run") / "preview").rglob("*.hierarchy.png"))) == 5


def test_other_settings_make_other_masks(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert masks_script(photos) == 0
    assert masks_script(photos, "--watershed.min-area", 20) == 0
    assert capsys.readouterr().out.count("5 made") == 2
    for arguments in ([], ["--watershed.min-area", 20]):  # side by side: neither overwrote the other
        assert masks_script(photos, *arguments) == 0
    assert capsys.readouterr().out.count("0 made, 5 already there") == 2


def torchrun(photos: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Two gloo processes of the script."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "scripts/masks.py"), str(photos), "--source", "watershed", "--out", str(out), "--preview"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=500)


@pytest.mark.slow
def test_two_processes_share_the_work(photos: Path, tmp_path: Path) -> None:
    """A rank dies of an unreadable photo; the next run does what is left, and only that; no view is done twice."""
    out, good = tmp_path / "run", (photos / "d.png").read_bytes()
    arguments = [photos, "--source", "watershed", "--out", out, "--preview"]
    with RankLauncher() as launcher:
        (photos / "d.png").write_bytes(good[: len(good) // 2])  # header and size are fine, the pixels are not
        broken = launcher.run("masks", arguments, 2)
        assert any(broken.codes)
        assert any("error: " in told and "d.png: unreadable image" in told for told in broken.errors)
        first = times(out / "masks")
        assert "d.png.npz" not in first

        (photos / "d.png").write_bytes(good)
        mended = launcher.run("masks", arguments, 2)
    assert mended.codes == [0, 0], mended.errors
    assert f"5 views: {5 - len(first)} made, {len(first)} already there" in mended.output[0]
    second = times(out / "masks")
    assert len(second) == 5
    assert first.items() <= second.items()

    third = torchrun(photos, tmp_path / "other")
    assert "5 views: 5 made, 0 already there" in third.stdout
    records = [json.loads(line) for line in (tmp_path / "other/log.jsonl").read_text().splitlines()]
    assert sorted(r["view"] for r in records) == ["a.png", "b.png", "c.jpg", "d.png", "more/e.png"]
    assert {r["view"]: r["rank"] for r in records}["b.png"] == 1
    assert sorted(r["rank"] for r in records) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["--source", "segformer"], "masks: expected 'watershed', 'sam' or a folder of masks, found 'segformer'"),
        (["--source", "sam", "--sam-checkpoint", "none.pth"], "none.pth: expected a checkpoint file of vit_h, found"),
        (["--images", "nowhere"], "nowhere: expected a folder of images, found nothing"),
        (["--downscale", "2"], "downscale: expected 1 with a folder of images, found 2"),
        (["--preview", "--pixel", "64", "0"], "pixel: expected column in 0..63 and row in 0..47, found (64, 0)"),
    ],
)
def test_errors_are_one_line(
    photos: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = [arguments[0]] if arguments[0] == "nowhere" else [photos, *arguments]
    source = [] if "--source" in arguments else ["--source", "watershed"]
    assert run_script("masks.py", *scene, *source, "--out", photos.parent / "run", "--quiet") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith(("error: ", "Error: ")) and error.count("\n") == 1


def test_offline_without_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPLATSEG_OFFLINE", "1")
    monkeypatch.setenv("SPLATSEG_CACHE", str(tmp_path / "cache"))
    assert run_script("masks.py", photos, "--out", tmp_path / "run", "--preset", "fast", "--sam.model", "vit_b") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "sam_vit_b_01ec64.pth: not downloaded" in error
    assert str(tmp_path / "cache/sam_vit_b_01ec64.pth") in error


def test_colmap_scene(photos: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The registered photos of a real scene, from a folder of masks, reduced size."""
    scene = data_dir / "dev_kitchen"
    arguments = ["--source", scene / "masks_2d", "--out", photos.parent / "run", "--quiet"]
    assert run_script("masks.py", scene, *arguments) == 0
    assert len(times(photos.parent / "run/masks")) == len(list((scene / "masks_2d").iterdir()))


def test_coco_of_sam_keeps_its_scores(photos: Path, tmp_path: Path) -> None:
    """amg.py's fields for fresh masks; stored ones, which have no scores, still give what COCO asks for."""
    view = View("a.png", view_camera(64, 48), photos / "a.png")
    torch.save(build_sam().state_dict(), tmp_path / "tiny.pth")
    source = SamMasks(replace(LOOSE, checkpoint=tmp_path / "tiny.pth", device="cpu"), load=tiny_model)
    job = MaskJob(MaskCache(tmp_path / "masks", source), coco=tmp_path / "coco")
    summary = run_masks([view], job)
    assert (summary.made, summary.kept) == (1, 0)
    records = json.loads((tmp_path / "coco/a.json").read_text())
    assert len(records) == summary.masks > 3
    amg = {"segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"}
    assert all(set(record) == amg for record in records)
    assert all(record["predicted_iou"] > LOOSE.pred_iou_thresh for record in records)
    (tmp_path / "coco/a.json").unlink()
    assert run_masks([view], job).made == 0
    again = json.loads((tmp_path / "coco/a.json").read_text())
    assert [r["segmentation"] for r in again] == [r["segmentation"] for r in records]


def view_camera(width: int, height: int) -> object:
    from splatseg.core.camera import Camera

    return Camera(torch.eye(3), torch.eye(4), width, height)


# Pictures ------------------------------------------------------------------------------------------------------------


def nested() -> tuple[torch.Tensor, torch.Tensor]:
    """A 6 x 8 image: patch 1 in masks 0, 1 and 70; patch 2 in masks 1 and 70; patch 3 in mask 70; 0 in none."""
    ids = torch.zeros(6, 8, dtype=torch.int32)
    ids[1:5, 1:7] = 3
    ids[1:5, 1:5] = 2
    ids[2:4, 2:4] = 1
    membership = torch.zeros(4, 2, dtype=torch.int64)
    membership[1, 0], membership[2, 0] = 0b11, 0b10
    membership[1:, 1] = 1 << 6
    return ids, membership


def test_levels_of_a_click() -> None:
    """Each level holds the one before; the last is everything that shares a mask; patch 0 has none."""
    ids, membership = nested()
    found = pixel_levels(ids, membership, (2, 2))
    assert found.votes == (3, 2, 1)
    assert [int(mask.sum()) for mask in found.masks] == [4, 16, 24]
    outer = pixel_levels(ids, membership, (6, 1))
    assert outer.votes == (1,)
    assert torch.equal(outer.masks[0], ids > 0)
    assert len(pixel_levels(ids, membership, (0, 0)).masks) == 0
    with pytest.raises(SplatsegError, match=r"pixel: expected column in 0..7"):
        pixel_levels(ids, membership, (8, 0))


def test_most_nested_pixel() -> None:
    """Inside the patch of the most masks; in an image without masks any pixel will do."""
    ids, membership = nested()
    column, row = most_nested_pixel(ids, membership)
    assert ids[row, column] == 1
    assert most_nested_pixel(torch.zeros(3, 4, dtype=torch.int32), torch.zeros(1, 0, dtype=torch.int64)) is not None


def test_levels_use_the_top_bit() -> None:
    """Bit 63 is the sign of an int64 word."""
    membership = torch.tensor([[0], [-(2**63)]])
    found = pixel_levels(torch.ones(2, 2, dtype=torch.int32), membership, (0, 0))
    assert found.votes == (1,)


def test_overlays() -> None:
    """Pixels in no mask keep the photo's color, others do not; the outline is white; sizes are checked."""
    image = np.full((6, 8, 3), 100, np.uint8)
    dense = np.zeros((1, 6, 8), bool)
    dense[0, 1:5, 1:6] = True
    drawn = mask_overlay(image, MaskSet.from_dense(dense))
    assert (drawn[~dense[0]] == 100).all()
    assert (drawn[1, 1:6] == 255).all() and (drawn[2:4, 2:5] != 100).any(axis=-1).all()
    assert (mask_overlay(image, MaskSet.empty(6, 8)) == image).all()
    patches = patch_overlay(image, nested()[0])
    assert len(np.unique(patches.reshape(-1, 3), axis=0)) == 4
    assert len(np.unique(palette(200), axis=0)) > 150
    with pytest.raises(SplatsegError, match=r"image: expected shape \(6, 9, 3\)"):
        mask_overlay(image, MaskSet.empty(6, 9))


def test_hierarchy_preview_without_masks() -> None:
    """An image in which nothing was found still gets its picture: photo and patches, and no level."""
    image = np.full((40, 60, 3), 100, np.uint8)
    empty = torch.zeros(40, 60, dtype=torch.int32), torch.zeros(1, 0, dtype=torch.int64)
    assert hierarchy_preview(image, *empty).width == 2 * 320 + 3 * 4
    # three levels with it: two rows
    assert hierarchy_preview(np.full((6, 8, 3), 100, np.uint8), *nested()).height > 2 * 240


@pytest.mark.parametrize("scale", [1, 40, 200], ids=["enlarged", "as-it-is", "shrunk"])
def test_hierarchy_preview_shows_what_a_click_selects(scale: int) -> None:
    """Tiny, middling and large photos: panels of 320 to 640 pixels, patches and levels where they are in the photo."""
    ids, membership = nested()
    ids = ids.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    image = np.full((6 * scale, 8 * scale, 3), 100, np.uint8)
    click = 2 * scale + scale // 2, 2 * scale + scale // 2
    width = min(max(8 * scale, 320), 640)
    unit = width // 8
    sheet = np.array(hierarchy_preview(image, ids, membership, click))
    found = pixel_levels(*nested(), (2, 2))
    cell = sheet.shape[1] // 3, sheet.shape[0] // 2
    for panel, mask in enumerate(found.masks, start=2):
        left, top = panel % 3 * (width + 4) + 4, (panel // 3 + 1) * cell[1] - 4 - 6 * unit
        tile = sheet[top : top + 6 * unit, left : left + width].astype(int)
        centers = tile[unit // 3 :: unit, unit // 3 :: unit]
        orange = centers[..., 0] > centers[..., 2] + 50
        away = torch.ones_like(mask)
        away[1:4, 1:4] = False  # the ring of the click
        assert (orange == mask.numpy())[away.numpy()].all()
