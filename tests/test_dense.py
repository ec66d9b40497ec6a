"""The dense start: points on the true surfaces, none where nothing can be known, the sparse start as fall-back."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree

from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import Points, Scene
from splatseg.fit.geometry import GeometryConfig, fit_geometry
from splatseg.fit.geometry.config import DenseConfig
from splatseg.fit.geometry.dense import FreeSpace, dense_points, evenly, first_of_cells, thinned
from splatseg.fit.geometry.fit import start_points
from splatseg.fit.geometry.frame import FitFrame
from splatseg.fit.geometry.state import FitState
from splatseg.fit.geometry.sweep import source_views
from splatseg.fit.hooks import FitHooks
from splatseg.io import load_colmap
from splatseg.synthetic import SceneConfig, build_world, cast_view, write_scene

WORLD = SceneConfig(objects=4, views=10, test_views=1, width=128, height=96, seed=1)
CONFIG = DenseConfig(side=128, planes=64, points=20_000, agree=2)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return load_colmap(write_scene(tmp_path_factory.mktemp("dense") / "scene", WORLD))


@pytest.fixture(scope="module")
def found(scene: Scene) -> torch.Tensor:
    """(m, 3) points of the dense start in the scene's frame."""
    return points_of(scene)


def points_of(scene: Scene, config: DenseConfig = CONFIG) -> torch.Tensor:
    frame = FitFrame.of(scene)
    xyz = dense_points(frame.scene(scene), config).points.xyz
    return (xyz.double() * frame.size + frame.center).float()


def with_photos(scene: Scene, folder: Path, make) -> Scene:
    """``scene`` with the photo ``make(index, pixels)`` for each of its own."""
    views = []
    for index, view in enumerate(scene.views):
        path = folder / f"{index}.png"
        Image.fromarray(make(index, view.image().numpy())).save(path)
        views.append(replace(view, image_path=path))
    return replace(scene, views=tuple(views))


def depth_errors(scene: Scene, xyz: torch.Tensor) -> torch.Tensor:
    """(m,) least relative difference between the depth of a point and the surface that a view truly shows there."""
    world = build_world(WORLD.objects, WORLD.seed)
    least = torch.full((len(xyz),), torch.inf)
    for view in scene.views:
        surface = torch.from_numpy(cast_view(world, view.camera).depth)
        image, depth = view.camera.project(xyz)
        column, row = image[:, 0].long(), image[:, 1].long()
        inside = (depth > 0) & (image >= 0).all(1) & (column < view.camera.width) & (row < view.camera.height)
        seen = surface[row.clamp(0, len(surface) - 1), column.clamp(0, surface.shape[1] - 1)]
        least = torch.minimum(least, torch.where(inside, (depth - seen).abs() / seen, torch.inf))
    return least


def test_points_lie_on_the_true_surfaces(scene: Scene, found: torch.Tensor) -> None:
    assert len(found) > 1500
    assert float((depth_errors(scene, found) < 0.01).float().mean()) > 0.9


def test_one_view_that_agrees_gives_more_points_and_few_wrong_ones(scene: Scene, found: torch.Tensor) -> None:
    """The default: what a second view would say of the last tenth, the fit says."""
    looser = points_of(scene, replace(CONFIG, agree=1))
    assert len(looser) > len(found) and DenseConfig().agree == 1
    assert float((depth_errors(scene, looser) < 0.01).float().mean()) > 0.85


def test_the_same_points_wherever_the_capture_lies_and_however_large(scene: Scene, found: torch.Tensor) -> None:
    shift, size = torch.tensor([8.0, -16.0, 4.0]), 32.0
    views = []
    for view in scene.views:
        pose = view.camera.cam_from_world.clone()
        pose[:3, 3] = size * pose[:3, 3] - pose[:3, :3] @ shift
        views.append(replace(view, camera=replace(view.camera, cam_from_world=pose, near=size * view.camera.near)))
    moved = Scene(tuple(views), Points(scene.points.xyz * size + shift, scene.points.rgb))
    assert_same_points(found, (points_of(moved) - shift) / size)


def assert_same_points(first: torch.Tensor, second: torch.Tensor) -> None:
    """Nine of ten are the same to 1 mm; the rest, where rounding moves a cell's border, lie in a cell of it."""
    assert abs(len(first) - len(second)) < 0.02 * len(first)
    for a, b in ((first, second), (second, first)):
        distances = cKDTree(a.numpy()).query(b.numpy())[0]
        assert (distances < 1e-3).mean() > 0.9 and (distances < 0.04).mean() > 0.99


