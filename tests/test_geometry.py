"""The geometry fit: initialization, densification bounds, resume, and that it learns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gsplat import DefaultStrategy
from listener import Listener

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import Points, Scene, View
from splatseg.fit.geometry import GeometryConfig, fit_geometry, gaussians_from_points, psnr
from splatseg.fit.geometry import photos as photos_module
from splatseg.fit.geometry.config import PUBLISHED_RATES
from splatseg.fit.geometry.fit import view_of_step
from splatseg.fit.geometry.photos import PhotoCache, halved
from splatseg.fit.geometry.state import Seen, default_strategy, pull_of
from splatseg.fit.hooks import FitHooks
from splatseg.render import render


def camera_at(angle: float, width: int = 64, height: int = 48) -> Camera:
    """A camera on a circle of radius 4 around the origin that looks at it."""
    turn = torch.tensor(angle)
    c, s = torch.cos(turn), torch.sin(turn)
    cam_from_world = torch.eye(4)
    cam_from_world[:3, :3] = torch.stack(
        [torch.stack([c, 0 * c, s]), torch.tensor([0.0, 1, 0]), torch.stack([-s, 0 * c, c])]
    )
    cam_from_world[2, 3] = 4.0
    K = torch.tensor([[60.0, 0, width / 2], [0, 60.0, height / 2], [0, 0, 1]])
    return Camera(K, cam_from_world, width, height)


def truth(count: int = 300) -> Gaussians:
    """Colored blobs around the origin."""
    generator = torch.Generator().manual_seed(1)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    return Gaussians(
        means=torch.randn(count, 3, generator=generator) * 0.6,
        quats=quats,
        log_scales=torch.full((count, 3), -2.0),
        opacity_logits=torch.full((count,), 2.0),
        sh=torch.randn(count, 1, 3, generator=generator),
    )


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Eight views of :func:`truth`, written as PNGs, with its means as noisy sparse points."""
    from PIL import Image

    gaussians = truth()
    views = []
    for i in range(8):
        camera = camera_at(0.3 * i)
        pixels = (render(gaussians, camera).color.clamp(0, 1) * 255).round().to(torch.uint8)
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels.numpy()).save(path)
        views.append(View(path.name, camera, path))
    xyz = gaussians.means + 0.02 * torch.randn(gaussians.means.shape, generator=torch.Generator().manual_seed(2))
    return Scene(tuple(views), Points(xyz, (gaussians.base_colors * 255).to(torch.uint8)))


SMALL = GeometryConfig(
    steps=120,
    start="sparse",
    sh_degree=1,
    max_gaussians=400,
    refine_every=20,
    eval_every=0.5,
    coarse_fraction=0.25,
    lr_sh0=0.02,
)


def test_first_guess_has_sizes_of_neighbors() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    gaussians = gaussians_from_points(Points(grid, torch.full((64, 3), 128, dtype=torch.uint8)), GeometryConfig())
    torch.testing.assert_close(gaussians.scales, torch.ones(64, 3))
    torch.testing.assert_close(gaussians.opacities, torch.full((64,), 0.1))


def test_coinciding_points_have_a_finite_size() -> None:
    points = Points(torch.zeros(5, 3), torch.zeros(5, 3, dtype=torch.uint8))
    gaussians_from_points(points, GeometryConfig()).check_finite()


def test_too_few_points_are_refused() -> None:
    with pytest.raises(SplatsegError, match="points3D: expected at least 4"):
        gaussians_from_points(Points(torch.zeros(3, 3), torch.zeros(3, 3, dtype=torch.uint8)), GeometryConfig())


def test_fit_learns_and_keeps_the_bound(scene: Scene) -> None:
    logged: list[dict[str, Any]] = []
    before = psnr(gaussians_from_points(scene.points, SMALL), scene.views[:2])
    config = replace(SMALL, steps=500)
    gaussians = fit_geometry(scene, config, scene.views[:2], hooks=FitHooks(reporter=Listener(logged)))
    gaussians.check_finite()
    # clones are chosen on statistics one step old, so a tie may add one more
    assert len(gaussians) <= SMALL.max_gaussians + 1
    assert psnr(gaussians, scene.views[:2]) > before + 5
    assert [entry["step"] for entry in logged] == [250, 500]
    torch.testing.assert_close(gaussians.quats.norm(dim=1), torch.ones(len(gaussians)))


