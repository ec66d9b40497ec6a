"""The MCMC strategy, which gsplat itself runs on CUDA only: its formulas, a fit up to its cap, a resumed fit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gsplat.strategy.ops
import pytest
import torch
from test_geometry import SMALL, _copied, scene  # noqa: F401  (a fixture)

from splatseg.core.errors import SplatsegError
from splatseg.core.scene import Points, Scene
from splatseg.fit.geometry import GeometryConfig, fit_geometry, gaussians_from_points, psnr
from splatseg.fit.geometry.mcmc import compute_relocation
from splatseg.fit.hooks import FitHooks

CONFIG = replace(SMALL, max_gaussians=360, refine_stop=0.8).mcmc()


def binomials(size: int = 51) -> torch.Tensor:
    table = torch.zeros(size, size)
    for n in range(size):
        for k in range(n + 1):
            table[n, k] = math.comb(n, k)
    return table


def test_relocation_keeps_the_opacity_at_the_center() -> None:
    """``ratio`` Gaussians of the new opacity, one before the other, are as opaque as the old one."""
    opacities = torch.tensor([0.1, 0.5, 0.9, 0.99, 0.5])
    ratios = torch.tensor([1, 2, 3, 7, 90])  # beyond the table: taken as 51
    new, scales = compute_relocation(opacities, torch.ones(5, 3), ratios, binomials())
    counts = ratios.clamp_max(51)
    torch.testing.assert_close(1 - (1 - new) ** counts, opacities, rtol=1e-4, atol=0)
    assert torch.equal(scales[0], torch.ones(3)), "one that stays one keeps its size"
    assert (scales[1:] < 1).all() and (scales > 0).all()


def test_relocation_of_two_is_the_formula() -> None:
    """Eq. 9 written out for two: the sum over i = 1, 2 and k < i."""
    o = torch.tensor([0.7])
    new, scales = compute_relocation(o, torch.full((1, 3), 2.0), torch.tensor([2]), binomials())
    a = 1 - math.sqrt(0.3)
    denominator = a + (a - a * a / math.sqrt(2))
    assert float(new) == pytest.approx(a)
    assert float(scales[0, 0]) == pytest.approx(2 * 0.7 / denominator)


def test_grows_to_the_cap_and_learns(scene: Scene) -> None:  # noqa: F811
    few = replace(scene, points=Points(scene.points.xyz[:200], scene.points.rgb[:200]))
    original = gsplat.strategy.ops.compute_relocation
    fitted = fit_geometry(few, CONFIG, hooks=FitHooks())
    # 5 % more at steps 20, 40, 60 and 80 of 120; nothing is ever pruned
    assert len(fitted) == int(int(int(int(200 * 1.05) * 1.05) * 1.05) * 1.05)
    assert psnr(fitted, scene.views) > psnr(gaussians_from_points(few.points, CONFIG), scene.views) + 3
    assert gsplat.strategy.ops.compute_relocation is original, "gsplat is left as it was found"
    capped = fit_geometry(few, replace(CONFIG, max_gaussians=205), hooks=FitHooks())
    assert len(capped) == 205


def test_resumed_fit_equals_uninterrupted(scene: Scene) -> None:  # noqa: F811
    """Noise is added every step, so the generator's state must come back too."""
    saved: list[dict[str, Any]] = []
    config = replace(CONFIG, steps=60)
    keep = FitHooks(save_checkpoint=lambda s: saved.append(_copied(s)), checkpoint_seconds=0.0)
    whole = fit_geometry(scene, config, hooks=keep)
    resumed = fit_geometry(scene, config, hooks=FitHooks(load_checkpoint=lambda: saved[29]))
    assert resumed.fingerprint() == whole.fingerprint()


def test_other_names_are_refused() -> None:
    with pytest.raises(SplatsegError, match=r"geometry\.strategy: expected default or mcmc, found 'random'"):
        GeometryConfig(strategy="random")  # type: ignore[arg-type]
