"""Where blocks meet: each goes on for a few steps beside what its neighbors have become.

While it is fitted, a block has its own Gaussians on the other side of a border; in the whole splat its neighbor's stand
there, and what the two explained together shows as a seam. At every border one side, that of the higher number, learns
what stands on the other: so all blocks can do it at the same time, and nobody adapts to what changes meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import Scene, View
from splatseg.fit.blocks.plan import Block
from splatseg.fit.geometry import GeometryConfig
from splatseg.fit.geometry.config import PUBLISHED_RATES
from splatseg.fit.geometry.fit import masked_target, view_of_step
from splatseg.fit.geometry.frame import FitFrame
from splatseg.fit.geometry.photos import PhotoCache
from splatseg.fit.geometry.region import backdrop
from splatseg.fit.geometry.state import FitState, Seen, trimmed
from splatseg.fit.geometry.sweep import in_picture
from splatseg.fit.hooks import FitHooks
from splatseg.fit.malloc import freed_memory_kept
from splatseg.ops import photometric_loss
from splatseg.render import RenderConfig, render

STEPS = 0.1  # of the fit's
RATE = 0.1  # of the first learning rate of the means: what stands there is nearly right
SHOWN = 0.01  # share of the Gaussians at the border that a view must have in its picture


def merged(parts: Sequence[Gaussians]) -> Gaussians:
    """One splat of several, in their order."""
    tensors: dict[str, Any] = {name: torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()}
    return Gaussians(**tensors, offset=parts[0].offset)


def join_block(
    scene: Scene,
    blocks: Sequence[Block],
    fitted: Gaussians,
    lower: Sequence[Gaussians],
    config: GeometryConfig,
    device: torch.device | str = "cpu",
    hooks: FitHooks | None = None,
) -> Gaussians:
    """The Gaussians that a block has in the whole splat: those in its region, of which the ones near blocks of lower
    numbers are trained for a tenth of the steps beside what these have there.

    Args:
        scene: the whole capture; only its ``offset`` is asked for.
        blocks: all of them.
        fitted: what :func:`splatseg.fit.blocks.fit.fit_block` gave of the block; not held longer than needed, where
            the caller does not.
        lower: the same of all blocks of lower numbers, of which what lies in this block's expanded region is enough;
            as many as there are, so the block is ``blocks[len(lower)]``.
        config: the whole splat's settings.
        device: where to compute.
        hooks: checkpoints and reporter, as for a fit.

    Returns:
        On the CPU, in the frame of ``scene``. A mean may have moved across a border meanwhile: it stays this block's.
    """
    block, before = blocks[len(lower)], blocks[: len(lower)]
    own = block.region.holds(fitted.means)
    trained = own & near_any(fitted, before, expanded=True)
    if not bool(trained.any()):
        return fitted.select(own)
    replaced = block.region.holds(fitted.means, expanded=True) & near_any(fitted, before)
    beside = [fitted.select(~own & ~replaced)]
    for other, splat in zip(before, lower, strict=True):
        theirs = other.region.holds(splat.means) & block.region.holds(splat.means, expanded=True)
        beside.append(splat.select(theirs))
    inner, border = fitted.select(own & ~trained), fitted.select(trained)
    del fitted
    band = train(
        Scene(block.views, block.points, scene.offset),
        merged([inner, *beside]),
        border,
        config,
        device,
        hooks or FitHooks(),
    )
    return merged([inner, band])


def near_any(gaussians: Gaussians, blocks: Sequence[Block], expanded: bool = False) -> torch.Tensor:
    """(n,) bool of the Gaussians in the region of any of ``blocks``."""
    found = torch.zeros(len(gaussians), dtype=torch.bool)
    for block in blocks:
        found |= block.region.holds(gaussians.means, expanded)
    return found


def border_settings(config: GeometryConfig, steps: int) -> GeometryConfig:
    """``config`` for so many steps from what is nearly right: rates of 3DGS at most, that of the means a tenth."""
    rates = {name: min(getattr(config, name), rate) for name, rate in PUBLISHED_RATES.items()}
    rates["lr_means"] = max(RATE * rates["lr_means"], rates["lr_means_final"])
    return replace(config, steps=steps, strategy="default", **rates)


def train(
    scene: Scene,
    fixed: Gaussians,
    band: Gaussians,
    config: GeometryConfig,
    device: torch.device | str,
    hooks: FitHooks,
) -> Gaussians:
    """``band`` after some steps on the views of ``scene``, drawn together with ``fixed``; none comes or goes.

    Memory: both, a copy, the gradient, and Adam's averages of ``band``.
    """
    steps = max(math.ceil(STEPS * config.steps), 1)
    settings = border_settings(config, steps)
    frame = FitFrame.of(scene)
    state = FitState(frame.into(band).to(device), 1.0, settings)
    fixed = frame.into(fixed).to(device)
    views = frame.views(showing(scene.views, band))
    torch.manual_seed(config.seed)
    saved = hooks.load_checkpoint()
    first, before = (state.restore(saved), float(saved["seconds"])) if saved else (0, 0.0)
    started = last_saved = time.monotonic()
    loss = torch.zeros(())
    with (
        freed_memory_kept(),
        PhotoCache(views, device) as photos,
        hooks.reporter.count(steps, "border", initial=first) as progress,
    ):
        for step in range(first, steps):
            loss = border_step(state, fixed, photos, step)
            progress.advance()
            if time.monotonic() - last_saved > hooks.checkpoint_seconds:
                seconds = before + time.monotonic() - started
                hooks.save_checkpoint({**state.checkpoint(step + 1), "seconds": seconds})
                last_saved = time.monotonic()
    if not bool(torch.isfinite(loss)):
        raise SplatsegError(f"geometry: expected a finite loss at the borders of blocks, found {float(loss)}")
    seconds = round(before + time.monotonic() - started, 2)
    hooks.reporter.log({"stage": "border", "step": steps, "seconds": seconds, "loss": float(loss)})
    return frame.back(trimmed(state.gaussians(config.sh_degree)), scene.offset)


def border_step(state: FitState, fixed: Gaussians, photos: PhotoCache, step: int) -> torch.Tensor:
    """One view, as :func:`splatseg.fit.geometry.fit.train_step`, beside what does not move. Returns the loss."""
    config, count = state.config, len(photos.views)
    image, fitted, camera = photos.get(view_of_step(step, count, config.seed), False)
    if step + 1 < config.steps:
        photos.ahead(view_of_step(step + 1, count, config.seed), False)
    drawn = merged([fixed, state.gaussians(config.sh_degree)])
    settings = RenderConfig(background=backdrop(config.seed, step), packed=config.packed, check_finite=False)
    rendered = render(drawn, camera, config=settings)
    loss = photometric_loss(rendered.color, masked_target(image, fitted, rendered.color), config.ssim_weight)
    loss.backward()
    state.optimize(step, Seen(loss.detach(), (rendered.radii > 0).all(dim=1)[len(fixed) :], None))
    return loss.detach()


def showing(views: Sequence[View], band: Gaussians) -> list[View]:
    """Those of ``views`` with enough of ``band`` in the picture; all where none has."""
    least = SHOWN * len(band)
    found = [view for view in views if int(in_picture(view.camera, band.means)[0].sum()) > least]
    return found or list(views)
