"""Photos without poses: real ones register and open as a scene; what cannot work says so in one line."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splatseg.core.errors import SplatsegError
from splatseg.io import load_colmap, run_sfm
from splatseg.io.sfm import is_sfm_of


def noise_photos(folder: Path, count: int = 3, size: tuple[int, int] = (160, 120)) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"p{index}.png")
    return folder


@pytest.mark.slow
def test_six_photos_of_the_fox_register_and_a_second_call_returns_at_once(data_dir: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted((data_dir / "fox" / "images").iterdir())[:6]:
        shutil.copy(path, photos)
    scene_folder = run_sfm(photos, tmp_path / "sfm")
    model = scene_folder / "sparse/0/images.bin"
    written = model.stat().st_mtime_ns
    assert run_sfm(photos, tmp_path / "sfm") == scene_folder and model.stat().st_mtime_ns == written
    # SIMPLE_RADIAL was fitted, so the scene is undistorted on loading.
    scene = load_colmap(scene_folder, cache=tmp_path / "cache")
    assert len(scene.views) >= 5 and len(scene.points.xyz) > 300
    assert all(view.image().shape[:2] == (view.camera.height, view.camera.width) for view in scene.views)
    # The published model of the same photos has the same poses up to a similarity: compare distances as ratios.
    reference = load_colmap(data_dir / "fox")
    names = [view.name for view in scene.views]
    ours = np.array([view.camera.position.numpy() for view in scene.views])
    theirs = np.array([reference.view(name).camera.position.numpy() for name in names])
    a = np.linalg.norm(ours[:, None] - ours[None], axis=-1)
    b = np.linalg.norm(theirs[:, None] - theirs[None], axis=-1)
    off = ~np.eye(len(names), dtype=bool)
    ratio = a[off] / b[off]
    assert ratio.std() / ratio.mean() < 0.1


def test_photos_that_show_nothing_in_common_are_refused(tmp_path: Path) -> None:
    photos = noise_photos(tmp_path / "photos")
    with pytest.raises(SplatsegError, match=r"photos: expected photos that (overlap|can be registered), found no") as e:
        run_sfm(photos, tmp_path / "sfm")
    assert "\n" not in str(e.value) and not (tmp_path / "sfm/sparse/0").exists()


def test_missing_folder_single_photo_and_unreadable_photo_are_named(tmp_path: Path) -> None:
    with pytest.raises(SplatsegError, match="none: expected a folder of photos, found nothing"):
        run_sfm(tmp_path / "none", tmp_path / "sfm")
    photos = noise_photos(tmp_path / "photos", count=1)
    with pytest.raises(SplatsegError, match=r"expected at least 2 photos .* found 1"):
        run_sfm(photos, tmp_path / "sfm")
    (photos / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(SplatsegError, match=r"broken\.jpg: expected a readable photo"):
        run_sfm(photos, tmp_path / "sfm")
    assert not (tmp_path / "sfm").exists()


def test_other_photos_start_the_workspace_anew(tmp_path: Path) -> None:
    (tmp_path / "sfm/sparse/0").mkdir(parents=True)
    (tmp_path / "sfm/sparse/0/images.bin").write_bytes(b"of other photos")
    (tmp_path / "sfm/sfm.digest").write_text("0123456789abcdef")
    with pytest.raises(SplatsegError, match="expected photos that"):
        run_sfm(noise_photos(tmp_path / "photos"), tmp_path / "sfm")
    assert not (tmp_path / "sfm/sparse/0").exists()


# Masks -----------------------------------------------------------------------------------------------------------


def keypoints(workspace: Path) -> dict[str, np.ndarray]:
    """Image name -> (n, 2) [x, y] of its features in COLMAP's database, pixels."""
    with sqlite3.connect(workspace / "database.db") as database:
        names = dict(database.execute("SELECT image_id, name FROM images"))
        rows = database.execute("SELECT image_id, rows, cols, data FROM keypoints").fetchall()
    return {names[i]: np.frombuffer(data or b"", np.float32).reshape(n, cols)[:, :2] for i, n, cols, data in rows}


