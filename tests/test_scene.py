"""Views and scenes: photos are checked against their camera, views are found by name, splits are exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.scene import Points, Scene, View


def camera_at(x: float = 0.0, width: int = 8, height: int = 6) -> Camera:
    pose = torch.eye(4)
    pose[0, 3] = -x
    return Camera(torch.tensor([[9.0, 0, 4], [0, 9, 3], [0, 0, 1]]), pose, width, height)


def scene_of(names: list[str]) -> Scene:
    views = tuple(View(name, camera_at(float(i)), Path(name)) for i, name in enumerate(names))
    return Scene(views, Points(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8)))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_photos_of_any_mode_come_as_rgb_bytes(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (8, 6)).save(tmp_path / "a.png")
    image = View("a.png", camera_at(), tmp_path / "a.png").image()
    assert image.shape == (6, 8, 3) and image.dtype == torch.uint8


def test_rows_are_rows_and_channels_are_rgb(tmp_path: Path) -> None:
    photo = Image.new("RGB", (8, 6))
    photo.putpixel((5, 2), (10, 20, 30))  # column 5, row 2
    photo.save(tmp_path / "a.png")
    assert View("a", camera_at(), tmp_path / "a.png").image()[2, 5].tolist() == [10, 20, 30]


def test_missing_unreadable_truncated_and_wrongly_sized_photos_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    view = View("sub/a", camera_at(), path)
    with pytest.raises(SplatsegError, match=r"a\.png: image of view 'sub/a' not found"):
        view.image()
    path.write_bytes(b"no photo")
    with pytest.raises(SplatsegError, match=r"a\.png: unreadable image of view 'sub/a'"):
        view.image()
    Image.effect_noise((8, 6), 50).save(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SplatsegError, match=r"a\.png: unreadable image of view 'sub/a'"):
        view.image()
    Image.new("RGB", (6, 8)).save(path)
    with pytest.raises(SplatsegError, match=r"a\.png: expected 8x6 pixels as its camera says, found 6x8"):
        view.image()


def test_scene_needs_views_with_unique_names() -> None:
    with pytest.raises(SplatsegError, match="expected at least one registered view, found none"):
        scene_of([])
    with pytest.raises(SplatsegError, match="expected unique view names, found duplicates"):
        scene_of(["a.jpg", "a.jpg"])


def test_views_are_found_by_name_or_by_a_stem_that_is_unique() -> None:
    scene = scene_of(["left/a.jpg", "right/a.jpg", "b.jpg"])
    assert scene.view("right/a.jpg").name == "right/a.jpg" and scene.view("b").name == "b.jpg"
    with pytest.raises(SplatsegError, match=r"view 'a': expected one of .*left/a\.jpg.*, found 2"):
        scene.view("a")
    with pytest.raises(SplatsegError, match=r"view 'c\.jpg': expected one of .*, found 0"):
        scene.view("c.jpg")


@pytest.mark.parametrize("every", [0, 1, 2, 8])
def test_split_parts_the_views_and_every_0_holds_out_none(every: int) -> None:
    scene = scene_of([f"{i:02}.jpg" for i in range(10)])
    train, held_out = scene.split(every)
    assert sorted((*train, *held_out), key=lambda v: v.name) == list(scene.views)
    assert [v.name for v in held_out] == ([f"{i:02}.jpg" for i in range(0, 10, every)] if every else [])


def test_extent_is_the_farthest_camera_with_a_tenth_added() -> None:
    assert scene_of(["a", "b", "c"]).extent == pytest.approx(1.1)  # cameras at x = 0, 1, 2
    assert scene_of(["a"]).extent == 1  # nothing says how large it is


def test_points_are_checked() -> None:
    with pytest.raises(SplatsegError, match=r"points\.rgb: expected shape \(m=4, 3\), found \(3, 3\)"):
        Points(torch.zeros(4, 3), torch.zeros(3, 3, dtype=torch.uint8))
    with pytest.raises(SplatsegError, match=r"points\.xyz: expected finite values, found nan at index \(1, 2\)"):
        xyz = torch.zeros(4, 3)
        xyz[1, 2] = torch.nan
        Points(xyz, torch.zeros(4, 3, dtype=torch.uint8))
