"""Gaussians that stick out into what a capture's masks leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_geometry import SMALL, _copied, camera_at, scene, truth  # noqa: F401  (a fixture)

from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import Scene
from splatseg.fit.geometry import fit_geometry, psnr
from splatseg.fit.geometry.fit import view_of_step
from splatseg.fit.geometry.left_out import LEAST_WEIGHT, Looks, mostly_left_out, weights_by_mask
from splatseg.fit.hooks import FitHooks
from splatseg.render import render


@pytest.fixture
def masked(scene: Scene, tmp_path: Path) -> Scene:  # noqa: F811
    """Photos of a thing above others, with masks of what is seen of it."""
    whole = truth()
    of_thing, of_others = whole.means[:, 1] < -0.3, whole.means[:, 1] > 0.1
    thing, both = whole.select(of_thing), whole.select(of_thing | of_others)
    views = []
    for view in scene.views:
        photo = (render(both, view.camera).color.clamp(0, 1) * 255).round().to(torch.uint8)
        shown = render(thing, view.camera).alpha.squeeze() > 0.3
        mask = tmp_path / f"mask_{view.name}"
        for path, pixels in ((view.image_path, photo), (mask, (shown * 255).to(torch.uint8))):
            Image.fromarray(pixels.numpy()).save(path)
        views.append(replace(view, mask_path=mask))
    return Scene(tuple(views), scene.points)


def drawn_outside(gaussians: Gaussians, scene: Scene) -> float:  # noqa: F811
    """Mean opacity of the pixels that the masks leave out."""
    shares = []
    for view in scene.views:
        fitted = view.photo()[1]
        assert fitted is not None and 0.05 < fitted.float().mean() < 0.7
        shares.append(render(gaussians, view.camera).alpha.squeeze()[~fitted].mean())
    return float(torch.stack(shares).mean())


def test_weights_are_those_of_the_render(device: torch.device) -> None:
    """The gradient of what is drawn of a feature of 1, summed over the pixels of either kind."""
    splat, camera = truth().to(device), camera_at(0.4).to(device)
    fitted = torch.rand(camera.height, camera.width, generator=torch.Generator().manual_seed(0)).to(device) < 0.3
    found = weights_by_mask(splat, camera, fitted)
    ones = torch.ones(len(splat), 1, device=device, requires_grad=True)
    image = render(splat, camera, features=ones).features
    assert image is not None
    for column, pixels in enumerate((fitted, ~fitted)):
        (want,) = torch.autograd.grad(image[pixels].sum(), ones, retain_graph=True)
        torch.testing.assert_close(found[:, column], want[:, 0], rtol=5e-3, atol=0.1)  # weights below 1e-3 are left out


def test_a_grid_of_a_large_photo_is_traced() -> None:
    """Of 640x480 pixels every eighth of every eighth row: the same shares, a sixty-fourth of the weight."""
    splat, camera = truth(), camera_at(0.4)
    large = replace(camera, K=camera.K * torch.tensor([[10.0], [10.0], [1.0]]), width=640, height=480)
    shown = torch.zeros(480, 640, dtype=torch.bool)
    shown[:, :320] = True
    found, small = weights_by_mask(splat, large, shown), weights_by_mask(splat, camera, shown[::10, ::10])
    assert float((found.sum(0) / small.sum(0) * 64 / 100 - 1).abs().max()) < 0.05


def test_only_what_is_mostly_left_out_and_known_goes() -> None:
    weights = torch.tensor([[1.0, 4.0], [4.0, 1.0], [1.0, 1.0], [0.0, 2.0], [0.0, 0.9 * LEAST_WEIGHT], [0.0, 0.0]])
    assert mostly_left_out(weights, 0.5).tolist() == [True, False, False, True, False, False]
    assert mostly_left_out(weights, 0.9).tolist() == [False, False, False, True, False, False]
    assert not mostly_left_out(weights, 1.0).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_sticks_out_of_what_counts(masked: Scene, seed: int) -> None:
    """Gaussians outside of the masks stayed what they were, and were selected, labeled and exported along."""
    config = replace(SMALL, steps=300, seed=seed)
    cut, kept = fit_geometry(masked, config), fit_geometry(masked, replace(config, left_out=1.0))
    assert drawn_outside(kept, masked) > 0.3
    assert drawn_outside(cut, masked) < 0.3 * drawn_outside(kept, masked)
    assert psnr(cut, masked.views) > psnr(kept, masked.views)


@pytest.mark.parametrize("seed", [0, 1])
def test_what_one_photo_leaves_out_and_others_show_stays(masked: Scene, seed: int) -> None:
    """Masks in two of eight photos: somebody walked by."""
    others = tuple(replace(view, mask_path=None) for view in masked.views[2:])
    scene = replace(masked, views=masked.views[:2] + others)  # noqa: F811
    config = replace(SMALL, steps=300, seed=seed)
    cut, kept = fit_geometry(scene, config), fit_geometry(scene, replace(config, left_out=1.0))
    assert psnr(cut, others) > psnr(kept, others) - 0.3
    assert len(cut) > 0.95 * len(kept)


@pytest.mark.parametrize("photos, steps", [(8, 72), (46, 720), (50, 1800), (800, 1800), (3000, 1800)])
def test_every_photo_is_looked_at_once_before_anything_is_removed(photos: int, steps: int) -> None:
    looks = Looks.of(photos, steps)
    seen: list[int] = []
    ends = 0
    for step in range(steps):
        if looks.complete(step, step - 1):
            assert sorted(seen) == list(range(photos))
            seen, ends = [], ends + 1
        photo = view_of_step(step, photos, seed=0)
        if looks.at(step, photo):
            seen.append(photo)
    assert ends == {8: 2, 46: 3, 50: 8, 800: 2, 3000: 0}[photos]


def test_what_was_seen_of_it_is_part_of_a_checkpoint(masked: Scene) -> None:
    saved: list[dict[str, Any]] = []
    keep = FitHooks(save_checkpoint=lambda s: saved.append(_copied(s)), checkpoint_seconds=0.0)
    whole = fit_geometry(masked, SMALL, hooks=keep)
    for number in (29, 49):
        assert saved[number]["statistics"]["left_out"].sum() > 0
        resumed = fit_geometry(masked, SMALL, hooks=FitHooks(load_checkpoint=lambda number=number: saved[number]))
        assert resumed.fingerprint() == whole.fingerprint()


def test_photos_without_masks_are_not_looked_at(scene: Scene) -> None:  # noqa: F811
    one, other = (fit_geometry(scene, replace(SMALL, left_out=share)) for share in (0.01, 1.0))
    assert one.fingerprint() == other.fingerprint()
