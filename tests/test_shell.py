"""The far shell: behind everything stand the colors that the photos show there, and none where none counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splatseg.core.scene import Points, Scene, View
from splatseg.core.sphere import fibonacci_sphere
from splatseg.fit.geometry import GeometryConfig, fit_geometry, psnr
from splatseg.fit.geometry.config import DenseConfig
from splatseg.fit.geometry.fit import start_points
from splatseg.fit.geometry.frame import FitFrame
from splatseg.fit.geometry.shell import shell_points, spread
from splatseg.fit.hooks import FitHooks
from tests.test_geometry import SMALL, camera_at

COUNT, REACH = 2000, 3.0
UNMATCHED = DenseConfig(least_share=1.1)  # the photos never give surface points, so that the shell is seen alone


def looking_out(angle: float) -> View:
    """A camera at the origin, turned by ``angle`` round the vertical; its photo is not read."""
    camera = camera_at(angle)
    pose = camera.cam_from_world.clone()
    pose[2, 3] = 0.0
    return View(f"{angle}", replace(camera, cam_from_world=pose), Path("none.png"))


@pytest.fixture
def sky(tmp_path: Path) -> Scene:
    """Six photos all round from one place; a pixel's color is a smooth function of its direction."""
    views = []
    for i in range(6):
        view = looking_out(i * np.pi / 3)
        path = tmp_path / f"{i}.png"
        Image.fromarray(direction_colors(view).numpy()).save(path)
        views.append(replace(view, name=path.name, image_path=path))
    xyz = fibonacci_sphere(200, first=0.0) * 0.5
    return Scene(tuple(views), Points(xyz, torch.zeros(200, 3, dtype=torch.uint8)))


def color_of(directions: torch.Tensor) -> torch.Tensor:
    return 127.5 + 100 * torch.nn.functional.normalize(directions, dim=-1)


def direction_colors(view: View) -> torch.Tensor:
    camera = view.camera
    rows, columns = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    pixels = torch.stack([columns, rows], -1).reshape(-1, 2)
    away = camera.unproject(pixels, torch.ones(len(pixels))) - camera.position
    return color_of(away).round().to(torch.uint8).reshape(camera.height, camera.width, 3)


def seen_by_any(scene: Scene, xyz: torch.Tensor) -> torch.Tensor:
    seen = torch.zeros(len(xyz), dtype=torch.bool)
    for view in scene.views:
        image, depth = view.camera.project(xyz)
        size = torch.tensor([view.camera.width, view.camera.height])
        seen |= (depth > 0) & (image > 0).all(1) & (image < size).all(1)
    return seen


def test_a_direction_has_the_color_that_the_photos_show_there(sky: Scene) -> None:
    points = shell_points(sky, COUNT, REACH)
    assert len(points.xyz) == COUNT
    torch.testing.assert_close(points.xyz.norm(dim=1), torch.full((COUNT,), REACH))
    seen = seen_by_any(sky, points.xyz)
    assert 0.3 < float(seen.float().mean()) < 0.9
    # A point is the mean over about its spacing (0.08 radians, 8 levels) and the border repeats the last pixel
    error = (points.rgb.float() - color_of(points.xyz)).abs().amax(1)
    assert float(error[seen].max()) < 10


def test_a_direction_that_no_photo_shows_has_the_color_of_the_nearest_that_some_show(sky: Scene) -> None:
    points = shell_points(sky, COUNT, REACH)
    seen = seen_by_any(sky, points.xyz)
    top = (points.xyz[:, 1] < -0.95 * REACH).nonzero()[0, 0]
    assert not bool(seen[top])
    border = points.rgb[seen].float()
    assert float(points.rgb[top, 1]) == pytest.approx(float(border[:, 1].min()), abs=8)


def test_directions_without_a_known_one_are_weighted_by_distance() -> None:
    directions = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0.6, 0.8]])
    values = torch.tensor([[10.0], [30.0], [0.0]])
    known = torch.tensor([True, True, False])
    # squared distances to (0, 0.6, 0.8): 2 and 0.8
    expected = (10 / 2 + 30 / 0.8) / (1 / 2 + 1 / 0.8)
    torch.testing.assert_close(spread(directions, values, known)[2], torch.tensor([expected]))
    assert spread(directions, values, torch.ones(3, dtype=torch.bool)) is values
    one = spread(directions, values, torch.tensor([False, True, False]))
    assert one.tolist() == [[30.0], [30.0], [30.0]]