def test_the_same_points_in_any_order_of_the_views(scene: Scene, found: torch.Tensor) -> None:
    order = torch.randperm(len(scene.views), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = replace(scene, views=tuple(scene.views[i] for i in order))
    assert_same_points(found, points_of(shuffled))


def test_the_same_bits_twice(scene: Scene, found: torch.Tensor) -> None:
    assert torch.equal(found, points_of(scene))


def test_where_nothing_can_be_told_apart_no_point_is_made(scene: Scene, found: torch.Tensor, tmp_path: Path) -> None:
    """The upper half of every photo is one color, as a clear sky: no point is seen there by more than its border."""

    def sky(_: int, pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.copy()
        pixels[: len(pixels) // 2] = (120, 160, 230)
        return pixels

    points = dense_points(with_photos(scene, tmp_path, sky), CONFIG).points
    sky_colored = (points.rgb.int() - torch.tensor([120, 160, 230])).abs().amax(1) < 8
    assert len(points.rgb) > 500 and float(sky_colored.float().mean()) < 0.01


def test_auto_matches_photos_where_sparse_points_are_few() -> None:
    auto = GeometryConfig(start="auto", dense=DenseConfig(below=100))
    assert auto.starts_dense(999, 10) and not auto.starts_dense(1000, 10)
    assert replace(auto, start="dense").starts_dense(1000, 10) and not replace(auto, start="sparse").starts_dense(9, 10)


def test_a_dense_start_takes_so_many_passes_over_the_photos(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Few photos are fitted ever better, at last at the cost of the views between: kitchen had 18.7 dB after 3000 steps
    and has 19.9 after 1000."""
    views = len(scene.views)
    config = GeometryConfig(start="dense", dense=replace(CONFIG, passes=1), steps=views + 8, sh_degree=0)
    for start, expected in (("dense", views), ("sparse", views + 8)):
        saved: list[dict] = []
        hooks = FitHooks(save_checkpoint=saved.append, checkpoint_seconds=0.0)
        fit_geometry(scene, replace(config, start=start), hooks=hooks)
        assert saved[-1]["step"] == expected
        assert caplog.text.count(f"{views} steps instead of {views + 8}") == 1, "of the dense start alone"
    assert GeometryConfig().after_dense_start(24).steps == 24 * 40
    assert GeometryConfig().after_dense_start(300).steps == GeometryConfig().steps


def test_photos_of_noise_start_from_the_sparse_points(
    scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def noise(index: int, pixels: np.ndarray) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, pixels.shape, np.uint8)

    noisy = with_photos(scene, tmp_path, noise)
    config = GeometryConfig(start="dense", dense=CONFIG, shell=0)
    with caplog.at_level(logging.WARNING):
        points, free = start_points(noisy, config, "cpu")
    assert points is noisy.points and free is None and "starting without surface points" in caplog.text
    points, free = start_points(scene, config, "cpu")
    assert len(points.xyz) > len(scene.points.xyz) + 1500 and free is not None
    bound = len(scene.points.xyz) + 500
    points, _ = start_points(scene, replace(config, max_gaussians=bound), "cpu")
    assert len(scene.points.xyz) < len(points.xyz) <= bound


def test_views_far_apart_are_no_sources_of_each_other(scene: Scene) -> None:
    cameras = [view.camera for view in scene.views]
    for i, others in enumerate(source_views(cameras, scene.points, 4)):
        angles = [_angle(cameras[i].position, cameras[j].position) for j in others]
        assert i not in others and angles and max(angles) < 75


def _angle(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.rad2deg(torch.acos(torch.nn.functional.cosine_similarity(first, second, dim=0))))


def test_of_many_photos_an_even_share_is_matched(scene: Scene) -> None:
    assert evenly(range(7), 3) == [0, 2, 4] and evenly(range(3), 7) == [0, 1, 2]
    config = replace(CONFIG, photos=5)
    assert torch.equal(points_of(scene, config), of_views(scene, scene.views[::2], CONFIG))


def of_views(scene: Scene, views: tuple, config: DenseConfig) -> torch.Tensor:
    """As :func:`points_of` from ``views`` alone, in the frame of the whole scene."""
    frame = FitFrame.of(scene)
    xyz = dense_points(replace(frame.scene(scene), views=tuple(frame.views(views))), config).points.xyz
    return (xyz.double() * frame.size + frame.center).float()


def test_thinning_keeps_the_best_point_of_a_cell_within_the_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(5000, 3, generator=generator)
    weight, size = torch.rand(5000, generator=generator), torch.full((5000,), 1e-3)
    rgb = torch.zeros(5000, 3, dtype=torch.uint8)
    assert len(thinned(xyz, rgb, weight, size, 5000)[0]) > 4900
    assert 100 < len(thinned(xyz, rgb, weight, size, 300)[0]) <= 300
    two = torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2], [1.1, 0.1, 0.1]])
    assert first_of_cells(two, torch.zeros(3)).tolist() == [0, 2]


def test_gaussians_in_free_space_are_carved_away(scene: Scene) -> None:
    """One halfway between two cameras and the surface goes, one that a single camera sees past stays, as do others."""
    cameras = tuple(view.camera for view in scene.views[:2])
    free = FreeSpace(cameras, tuple(torch.full((96, 128), 2.0) for _ in cameras))
    center = cameras[0].unproject(torch.tensor([[64, 48]]), torch.tensor([1.0]))
    both = (cameras[0].position + cameras[1].position) / 2 + 1.2 * (center - cameras[0].position)
    behind = cameras[0].unproject(torch.tensor([[64, 48]]), torch.tensor([2.5]))
    means = torch.cat([both.reshape(1, 3), behind])
    counts = free.seen_past(means)
    assert counts.tolist() == [2, 0]
    quats = torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1)
    gaussians = Gaussians(means, quats, torch.full((2, 3), -3.0), torch.zeros(2), torch.zeros(2, 1, 3))
    state = FitState(gaussians, 1.0, GeometryConfig(sh_degree=0), free)
    state.carve()
    torch.testing.assert_close(state.params["means"].detach(), behind)


def test_a_resumed_fit_from_a_dense_start_equals_an_uninterrupted_one(scene: Scene) -> None:
    """The checkpoint is of before a densification; the free space that carves after it is found again."""
    config = GeometryConfig(start="dense", dense=CONFIG, steps=24, refine_every=8, refine_start=0.0, sh_degree=0)
    saved: list[dict] = []

    def keep(state: dict) -> None:
        if state["step"] == 12:
            saved.append(copy.deepcopy(state))

    whole = fit_geometry(scene, config, hooks=FitHooks(save_checkpoint=keep, checkpoint_seconds=0.0))
    resumed = fit_geometry(scene, config, hooks=FitHooks(load_checkpoint=lambda: saved[0]))
    assert resumed.fingerprint() == whole.fingerprint()
    assert len(whole) > len(scene.points.xyz) + 1000