def half(path: Path, left: bool, size: tuple[int, int] = (160, 120)) -> None:
    """A mask of COLMAP's that leaves the left or the right half of the photo."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[:, : size[0] // 2] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask if left else mask[:, ::-1]).save(path)


@pytest.mark.parametrize("place", ["masks", "images/masks"])
def test_no_feature_lies_where_the_mask_is_0_and_other_masks_are_other_poses(tmp_path: Path, place: str) -> None:
    photos, out = noise_photos(tmp_path / "images"), tmp_path / "sfm"
    for left in (True, False):
        half(tmp_path / place / "p0.png.png", left)
        half(tmp_path / place / "p1.png", left, (40, 30))  # nerfstudio's name, and of another size
        with pytest.raises(SplatsegError, match="expected photos that"):
            run_sfm(photos, out)
        found = keypoints(out)
        assert all(len(found[name]) > 20 for name in ("p0.png", "p1.png", "p2.png"))
        for name in ("p0.png", "p1.png"):
            assert bool((found[name][:, 0] <= 80).all() if left else (found[name][:, 0] >= 80).all())
        assert float(found["p2.png"][:, 0].min()) < 60 and float(found["p2.png"][:, 0].max()) > 100
        # As if it had found poses: they hold for these masks, whenever these were written, and for no others.
        (out / "sparse/0").mkdir(parents=True)
        (out / "sparse/0/images.bin").write_bytes(b"poses")
        half(tmp_path / place / "p0.png.png", left)
        assert run_sfm(photos, out) == out and (out / "sparse/0/images.bin").read_bytes() == b"poses"
        assert is_sfm_of(photos, out)
    shutil.rmtree(tmp_path / place)
    assert is_sfm_of(photos, out)  # it is of the photos, with whatever masks
    with pytest.raises(SplatsegError, match="expected photos that"):
        run_sfm(photos, out)
    found = keypoints(out)
    assert all(float(xy[:, 0].min()) < 60 and float(xy[:, 0].max()) > 100 for xy in found.values())


def test_an_unreadable_mask_is_named_and_gives_nothing_up(tmp_path: Path) -> None:
    photos = noise_photos(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/p1.png.png").write_bytes(b"no mask")
    for _ in range(2):
        with pytest.raises(SplatsegError, match=r"masks/p1\.png\.png: unreadable"):
            run_sfm(photos, tmp_path / "sfm")
        assert not (tmp_path / "sfm").exists()


def test_a_folder_of_segments_is_no_mask_of_the_capture(tmp_path: Path) -> None:
    photos = noise_photos(tmp_path / "images")
    for index in range(3):
        half(tmp_path / f"masks/p{index}.png", left=True)
    with pytest.raises(SplatsegError, match="expected photos that"):
        run_sfm(photos, tmp_path / "sfm", no_masks=tmp_path / "masks")
    assert all(float(xy[:, 0].max()) > 100 for xy in keypoints(tmp_path / "sfm").values())


def test_no_feature_lies_where_alpha_hides_the_photo(tmp_path: Path) -> None:
    photos = noise_photos(tmp_path / "photos")
    for path in photos.iterdir():
        pixels = np.array(Image.open(path).convert("RGBA"))
        pixels[:60, :, 3] = 0
        Image.fromarray(pixels).save(path)
    half(photos / "masks" / "p1.png.png", left=True)
    with pytest.raises(SplatsegError, match="expected photos that"):
        run_sfm(photos, tmp_path / "sfm")
    found = keypoints(tmp_path / "sfm")
    assert len(found) == 3 and all(len(xy) > 10 and float(xy[:, 1].min()) >= 60 for xy in found.values())
    assert [float(xy[:, 0].max()) <= 80 for _, xy in sorted(found.items())] == [False, True, False]
