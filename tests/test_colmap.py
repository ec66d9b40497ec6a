"""COLMAP scenes in: every layout and camera model, sizes that must agree, and one line for whatever is broken."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

from splatseg.core.errors import SplatsegError
from splatseg.io import load_colmap
from splatseg.io.colmap_types import CAMERA_MODELS

ROOT = Path(__file__).parent.parent
WIDTH, HEIGHT, FOCAL = 64, 48, 60.0
DISTORTION = {
    "SIMPLE_RADIAL": [0.05],
    "OPENCV": [0.05, -0.01, 0.001, 0.002],
    "OPENCV_FISHEYE": [0.02, 0.001, 0.0, 0.0],
    "FULL_OPENCV": [0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
}


def make_scene(
    folder: Path, model: str = "PINHOLE", views: int = 4, text: bool = False, at: str = "sparse/0", suffix: str = ".png"
) -> pycolmap.Reconstruction:
    """A COLMAP scene of ``views`` photos around 30 points, written as pycolmap writes it."""
    rng = np.random.default_rng(0)
    reconstruction = pycolmap.Reconstruction()
    camera = pycolmap.Camera.create_from_model_name(1, model, FOCAL, WIDTH, HEIGHT)
    extra = DISTORTION.get(model, [])
    if extra:
        camera.params = [*camera.params[: len(camera.params) - len(extra)], *extra]
    reconstruction.add_camera_with_trivial_rig(camera)
    points = rng.uniform(-0.5, 0.5, (30, 3))
    poses = []
    for index in range(views):
        angle = 0.3 * index
        rotation = pycolmap.Rotation3d(np.array([0.0, np.sin(angle / 2), 0.0, np.cos(angle / 2)]))
        poses.append(pycolmap.Rigid3d(rotation, np.array([0.1 * index, 0.0, 3.0])))
        name = f"sub/v{index}{suffix}"
        points2d = [camera.img_from_cam(poses[-1] * p) for p in points]
        image = pycolmap.Image(name=name, keypoints=np.array(points2d).reshape(-1, 2), camera_id=1, image_id=index + 1)
        reconstruction.add_image_with_trivial_frame(image, poses[-1])
        smooth = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize((WIDTH, HEIGHT), Image.BICUBIC)
        (folder / "images" / "sub").mkdir(parents=True, exist_ok=True)
        smooth.save(folder / "images" / name)
    for index, point in enumerate(points):
        track = pycolmap.Track([pycolmap.TrackElement(i + 1, index) for i in range(views)])
        reconstruction.add_point3D(point, track, np.array([index, 2, 3], np.uint8))
    out = folder / at
    out.mkdir(parents=True, exist_ok=True)
    (reconstruction.write_text if text else reconstruction.write_binary)(str(out))
    return reconstruction


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    make_scene(tmp_path / "scene")
    return tmp_path / "scene"


def refused(folder: Path, message: str, **options: object) -> None:
    with pytest.raises(SplatsegError, match=message) as caught:
        load_colmap(folder, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


# What is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
@pytest.mark.parametrize("at", ["sparse/0", "sparse", ".", "colmap/sparse/0"])
def test_views_cameras_and_points_are_the_models(tmp_path: Path, text: bool, at: str) -> None:
    model = make_scene(tmp_path / "scene", text=text, at=at)
    scene = load_colmap(tmp_path / "scene")
    assert [view.name for view in scene.views] == [f"sub/v{i}.png" for i in range(4)]
    for view, image_id in zip(scene.views, range(1, 5), strict=True):
        pose = model.images[image_id].cam_from_world().matrix()
        assert np.allclose(view.camera.cam_from_world[:3].numpy(), pose, atol=1e-6)
        assert view.image().shape == (HEIGHT, WIDTH, 3)
        # The pixel rule: our projection is COLMAP's, 2e-5 px being float32's resolution at 64 times a few operations.
        xyz = scene.points.xyz
        ours, _ = view.camera.project(xyz)
        theirs = [model.images[image_id].project_point(p.double().numpy()) for p in xyz]
        assert np.allclose(ours.numpy(), np.array(theirs), atol=1e-4)
    assert scene.points.xyz.shape == (30, 3) and scene.points.rgb.dtype == torch.uint8
    assert scene.points.rgb[7].tolist() == [7, 2, 3]


def test_models_without_rigs_and_frames_of_older_colmap_load(scene: Path) -> None:
    (scene / "sparse/0/rigs.bin").unlink()
    (scene / "sparse/0/frames.bin").unlink()
    assert len(load_colmap(scene).views) == 4


def test_a_scene_without_points_loads(tmp_path: Path) -> None:
    model = make_scene(tmp_path / "scene")
    model.delete_all_points2D_and_points3D()
    model.write_binary(str(tmp_path / "scene/sparse/0"))
    assert load_colmap(tmp_path / "scene").points.xyz.shape == (0, 3)


def test_simple_pinhole_needs_no_undistortion(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene", "SIMPLE_PINHOLE")
    scene = load_colmap(tmp_path / "scene", cache=tmp_path / "cache")
    assert scene.views[0].camera.fx == scene.views[0].camera.fy == FOCAL
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("model", list(DISTORTION))
def test_other_models_are_undistorted_once(tmp_path: Path, model: str) -> None:
    make_scene(tmp_path / "scene", model)
    scene = load_colmap(tmp_path / "scene", cache=tmp_path / "cache")
    for view in scene.views:
        assert view.image().shape == (view.camera.height, view.camera.width, 3)
        assert view.image_path.is_relative_to(tmp_path / "cache")
    written = scene.views[0].image_path.stat().st_mtime_ns
    again = load_colmap(tmp_path / "scene", cache=tmp_path / "cache")
    assert again.views[0].image_path.stat().st_mtime_ns == written
    assert not list((tmp_path / "cache").glob(".*"))


def test_undistorted_pixels_are_where_the_camera_says(tmp_path: Path) -> None:
    # A white dot drawn where the distorted camera sees a point must be where the undistorted pinhole projects it.
    model = make_scene(tmp_path / "scene", "OPENCV", views=2)
    point = np.array([[0.35, 0.25, 0.0]])
    for image in model.images.values():
        u, v = image.project_point(point[0])
        ys, xs = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
        dot = 255 * np.exp(-((xs - u) ** 2 + (ys - v) ** 2) / 8)
        Image.fromarray(dot.astype(np.uint8)).convert("RGB").save(tmp_path / "scene/images" / image.name)
    for view in load_colmap(tmp_path / "scene", cache=tmp_path / "cache").views:
        pixels = view.image()[..., 0].double().clamp(min=20) - 20
        ys, xs = torch.meshgrid(torch.arange(pixels.shape[0]), torch.arange(pixels.shape[1]), indexing="ij")
        found = torch.stack([(xs + 0.5) * pixels, (ys + 0.5) * pixels]).sum((1, 2)) / pixels.sum()
        expected, _ = view.camera.project(torch.tensor(point, dtype=torch.float32))
        distorted = torch.tensor(model.find_image_with_name(view.name).project_point(point[0]))
        assert torch.allclose(found.float(), expected[0], atol=0.25)  # 8-bit levels and JPEG/PNG edges: a quarter pixel
        assert (distorted - expected[0]).abs().max() > 0.4  # the test could not tell otherwise


def test_a_killed_undistortion_is_done_again(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene", "OPENCV")
    (tmp_path / "cache" / ".undistorted-0123.abc.tmp" / "out" / "images").mkdir(parents=True)
    assert len(load_colmap(tmp_path / "scene", cache=tmp_path / "cache").views) == 4


Text = Callable[[bytes], bytes]
ODDITIES: dict[str, tuple[str, Text]] = {
    "a comment that is no UTF-8": ("cameras.txt", lambda text: b"# caf\xe9\n" + text),
    "one among the images": ("images.txt", lambda text: b"# caf\xe9\n" + text),
    "one among the points": ("points3D.txt", lambda text: text + b"# caf\xe9\n"),
    "points that images refer to removed": ("points3D.txt", lambda text: b"".join(text.splitlines(True)[:9])),
    "all points removed": ("points3D.txt", lambda text: b""),
    "fewer points, binary": ("points3D.bin", lambda data: struct.pack("<Q", 29) + data[8:]),
    "no points, binary": ("points3D.bin", lambda data: bytes(8)),
    "an unused camera without a focal length": ("cameras.txt", lambda text: text + b"7 PINHOLE 64 48 0 0 1 1\n"),
    "an unused camera without a size": ("cameras.txt", lambda text: text + b"7 PINHOLE 0 0 1 1 1 1\n"),
    "colors beyond 255": ("points3D.txt", lambda text: text.replace(b" 2 3 -1 ", b" 300 -3 -1 ")),
    "half a track entry": ("points3D.txt", lambda text: text.rstrip() + b" 1\n"),
    "a third of a 2D point": ("images.txt", lambda text: text.rstrip() + b" 1\n"),
    "line ends of Windows": ("images.txt", lambda text: text.replace(b"\n", b"\r\n")),
    "tabs": ("points3D.txt", lambda text: text.replace(b" ", b"\t")),
    "bytes after the last record": ("images.bin", lambda data: data + b"xyz"),
    "a frame at no place": ("frames.bin", lambda data: data[:16] + b"\xff" * 8 + data[24:]),
    "a rig cut off": ("rigs.bin", lambda data: data[:-3]),
}


@pytest.mark.parametrize(("name", "change"), ODDITIES.values(), ids=list(ODDITIES))
def test_what_pycolmap_reads_is_read(tmp_path: Path, name: str, change: Text) -> None:
    """As pycolmap reads it, but for poses of frames at no place and of rigs: those of the images hold."""
    whole = make_scene(tmp_path / "scene", text=name.endswith(".txt"))
    path = tmp_path / "scene/sparse/0" / name
    path.write_bytes(change(path.read_bytes()))
    model = pycolmap.Reconstruction(str(path.parent))
    for _ in range(2):
        scene = load_colmap(tmp_path / "scene")
        images = sorted(whole.images.values(), key=lambda image: image.name)
        assert [view.name for view in scene.views] == [image.name for image in images]
        for view, image in zip(scene.views, images, strict=True):
            assert np.allclose(view.camera.cam_from_world[:3], image.cam_from_world().matrix(), atol=1e-6)
        points = [model.points3D[number] for number in sorted(model.points3D)]
        assert scene.points.rgb.tolist() == [point.color.tolist() for point in points]
        assert np.allclose(scene.points.xyz, np.array([point.xyz for point in points]).reshape(-1, 3), atol=1e-6)


# Sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_downscale_resizes_into_the_cache(tmp_path: Path, model: str, suffix: str) -> None:
    make_scene(tmp_path / "scene", model, suffix=suffix)
    scene = load_colmap(tmp_path / "scene", downscale=2, cache=tmp_path / "cache")
    for view in scene.views:
        assert view.image().shape == (view.camera.height, view.camera.width, 3)
    if model == "PINHOLE":
        camera = scene.views[0].camera
        assert (camera.width, camera.height, camera.fx, float(camera.K[0, 2])) == (32, 24, FOCAL / 2, 16.0)


def test_downscale_uses_the_folder_of_that_size_and_its_true_pixels(scene: Path) -> None:
    # 64 / 3 and 48 / 3: the folder's photos were rounded up to 22x16, so x and y scale by different factors.
    for path in (scene / "images/sub").iterdir():
        (scene / "images_3/sub").mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((22, 16)).save(scene / "images_3/sub" / f"{path.stem}.jpg")
    loaded = load_colmap(scene, downscale=3, cache=scene / "unused")
    camera = loaded.views[0].camera
    assert loaded.views[0].name == "sub/v0.png" and loaded.views[0].image_path.name == "v0.jpg"
    assert (camera.width, camera.height) == (22, 16)
    assert camera.fx == pytest.approx(FOCAL * 22 / 64) and camera.fy == pytest.approx(FOCAL * 16 / 48)
    assert not (scene / "unused").exists()


def test_downscaled_folder_of_another_size_is_refused(scene: Path) -> None:
    shutil.copytree(scene / "images", scene / "images_2")
    refused(scene, r"images_2/sub/v0\.png: expected about 32x24 pixels .* found 64x48", downscale=2)


def test_downscale_below_one_is_refused(scene: Path) -> None:
    refused(scene, "downscale: expected .* found 0", downscale=0)


def test_photo_of_another_size_than_its_camera(scene: Path) -> None:
    Image.new("RGB", (48, 64)).save(scene / "images/sub/v2.png")
    refused(scene, r"v2\.png: expected 64x48 pixels as its camera says, found 48x64")


# What is missing or broken -------------------------------------------------------------------------------------


def test_missing_scene_model_file_photo_folder_and_photo(scene: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none", "none: expected a scene folder, found nothing")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "expected a COLMAP model")
    (scene / "images/sub/v3.png").rename(scene / "elsewhere.png")
    refused(scene, r"v3\.png: image of view 'sub/v3\.png' not found")
    (scene / "elsewhere.png").rename(scene / "images/sub/v3.png")
    shutil.move(scene / "images", scene / "photos")
    refused(scene, r"images: expected the folder of the photos, found nothing")
    assert len(load_colmap(scene, images=scene / "photos").views) == 4
    for name in ("points3D.bin", "images.bin", "cameras.bin"):
        (scene / "sparse/0" / name).unlink()
        stem = "cameras.txt" if name == "cameras.bin" else name
        refused(scene, "expected a COLMAP model" if name == "cameras.bin" else f"{stem}: expected a file")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_photo(scene: Path, content: bytes) -> None:
    (scene / "images/sub/v1.png").write_bytes(content)
    refused(scene, r"v1\.png: unreadable image of view 'sub/v1\.png'")


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
def test_photo_cut_off_after_its_header_is_refused_when_it_is_decoded(tmp_path: Path, model: str) -> None:
    make_scene(tmp_path / "scene", model)
    path = tmp_path / "scene/images/sub/v1.png"
    path.write_bytes(path.read_bytes()[:200])
    refused(tmp_path / "scene", r"v1\.png", downscale=2, cache=tmp_path / "cache")
    if model == "PINHOLE":
        with pytest.raises(SplatsegError, match=r"v1\.png: unreadable image"):
            load_colmap(tmp_path / "scene").views[1].image()
    assert not list((tmp_path / "cache").glob("undistorted-*"))


def test_no_registered_views(scene: Path) -> None:
    pycolmap.Reconstruction().write_binary(str(scene / "sparse/0"))
    refused(scene, "expected at least one registered view, found none")


def patch(path: Path, offset: int, layout: str, value: object) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, offset, value)
    path.write_bytes(bytes(data))


# Offsets: a file starts with a u64 count. cameras.bin: id i32, model i32, width u64, height u64, params; images.bin:
# id u32, qvec 4 f64, tvec 3 f64, camera u32, name; points3D.bin: id u64, xyz 3 f64, rgb, error f64, track length u64.
@pytest.mark.parametrize(
    ("name", "offset", "layout", "value", "message"),
    [
        ("cameras.bin", 0, "<Q", 2**60, r"cameras\.bin: number of cameras: expected at most 2 to fit, found"),
        ("cameras.bin", 12, "<i", 99, r"camera 1: model: expected a camera model COLMAP knows, found number 99"),
        ("cameras.bin", 12, "<i", 4, r"camera 1 params: expected 64 bytes .* found 32 \(truncated"),
        ("cameras.bin", 16, "<Q", 0, r"camera 1: size: expected .* found 0x48"),
        ("cameras.bin", 32, "<d", float("nan"), r"camera 1: params: expected finite values, found nan"),
        ("cameras.bin", 32, "<d", -5.0, r"camera 1: params: expected a positive focal length, found -5"),
        ("images.bin", 0, "<Q", 2**62, r"images\.bin: number of images: expected at most \d+ to fit"),
        ("images.bin", 12, "<d", float("nan"), r"image 1 \(sub/v0\.png\): qvec: expected finite values, found nan"),
        ("images.bin", 44, "<d", float("inf"), r"image 1 \(sub/v0\.png\): tvec: expected finite values, found inf"),
        ("images.bin", 68, "<I", 7, r"image 1 \(sub/v0\.png\): camera_id: expected one of cameras\.\*, found 7"),
        ("images.bin", 72, "<B", 0, r"images\.bin: .*expected"),
        ("images.bin", 72, "<B", 255, r"image 1 name: expected UTF-8"),
        ("images.bin", 83, "<Q", 2**50, r"image 1 \(sub/v0\.png\) 2D points: expected at most"),
        ("points3D.bin", 0, "<Q", 31, r"points3D\.bin: point: expected 51 bytes|expected at most"),
        ("points3D.bin", 24, "<d", float("nan"), r"point 1: xyz: expected finite values, found"),
        ("points3D.bin", 51, "<Q", 2**40, r"point 1 track: expected"),
        ("points3D.bin", 59, "<I", 77, r"point 1: track: expected images of images\.\*, found image id 77"),
        ("points3D.bin", 63, "<I", 500, r"point 1: track: expected a 2D point below 30 of image 1, found 500"),
    ],
)
def test_damaged_field_is_named(scene: Path, name: str, offset: int, layout: str, value: object, message: str) -> None:
    patch(scene / "sparse/0" / name, offset, layout, value)
    refused(scene, message)


def replace_in_line(path: Path, start: str, index: int, token: str) -> None:
    lines = path.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith(start))
    tokens = lines[number].split()
    tokens[index : index + 1] = [token] if token else []
    lines[number] = " ".join(tokens)
    path.write_text("\n".join(lines) + "\n", errors="surrogateescape")


@pytest.mark.parametrize(
    ("name", "index", "token", "message"),
    [
        ("cameras.txt", 1, "PIN", r"cameras\.txt: line 4: MODEL: expected a camera model COLMAP knows, found PIN"),
        ("cameras.txt", 5, "", r"params: expected 4 of a PINHOLE camera, found 3"),
        ("cameras.txt", 4, "x", r"expected numbers, found: could not convert"),
        ("images.txt", 2, "nan", r"images\.txt: line 5: qvec: expected finite values, found nan"),
        ("images.txt", 8, "3", r"camera_id: expected one of cameras\.\*, found 3"),
        ("images.txt", 9, "caf\udce9.png", r"images\.txt: line 5: expected UTF-8 text, found other bytes"),
        ("images.txt", 9, "", r"images\.txt: line 5: expected IMAGE_ID .* found 9 entries"),
        ("points3D.txt", 1, "inf", r"points3D\.txt: line 4: xyz: expected finite values, found inf"),
        ("points3D.txt", 8, "66", r"track: expected images of images\.\*, found image id 66"),
    ],
)
def test_damaged_text_field_is_named_with_its_line(
    tmp_path: Path, name: str, index: int, token: str, message: str
) -> None:
    make_scene(tmp_path / "scene", text=True)
    replace_in_line(tmp_path / "scene/sparse/0" / name, "1 ", index, token)
    refused(tmp_path / "scene", message)


FUZZ = """
import random, sys
from pathlib import Path
from splatseg.core.errors import SplatsegError
from splatseg.io import load_colmap
scene, rng = Path(sys.argv[1]), random.Random(0)
outcomes = {"loaded": 0, "refused": 0}
for path in sorted((scene / "sparse/0").iterdir()):
    whole = path.read_bytes()
    cuts = [whole[:n] for n in (0, 3, 8, len(whole) // 3, len(whole) - 1)]
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        cuts.append(bytes(data))
    for data in cuts:
        path.write_bytes(data)
        try:
            load_colmap(scene)
            outcomes["loaded"] += 1
        except SplatsegError as error:
            assert "\\n" not in str(error), error
            outcomes["refused"] += 1
    path.write_bytes(whole)
print(outcomes)
"""


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_random_damage_loads_or_is_refused_but_never_crashes(tmp_path: Path, text: bool) -> None:
    make_scene(tmp_path / "scene", text=text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FUZZ, str(tmp_path / "scene")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'refused': 0" not in done.stdout and "'loaded': 0" not in done.stdout


def test_the_table_of_camera_models_is_pycolmaps() -> None:
    for name, model in pycolmap.CameraModelId.__members__.items():
        if name in ("INVALID", "EQUIRECTANGULAR"):  # no pinhole, and none can be made of it
            assert name not in CAMERA_MODELS
            continue
        camera = pycolmap.Camera.create_from_model_id(1, model, 1.0, 2, 2)
        focal = list(camera.focal_length_idxs())
        assert CAMERA_MODELS[name] == (int(model.value), len(camera.params), len(focal)) and focal == list(
            range(len(focal))
        )


@pytest.mark.parametrize("name", ["fox", "kitchen", "lund-door", "dev_kitchen"])
def test_real_captures_load_and_their_points_project_into_their_views(data_dir: Path, name: str) -> None:
    if not (data_dir / name).is_dir():
        pytest.skip(f"no {name} in {data_dir}")
    scene = load_colmap(data_dir / name)
    view = random.Random(0).choice(scene.views)
    pixels, depths = view.camera.project(scene.points.xyz)
    inside = (
        (depths > 0) & (pixels >= 0).all(1) & (pixels < torch.tensor([view.camera.width, view.camera.height])).all(1)
    )
    assert view.image().shape[:2] == (view.camera.height, view.camera.width)
    assert int(inside.sum()) > 50
