"""Captures as people have them: several models, texts of other programs, one view, masks of the photos' size, and
transforms.json."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from plyfile import PlyData, PlyElement
from test_colmap import FOCAL, HEIGHT, WIDTH, make_scene

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.scene import PhotoSource, View
from splatseg.io import load_colmap
from splatseg.io.colmap import find_model, has_model
from splatseg.io.colmap_masks import source_pixels
from splatseg.io.transforms import RANDOM_POINTS, random_points
from splatseg.masks.files import FileMasks, write_note

# Several models ------------------------------------------------------------------------------------------------


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """sparse/0 of two photos, sparse/1 of four, sparse/10 of three."""
    folder = tmp_path / "scene"
    for name, views in (("0", 2), ("10", 3), ("1", 4)):
        make_scene(folder, views=views, at=f"sparse/{name}", text=name == "1")
    return folder


def test_of_several_models_the_one_with_most_photos_is_taken_and_said(
    several: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(load_colmap(several).views) == 4
    line = "found 3 models, sparse/0 (2 photos), sparse/1 (4 photos), sparse/10 (3 photos); taking sparse/1 (--model"
    assert line in caplog.text
    assert len(load_colmap(several, model="10").views) == 3
    # The model's own folder is a scene, too: what --model opens the run with.
    assert len(load_colmap(find_model(several, "0")).views) == 2
    with pytest.raises(SplatsegError, match="model: expected one of those there, '7' is not; found 0, 1, 10"):
        find_model(several, "7")


def test_one_model_is_nothing_to_speak_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_scene(tmp_path / "scene", at="sparse/3")
    assert has_model(tmp_path / "scene") and len(load_colmap(tmp_path / "scene").views) == 4
    assert caplog.text == "" and not has_model(tmp_path)


# Texts and bytes -----------------------------------------------------------------------------------------------


def edited(folder: Path, name: str, edit: Any) -> Path:
    path = folder / "sparse/0" / name
    path.write_bytes(edit(path.read_bytes()))
    return folder


def without_points(data: bytes) -> bytes:
    """images.txt whose views have no 2D points."""
    lines = data.decode().splitlines()
    start = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join([*lines[:start], *(line for pair in lines[start::2] for line in (pair, ""))]).encode() + b"\n"


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: without_points(data).rstrip(b"\n"),
        lambda data: without_points(data).replace(b"\n\n", b"\n"),
        lambda data: b"\xef\xbb\xbf" + without_points(data).replace(b"\n", b"\r\n"),
    ],
    ids=["last blank line missing", "no blank lines at all", "Windows' line ends"],
)
def test_no_view_of_a_text_model_is_lost(tmp_path: Path, edit: Any) -> None:
    make_scene(tmp_path / "scene", text=True)
    expected = load_colmap(tmp_path / "scene")
    edited(tmp_path / "scene", "images.txt", edit)
    (tmp_path / "scene/sparse/0/points3D.txt").write_text("# none\n")
    found = load_colmap(tmp_path / "scene")
    for view, other in zip(found.views, expected.views, strict=True):
        assert view.name == other.name and torch.equal(view.camera.cam_from_world, other.camera.cam_from_world)


@pytest.mark.parametrize("text", [True, False], ids=["text", "binary"])
def test_names_with_spaces_are_whole(tmp_path: Path, text: bool) -> None:
    scene = make_scene(tmp_path / "scene")
    for number, image in enumerate(scene.images.values()):
        name = f"A-DJI 000{number} (402).png"
        shutil.move(tmp_path / "scene/images" / image.name, tmp_path / "scene/images" / name)
        image.name = name
    shutil.rmtree(tmp_path / "scene/sparse/0")
    (tmp_path / "scene/sparse/0").mkdir()
    (scene.write_text if text else scene.write_binary)(str(tmp_path / "scene/sparse/0"))
    for _ in range(2):
        views = load_colmap(tmp_path / "scene", downscale=2, cache=tmp_path / "cache").views
        assert [view.name for view in views] == [f"A-DJI 000{number} (402).png" for number in range(4)]


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin", "rigs.bin", "frames.bin"])
def test_bytes_after_the_last_record_are_ignored_as_pycolmap_ignores_them(tmp_path: Path, name: str) -> None:
    make_scene(tmp_path / "scene")
    edited(tmp_path / "scene", name, lambda data: data + b"\0\1\2")
    assert pycolmap.Reconstruction(str(tmp_path / "scene/sparse/0")).num_reg_images() == 4
    assert len(load_colmap(tmp_path / "scene").views) == 4


def test_a_capture_of_one_view_trains_on_it(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene", views=1)
    train, held_out = load_colmap(tmp_path / "scene").split(8)
    assert (len(train), len(held_out)) == (1, 0)


@pytest.mark.parametrize("model", ["PINHOLE", "SIMPLE_PINHOLE", "OPENCV"])
def test_our_reader_gives_pycolmaps_poses_and_points(tmp_path: Path, model: str) -> None:
    theirs = make_scene(tmp_path / "scene", model)
    scene = load_colmap(tmp_path / "scene", cache=tmp_path / "cache")
    for view in scene.views:
        image = theirs.find_image_with_name(view.name)
        assert np.allclose(view.camera.cam_from_world[:3].numpy(), image.cam_from_world().matrix(), atol=1e-6)
    assert np.allclose(scene.points.xyz.numpy(), [theirs.points3D[i].xyz for i in sorted(theirs.points3D)], atol=1e-6)


# Masks of the photos' size -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "downscale"), [("PINHOLE", 2), ("OPENCV", 1), ("OPENCV", 2), ("OPENCV_FISHEYE", 1), ("SIMPLE_RADIAL", 1)]
)
def test_masks_of_the_photos_follow_them(tmp_path: Path, model: str, downscale: int) -> None:
    """A photo whose colors are its labels, undistorted with its label map: the same picture, but for mixed edges."""
    make_scene(tmp_path / "scene", model)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[8:40, 10:30], labels[16:30, 34:56] = 1, 2
    (tmp_path / "masks/sub").mkdir(parents=True)
    for path in (tmp_path / "scene/images/sub").iterdir():
        Image.fromarray(np.array([0, 100, 250], np.uint8)[labels]).convert("RGB").save(path)
        Image.fromarray(labels).save(tmp_path / "masks/sub" / path.name)
    for _ in range(2):
        views = load_colmap(tmp_path / "scene", downscale, tmp_path / "cache").views
        source = FileMasks(tmp_path / "masks", views)
        for view in views:
            masks, photo = source.masks(view), view.image()[..., 0].numpy()
            assert (masks.height, masks.width) == photo.shape and len(masks) == 2
            for number, (low, high) in enumerate([(50, 175), (175, 256)]):
                seen = (photo >= low) & (photo < high)
                mask = masks.dense(number).numpy()
                assert (seen & mask).sum() / (seen | mask).sum() > 0.85


def one_size(folder: Path) -> tuple[View, NDArray[np.bool_]]:
    """A view of the size that its photo had before undistortion, and a mask of the latter, which is in masks/."""
    intrinsics = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])
    camera = Camera(intrinsics, torch.eye(4), WIDTH, HEIGHT)
    source = PhotoSource(WIDTH, HEIGHT, "OPENCV", (FOCAL, FOCAL, WIDTH / 2 + 6, HEIGHT / 2, 0.0, 0.0, 0.0, 0.0))
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 20:40] = True
    (folder / "masks").mkdir()
    Image.fromarray(mask.astype(np.uint8)).save(folder / "masks/v.png")
    return View("v.png", camera, folder / "v.png", source=source), mask


@pytest.mark.parametrize("note", [None, "original", "undistorted"])
def test_masks_of_equal_sizes_are_of_the_original_photo_unless_a_note_says_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, note: str | None
) -> None:
    view, mask = one_size(tmp_path)
    if note is not None:
        (tmp_path / "masks/masks_of.txt").write_text(f"{note}\n")
    source = FileMasks(tmp_path / "masks", [view])
    shifted = np.roll(mask, -6, axis=1)  # the principal point was 6 pixels to the right
    for _ in range(2):
        found = source.masks(view).dense(0).numpy()
        assert (found == (mask if note == "undistorted" else shifted)).all()
    lines = [record.message for record in caplog.records if "before undistortion" in record.message]
    assert len(lines) == (note is None) and all(f"{tmp_path / 'masks'}: " in line and "64x48" in line for line in lines)


def test_a_note_is_part_of_what_masks_depend_on_and_of_two_words(tmp_path: Path) -> None:
    view, _ = one_size(tmp_path)
    settings = [FileMasks(tmp_path / "masks", [view]).settings()]
    for views in ([view], [replace(view, source=None)]):
        write_note(tmp_path / "masks", views)
        settings.append(FileMasks(tmp_path / "masks", [view]).settings())
    assert (tmp_path / "masks/masks_of.txt").read_text() == "original\n"
    assert len({json.dumps(one) for one in settings}) == 3
    (tmp_path / "masks/masks_of.txt").write_text("photos")
    with pytest.raises(SplatsegError, match=r"masks_of\.txt: expected 'undistorted' or 'original', found 'photos'"):
        FileMasks(tmp_path / "masks", [view])


def test_where_the_photo_does_not_reach_there_is_no_pixel(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene", "OPENCV")
    view = load_colmap(tmp_path / "scene", cache=tmp_path / "cache").views[0]
    pixels = source_pixels(view, (WIDTH, HEIGHT))
    assert pixels.shape == (view.camera.height, view.camera.width, 2)
    assert ((pixels >= -1) & (pixels < (WIDTH, HEIGHT))).all() and ((pixels[..., 0] < 0) == (pixels[..., 1] < 0)).all()


def test_masks_of_any_other_size_name_both_that_would_do(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene", "OPENCV")
    (tmp_path / "masks").mkdir()
    Image.new("L", (5, 7)).save(tmp_path / "masks/v0.png")
    views = load_colmap(tmp_path / "scene", cache=tmp_path / "cache").views
    with pytest.raises(SplatsegError, match=r"or of 64x48 like the photo it was made from, found 5x7"):
        FileMasks(tmp_path / "masks").masks(views[0])


# transforms.json -----------------------------------------------------------------------------------------------


def as_transforms(folder: Path, by_frame: bool = False, **changes: Any) -> dict[str, Any]:
    """``transforms.json`` of the COLMAP scene in ``folder``, whose model is then gone."""
    model = pycolmap.Reconstruction(str(folder / "sparse/0"))
    shutil.rmtree(folder / "sparse")
    camera = model.cameras[1]
    intrinsics = dict(zip(("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"), camera.params, strict=False))
    intrinsics |= {"w": camera.width, "h": camera.height, "camera_model": "OPENCV"}
    frames = []
    for image in model.images.values():
        world_from_cam = np.eye(4)
        world_from_cam[:3] = image.cam_from_world().inverse().matrix()
        frame = {
            "file_path": f"./images/{image.name}",
            "transform_matrix": (world_from_cam @ np.diag([1, -1, -1, 1])).tolist(),
        }
        frames.append({**frame, **intrinsics} if by_frame else frame)
    content = {**({} if by_frame else intrinsics), "frames": frames, **changes}
    (folder / "transforms.json").write_text(json.dumps(content))
    return content


@pytest.mark.parametrize("by_frame", [False, True], ids=["global", "by frame"])
@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
def test_transforms_give_the_scene_that_the_model_gave(
    tmp_path: Path, by_frame: bool, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_scene(tmp_path / "scene", model)
    expected = load_colmap(tmp_path / "scene", cache=tmp_path / "cache")
    columns = [*((axis, "f4") for axis in "xyz"), *((color, "u1") for color in ("red", "green", "blue"))]
    points = np.array([(1.0, 2.0, 3.0, 10, 20, 30)], columns)
    PlyData([PlyElement.describe(points, "vertex")]).write(str(tmp_path / "scene/points.ply"))
    as_transforms(tmp_path / "scene", by_frame, ply_file_path="points.ply")
    for _ in range(2):
        found = load_colmap(tmp_path / "scene", cache=tmp_path / "again")
        for view, other in zip(found.views, expected.views, strict=True):
            assert view.name == other.name
            assert torch.allclose(view.camera.cam_from_world, other.camera.cam_from_world, atol=1e-5)
            assert torch.allclose(view.camera.K, other.camera.K, atol=1e-4)
            assert torch.equal(view.image(), other.image())
    assert found.points.xyz.tolist() == [[1, 2, 3]] and found.points.rgb.tolist() == [[10, 20, 30]]
    assert caplog.text == ""


def test_transforms_without_points_start_from_random_ones_where_the_cameras_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_scene(tmp_path / "scene")
    as_transforms(tmp_path / "scene")
    with caplog.at_level(logging.WARNING):
        scene = load_colmap(tmp_path / "scene")
    assert f"names no points; starting from {RANDOM_POINTS} random ones" in caplog.text
    assert torch.equal(scene.points.xyz, load_colmap(tmp_path / "scene").points.xyz)
    pixels, depths = scene.views[0].camera.project(scene.points.xyz)
    inside = (depths > 0) & (pixels >= 0).all(1) & (pixels < torch.tensor([WIDTH, HEIGHT])).all(1)
    assert float(inside.float().mean()) > 0.2


@pytest.mark.parametrize("count", [1, 3])
def test_random_points_of_parallel_cameras_are_in_front_of_them(count: int) -> None:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 3] = np.arange(count)
    points = random_points(poses)
    assert np.isfinite(points).all() and points[:, 2].mean() > 0


def test_instant_ngps_angles_names_without_suffix_and_masks(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene")
    content = as_transforms(tmp_path / "scene")
    Image.fromarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8) * 255).save(tmp_path / "scene/mask.png")
    for frame in content["frames"]:
        frame["file_path"] = frame["file_path"].removesuffix(".png")
        frame["mask_path"] = "mask.png"
    kept = {"camera_angle_x": 2 * np.arctan(WIDTH / 2 / FOCAL), "frames": content["frames"]}
    (tmp_path / "scene/transforms.json").write_text(json.dumps(kept))
    view = load_colmap(tmp_path / "scene").views[0]
    assert view.name == "sub/v0.png" and abs(view.camera.fx - FOCAL) < 1e-3 and view.camera.fy == view.camera.fx
    fitted = view.photo()[1]
    assert fitted is not None and int(fitted.sum()) == HEIGHT


@pytest.mark.parametrize("beside", ["link", "photos"])
def test_photos_behind_a_link_have_masks_beside_either(tmp_path: Path, beside: str) -> None:
    """Those beside the link were left out without a word."""
    make_scene(tmp_path / "kept")
    scene, photos = tmp_path / "scene", tmp_path / "kept/images"
    scene.mkdir()
    (scene / "images").symlink_to(photos)
    (scene / "sparse").symlink_to(tmp_path / "kept/sparse")
    masks = (scene if beside == "link" else tmp_path / "kept") / "masks/sub"
    masks.mkdir(parents=True)
    for photo in (photos / "sub").iterdir():
        Image.fromarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8) * 255).save(masks / f"{photo.name}.png")
    for _ in range(2):
        for view in load_colmap(scene).views:
            fitted = view.photo()[1]
            assert fitted is not None and int(fitted.sum()) == HEIGHT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": []}, "frames: expected a list with at least one frame"),
        ({"fl_x": "wide"}, r"frames\[0\]: fl_x: expected a number, found 'wide'"),
        ({"fl_x": None, "fl_y": None}, "expected fl_x or camera_angle_x, found neither"),
        ({"camera_model": "EQUIRECTANGULAR"}, "camera_model: expected OPENCV"),
        ({"ply_file_path": "none.ply"}, "ply_file_path: expected a file of points, found no 'none.ply'"),
        ({"frames": [{"file_path": "images/sub/v0.png"}]}, r"frames\[0\]: transform_matrix: expected 4x4"),
        (
            {"frames": [{"file_path": "images/sub/v0.png", "transform_matrix": np.zeros((4, 4)).tolist()}]},
            "transform_matrix: expected a rotation",
        ),
        ({"frames": [{"transform_matrix": np.eye(4).tolist()}]}, r"frames\[0\]\.file_path: expected the name"),
    ],
)
def test_a_field_of_transforms_that_makes_no_sense_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    make_scene(tmp_path / "scene")
    as_transforms(tmp_path / "scene", **changes)
    with pytest.raises(SplatsegError, match=message) as caught:
        load_colmap(tmp_path / "scene")
    assert "\n" not in str(caught.value) and "transforms.json" in str(caught.value)