@pytest.mark.parametrize("seed", [0, 1])
def test_rates_of_short_fits_get_further(scene: Scene, seed: int) -> None:
    """With the published rates, which are for 30,000 steps, a short fit stops on the way."""
    train, held_out = replace(scene, views=scene.views[2:]), scene.views[:2]
    config = replace(GeometryConfig(), start="sparse", steps=150, sh_degree=1, max_gaussians=400, seed=seed)
    slow = psnr(fit_geometry(train, replace(config, **PUBLISHED_RATES)), held_out)
    assert psnr(fit_geometry(train, config), held_out) > slow + 1


def test_rates_belong_to_the_steps_of_a_preset() -> None:
    published = {"lr_means": 1.6e-4, "lr_means_final": 1.6e-6, "lr_scales": 5e-3, "lr_quats": 1e-3}
    published |= {"lr_opacities": 5e-2, "lr_sh0": 2.5e-3, "lr_sh_rest": 1.25e-4}
    quality, short = GeometryConfig.preset("quality"), GeometryConfig.preset("default")
    assert {name: getattr(quality, name) for name in PUBLISHED_RATES} == published
    for name, rate in published.items():
        assert getattr(short, name) >= rate
        assert getattr(GeometryConfig.preset("fast"), name) == getattr(short, name)


def test_resumed_fit_equals_uninterrupted(scene: Scene) -> None:
    """A kill after any checkpoint changes nothing, not even the random splits."""
    saved: list[dict[str, Any]] = []
    keep = FitHooks(save_checkpoint=lambda s: saved.append(_copied(s)), checkpoint_seconds=0.0)
    whole = fit_geometry(scene, SMALL, hooks=keep)
    resumed = fit_geometry(scene, SMALL, hooks=FitHooks(load_checkpoint=lambda: saved[69]))
    assert saved[69]["step"] == 70
    assert resumed.fingerprint() == whole.fingerprint()


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return value


def test_opacity_reset_lowers_all_opacities(scene: Scene) -> None:
    config = replace(SMALL, opacity_reset_every=40, steps=42, refine_stop=1.0, coarse_fraction=0.0)
    gaussians = fit_geometry(scene, config, hooks=FitHooks())
    # reset to 0.01 at step 40, then one more step of Adam at 0.05 a logit
    assert float(gaussians.opacities.max()) < 0.02


