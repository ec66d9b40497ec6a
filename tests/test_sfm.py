"""Photos without poses: real ones register and open as a scene; what cannot work says so in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splatseg.core.errors import SplatsegError
from splatseg.io import load_colmap, run_sfm


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