def test_what_the_capture_leaves_out_gets_no_shell(sky: Scene, tmp_path: Path) -> None:
    nothing, right = np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint8)
    right[:, 32:] = 255
    masked = {}
    for name, mask in (("nothing", nothing), ("right", right)):
        path = tmp_path / f"{name}_mask.png"
        Image.fromarray(mask).save(path)
        masked[name] = replace(sky, views=tuple(replace(view, mask_path=path) for view in sky.views))
    assert len(shell_points(masked["nothing"], COUNT, REACH).xyz) == 0
    one = replace(masked["right"], views=masked["right"].views[:1])
    points = shell_points(one, COUNT, REACH)
    camera = one.views[0].camera
    image, depth = camera.project(points.xyz)
    shown = (depth > 0) & (image > 0).all(1) & (image < torch.tensor([64, 48])).all(1)
    assert int(shown.sum()) > 20 and float(image[shown, 0].min()) > 28
    # what is left out is black in no color: the colors are those of the pixels that count
    error = (points.rgb[shown].float() - color_of(points.xyz[shown])).abs().amax(1)
    assert float(error.max()) < 12


def test_moved_and_scaled_captures_have_the_same_shell(sky: Scene) -> None:
    def in_capture(scene: Scene) -> Points:
        frame = FitFrame.of(scene)
        found = shell_points(frame.scene(scene), COUNT, REACH)
        return Points((found.xyz.double() * frame.size + frame.center).float(), found.rgb)

    shift, size = torch.tensor([8.0, -16.0, 4.0]), 32.0
    views = []
    for i, view in enumerate(sky.views):  # not all at one place
        pose = view.camera.cam_from_world.clone()
        pose[:3, 3] = torch.tensor([0.1 * i, 0.0, 0.05 * i])
        views.append(replace(view, camera=replace(view.camera, cam_from_world=pose)))
    base = replace(sky, views=tuple(views))
    moved = []
    for view in views:
        pose = view.camera.cam_from_world.clone()
        pose[:3, 3] = size * pose[:3, 3] - pose[:3, :3] @ shift
        moved.append(replace(view, camera=replace(view.camera, cam_from_world=pose, near=size * view.camera.near)))
    first = in_capture(base)
    second = in_capture(Scene(tuple(moved), Points(sky.points.xyz * size + shift, sky.points.rgb)))
    torch.testing.assert_close((second.xyz - shift) / size, first.xyz, rtol=1e-4, atol=1e-4)
    assert float(((first.rgb.int() - second.rgb.int()).abs().amax(1) <= 2).float().mean()) > 0.99


def test_strays_do_not_push_the_shell_away(sky: Scene) -> None:
    strays = Points(torch.cat([sky.points.xyz, torch.full((1, 3), 1e4)]), torch.zeros(201, 3, dtype=torch.uint8))
    points = shell_points(replace(sky, points=strays), COUNT, REACH)
    assert float(points.xyz.norm(dim=1).max()) < 2 * REACH


def test_a_photo_of_the_sky_between_two_others_is_learned(sky: Scene) -> None:
    """The sparse points say nothing of it: without a shell the fit leaves it black or smears what is near."""
    train, held_out = sky.views[:5:2], sky.views[1:2]
    near = [
        replace(view, name=f"near_{view.name}", camera=replace(view.camera, cam_from_world=pose_moved(view, 0.3)))
        for view in train
    ]
    scene = replace(sky, views=(*train, *near))
    config = replace(SMALL, start="dense", dense=UNMATCHED, steps=100, max_gaussians=40_000)
    without = fit_geometry(scene, replace(config, shell=0), hooks=FitHooks())
    with_shell = fit_geometry(scene, replace(config, shell=COUNT), hooks=FitHooks())
    assert psnr(with_shell, held_out) > psnr(without, held_out) + 3


def pose_moved(view: View, by: float) -> torch.Tensor:
    pose = view.camera.cam_from_world.clone()
    pose[0, 3] += by
    return pose


def test_a_dense_start_has_a_shell_and_a_sparse_one_none(sky: Scene) -> None:
    config = GeometryConfig(start="sparse", shell=100, dense=UNMATCHED)
    assert start_points(sky, config, "cpu")[0] is sky.points
    assert start_points(sky, replace(config, start="dense", shell=0), "cpu")[0] is sky.points
    points, free = start_points(sky, replace(config, start="dense"), "cpu")
    assert torch.equal(points.xyz[:200], sky.points.xyz) and len(points.xyz) == 300 and free is None


def test_the_start_stays_within_the_bound(sky: Scene) -> None:
    """The shell takes a twentieth of the Gaussians allowed; the sparse points stay whatever their number."""
    config = GeometryConfig(start="dense", max_gaussians=1000, dense=UNMATCHED)
    assert len(start_points(sky, config, "cpu")[0].xyz) == 200 + 50
    assert len(start_points(sky, replace(config, max_gaussians=150), "cpu")[0].xyz) == 200 + 7