def test_every_view_once_an_epoch() -> None:
    epochs = [[view_of_step(e * 7 + i, 7, seed=3) for i in range(7)] for e in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_halving_keeps_odd_sizes_and_means() -> None:
    image = torch.randint(0, 255, (9, 7, 3), dtype=torch.uint8)
    small = halved(image)
    assert small.shape == (4, 3, 3)
    torch.testing.assert_close(small.float().mean(), image.float().mean(), rtol=0, atol=12.0)


@pytest.fixture(params=[False, True], ids=["in turn", "ahead"])
def ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the next photo is begun in a thread, as on CUDA."""
    monkeypatch.setattr(photos_module, "uploads_beside", lambda device: request.param)
    return request.param


@pytest.mark.parametrize("rooms", [(0, 0), (0, 1 << 20), (1 << 20, 0), (3 * 64 * 48 * 3, 2 * 64 * 48 * 3)])
def test_photos_are_the_same_wherever_they_are_kept(
    scene: Scene, ahead: bool, rooms: tuple[int, int], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nowhere, on the host, on the device, some here and some there; twice, after the other size, announced or not."""
    monkeypatch.setattr(photos_module, "image_room", lambda device, most: rooms[0])
    monkeypatch.setattr(photos_module, "CACHE_BYTES", rooms[1])
    asked = [(index, half) for half in (True, False) for index in [*range(8), *range(8)]]
    with PhotoCache(scene.views, device) as photos:
        for number, (index, half) in enumerate(asked):
            image, fitted, camera = photos.get(index, half)
            assert fitted is None
            if number + 1 < len(asked) and number % 5:  # now and then unannounced, once announced wrongly
                photos.ahead(*asked[number + 1 if number != 7 else number])
            expected = halved(scene.views[index].image()) if half else scene.views[index].image()
            assert image.device.type == device.type and torch.equal(image.cpu(), expected)
            assert (camera.height, camera.width) == expected.shape[:2] and camera.K.device == image.device
            kept = [sum(i.nbytes for i in images.values()) for images in (photos._on_device, photos._on_host)]
            assert kept[0] <= rooms[0] and kept[1] <= rooms[1]
        photos.forget(half=True)
        assert not [key for key in [*photos._on_device, *photos._on_host] if key[1]]
        photos.forget(half=False)
        assert (photos._device_room, photos._host_room) == rooms


def test_a_kept_photo_is_not_read_again(scene: Scene, ahead: bool) -> None:
    with PhotoCache(scene.views) as photos:
        first = photos.get(3, True)[0]
        scene.views[3].image_path.unlink()
        photos.ahead(3, True)
        assert torch.equal(photos.get(3, True)[0], first)


def test_photos_beyond_the_bound_are_read_ahead_and_not_kept(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next photo is decoded in another thread while a step runs, whatever the device; those at hand are not read
    again, and what is kept stays within the bound over two rounds."""
    monkeypatch.setattr(photos_module, "CACHE_BYTES", 2 * 64 * 48 * 3)
    wanted = [view.photo()[0] for view in scene.views]
    read: list[tuple[str, str]] = []

    def spied(view: View, real: Callable[[View], Any] = View.photo) -> Any:
        read.append((view.name, threading.current_thread().name))
        return real(view)

    monkeypatch.setattr(View, "photo", spied)
    with PhotoCache(scene.views) as photos:
        order = 2 * list(range(len(scene.views)))
        for number, index in enumerate(order):
            assert torch.equal(photos.get(index, False)[0], wanted[index])
            if number + 1 < len(order):
                photos.ahead(order[number + 1], False)
            assert sum(image.nbytes for image in photos._on_host.values()) <= 2 * 64 * 48 * 3
    names = [view.name for view in scene.views]
    assert [name for name, _ in read] == names + names[2:], "two are kept, the others read again"
    assert {thread.startswith("photos") for _, thread in read[1:]} == {True}


def test_a_photo_that_cannot_be_read_ahead_is_told_when_it_is_asked_for(scene: Scene) -> None:
    scene.views[1].image_path.unlink()
    with PhotoCache(scene.views) as photos:
        photos.get(0, False)
        photos.ahead(1, False)
        photos.get(2, False)  # another one than was begun
        photos.ahead(1, False)
        with pytest.raises(SplatsegError, match="image of view"):
            photos.get(1, False)
        assert torch.equal(photos.get(0, False)[0], scene.views[0].image())


def test_photos_begun_ahead_change_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SMALL, steps=40)
    in_turn = fit_geometry(scene, config, hooks=FitHooks())
    monkeypatch.setattr(photos_module, "uploads_beside", lambda device: True)
    monkeypatch.setattr(photos_module, "image_room", lambda device, most: 100_000)
    assert fit_geometry(scene, config, hooks=FitHooks()).fingerprint() == in_turn.fingerprint()


def test_missing_photo_names_the_file(scene: Scene, ahead: bool) -> None:
    scene.views[0].image_path.unlink()
    with pytest.raises(SplatsegError, match=r"0\.png: image of view"):
        fit_geometry(scene, replace(SMALL, steps=8), hooks=FitHooks())


@pytest.mark.parametrize(
    "field, value",
    [
        ("steps", 0),
        ("sh_degree", 4),
        ("max_gaussians", 0),
        ("start", "other"),
        ("shell", -1),
        ("shell_reach", 1.0),
        ("shell_reach", float("nan")),
        ("left_out", 0.0),
        ("left_out", 1.5),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: int | float | str) -> None:
    with pytest.raises(SplatsegError, match=f"geometry.{field}"):
        replace(GeometryConfig(), **{field: value})


@pytest.mark.parametrize("absgrad", [False, True])
def test_densification_statistics_are_those_of_gsplat(absgrad: bool) -> None:
    """Two steps, with Gaussians that are not drawn: the sums of our way without boolean indices, bit for bit."""
    config = GeometryConfig(absgrad=absgrad)
    ours, theirs = default_strategy(config), DefaultStrategy(absgrad=absgrad)
    states = [strategy.initialize_state(scene_scale=2.0) for strategy in (ours, theirs)]
    params = torch.nn.ParameterDict({"means": torch.nn.Parameter(torch.zeros(50, 3))})
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        radii = torch.randint(0, 3, (1, 50, 2), generator=generator, dtype=torch.int32)
        gradients = SimpleNamespace(
            grad=torch.randn(1, 50, 2, generator=generator), absgrad=torch.rand(1, 50, 2, generator=generator)
        )
        info = {"means2d": gradients, "radii": radii, "width": 641, "height": 479, "n_cameras": 1, "gaussian_ids": None}
        theirs._update_state(params, states[1], info)
        drawn, gradient = (radii[0] > 0).all(dim=1), gradients.absgrad if absgrad else gradients.grad
        seen = Seen(torch.zeros(()), drawn, pull_of(gradient[0], drawn, (641, 479)))
        ours._update_state(params, states[0], {"seen": seen})
    for name in ("grad2d", "count"):
        assert torch.equal(states[0][name], states[1][name]) and float(states[0][name].max()) > 0
