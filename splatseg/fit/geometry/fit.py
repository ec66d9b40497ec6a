"""Photos -> Gaussians: the training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from splatseg import ops
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.ranks import ALONE, Ranks, moved
from splatseg.core.scene import Points, Scene, View
from splatseg.fit.geometry import shared
from splatseg.fit.geometry.config import GeometryConfig
from splatseg.fit.geometry.dense import FreeSpace, dense_points
from splatseg.fit.geometry.frame import FitFrame
from splatseg.fit.geometry.init import gaussians_from_points
from splatseg.fit.geometry.left_out import Looks, weights_by_mask
from splatseg.fit.geometry.misfits import FROM, misfit_line
from splatseg.fit.geometry.photos import PhotoCache
from splatseg.fit.geometry.region import Part, backdrop
from splatseg.fit.geometry.shell import shell_points
from splatseg.fit.geometry.state import FitState, Seen, pull_of, trimmed
from splatseg.fit.hooks import FitHooks
from splatseg.fit.malloc import freed_memory_kept
from splatseg.ops import photometric_loss
from splatseg.render import Means2dProbe, RenderConfig, render

log = logging.getLogger(__name__)

SHELL_SHARE = 0.05  # of the Gaussians allowed: the shell is a background, and a small splat needs them elsewhere


def masked_target(image: Tensor, fitted: Tensor | None, rendered: Tensor) -> Tensor:
    """What the loss compares ``rendered`` (h, w, 3) with: the photo, or where ``fitted`` is False the render itself.

    A pixel left out then has no difference and no gradient in L1. In SSIM's windows of 11 pixels its value stands on
    both sides alike: what the photo shows there is never trained towards, and beyond 10 pixels from what counts there
    is no gradient at all.
    """
    if fitted is None:
        return image
    return torch.where(fitted[..., None], image.to(rendered.dtype) / 255, rendered.detach())


BEST_PSNR = 100.0
"""dB of a render that is its photo: infinite otherwise, and so would be the mean over views."""


def psnr(gaussians: Gaussians, views: Sequence[View]) -> float:
    """Mean peak signal-to-noise ratio over ``views``, dB, of the clamped render against the photo.

    Of each view the pixels that count (:meth:`View.photo`); views without any are left out, nan where none is left.
    """
    values = []
    with torch.no_grad():
        for view in views:
            image, fitted = view.photo()
            if fitted is None or fitted.any():
                color = render(gaussians, view.camera.to(gaussians.device)).color.clamp(0, 1)
                counts = None if fitted is None else fitted.to(color.device)
                values.append(ops.psnr(color, image.to(color.device), counts).clamp_max(BEST_PSNR))
    return float(torch.stack(values).mean()) if values else float("nan")


DEFAULTS = GeometryConfig()


def fit_geometry(
    scene: Scene,
    config: GeometryConfig = DEFAULTS,
    held_out: Sequence[View] = (),
    device: torch.device | str = "cpu",
    hooks: FitHooks | None = None,
    ranks: Ranks = ALONE,
    part: Part | None = None,
) -> Gaussians:
    """Fit a splat to the photos of ``scene`` (3DGS, Kerbl et al. 2023, section 5), in a frame of its own (FitFrame).

    Args:
        scene: training views and the sparse points to start from.
        config: see :class:`GeometryConfig`.
        held_out: views that only measure; their PSNR goes to the log every ``eval_every``.
        device: where to compute.
        hooks: checkpoints and reporter; a checkpoint found there is taken up. Those of rank 0 count.
        ranks: that take a view each of so many steps made at once (:mod:`splatseg.fit.geometry.shared`).
        part: where ``scene`` is a part of a larger one, whose other parts are fitted apart.

    Returns:
        The splat, on the CPU, detached.

    Raises:
        SplatsegError: too few points, an unreadable photo, or a fit that diverged.
    """
    hooks = hooks or FitHooks()
    torch.manual_seed(config.seed)
    frame = FitFrame.of(scene)
    offset = scene.offset
    scene, held_out = frame.scene(scene), frame.views(held_out)
    saved = ranks.broadcast(hooks.load_checkpoint())
    if saved and saved.get("frame") != frame.numbers():
        saved = None
    points, free = start_points(scene, config, device, ranks)
    if free is not None:
        config = fewer_steps(config, len(scene.views))
    part = part and part.in_frame(frame)
    if part is not None:
        points = part.start(points)
    state = FitState(gaussians_from_points(points, config).to(device), 1.0, config, free, part)
    state.looks = Looks.at_views(scene.views, config)
    first = state.restore(saved) if saved else 0
    names = [view.name for view in scene.views]
    shared.same_random_numbers(ranks)
    before = float(saved["seconds"]) if saved else 0.0
    started = last_saved = time.monotonic()
    evaluate_every = max(int(config.eval_every * config.steps), 1)
    done = first
    with (
        freed_memory_kept(),
        PhotoCache(scene.views, device) as photos,
        hooks.reporter.count(config.steps, "geometry", initial=first) as progress,
    ):
        photos.losses.restore(saved.get("losses") if saved else None)
        while done < config.steps:
            step, done = done, min(done + ranks.size, config.steps)
            loss = train_step(state, photos, step, ranks)
            seconds = before + time.monotonic() - started
            progress.advance(done - step, n=f"{len(state.params['means']):,}")
            if done // evaluate_every > step // evaluate_every or done == config.steps:
                check_loss(loss, done)
                if ranks.first:
                    figures = evaluate(state, held_out, done, seconds, loss)
                    hooks.reporter.log(figures)
                    progress.advance(0, psnr=f"{figures['psnr']:.2f}")
            if ranks.first and time.monotonic() - last_saved > hooks.checkpoint_seconds:
                known = {"seconds": seconds, "frame": frame.numbers(), "losses": photos.losses.sums}
                hooks.save_checkpoint({**state.checkpoint(done), **known})
                last_saved = time.monotonic()
        ranks.sum_(photos.losses.sums)
    if ranks.first and (line := misfit_line(photos.losses.misfits(), names)):
        log.warning("%s", line)
    return frame.back(trimmed(state.gaussians(config.sh_degree)), offset)


def fewer_steps(config: GeometryConfig, photos: int) -> GeometryConfig:
    """The settings after a dense start; a line where they are not the ones asked for."""
    fewer = config.after_dense_start(photos)
    if fewer.steps < config.steps:
        log.warning(
            "geometry: %d steps instead of %d: after a dense start from %d photos more make views between them worse "
            "(geometry.dense.passes: %d over all photos)",
            fewer.steps,
            config.steps,
            photos,
            config.dense.passes,
        )
    return fewer


def start_points(
    scene: Scene, config: GeometryConfig, device: torch.device | str, ranks: Ranks = ALONE
) -> tuple[Points, FreeSpace | None]:
    """What the fit starts from, and the space known to be free: the sparse points; of a dense start also surface points
    and the far shell, within ``max_gaussians``."""
    points, free = _start_points(scene, config, device, ranks)
    if ranks.alone:
        return points, free
    points, free = ranks.broadcast((points, moved(free, "cpu")))
    return points, moved(free, device)


def _start_points(
    scene: Scene, config: GeometryConfig, device: torch.device | str, ranks: Ranks
) -> tuple[Points, FreeSpace | None]:
    if not config.starts_dense(len(scene.points.xyz), len(scene.views)):
        return scene.points, None
    shell = min(config.shell, int(SHELL_SHARE * config.max_gaussians))
    room = config.max_gaussians - shell - len(scene.points.xyz)
    points, free = surface_points(scene, config, room, device, ranks)
    if shell:
        points = joined(points, shell_points(scene, shell, config.shell_reach))
    return points, free


def joined(first: Points, second: Points) -> Points:
    """The points of both."""
    return Points(torch.cat([first.xyz, second.xyz]), torch.cat([first.rgb, second.rgb]))


def surface_points(
    scene: Scene, config: GeometryConfig, room: int, device: torch.device | str, ranks: Ranks = ALONE
) -> tuple[Points, FreeSpace | None]:
    """The sparse points with at most ``room`` surface points, and the space known to be free; where the photos do not
    give any, the sparse points alone and a line that says so."""
    if room <= 0:
        return scene.points, None
    with freed_memory_kept(), torch.no_grad():
        found = dense_points(scene, replace(config.dense, points=min(config.dense.points, room)), device, ranks)
    if found.share < config.dense.least_share:
        log.warning(
            "geometry: %.1f %% of the photos' textured pixels are confirmed by others, expected at least %.0f %%; "
            "starting without surface points",
            100 * found.share,
            100 * config.dense.least_share,
        )
        return scene.points, None
    return joined(scene.points, found.points), found.free


def train_step(state: FitState, photos: PhotoCache, step: int, ranks: Ranks = ALONE) -> Tensor:
    """A view for each rank, from number ``step`` on: render, compare; one step for all of them; densify. Returns the
    loss."""
    own = step + ranks.rank
    seen = look(state, photos, own, ranks.size) if own < state.config.steps else None
    views = min(ranks.size, state.config.steps - step)
    if not ranks.alone:
        seen = shared.added_up(state, seen, views, ranks)
    assert seen is not None
    state.optimize(step, seen)
    shared.keep_equal(state, range(step, step + views), ranks)
    for each in range(step, step + views):
        state.densify(each, seen if each == step else None)
    return seen.loss


def look(state: FitState, photos: PhotoCache, step: int, stride: int = 1) -> Seen:
    """Render the view of a step and leave its gradient in the parameters; the next is the one ``stride`` steps on."""
    config = state.config
    if (coarse := int(config.coarse_fraction * config.steps)) <= step < coarse + stride:
        photos.forget(half=True)
    photo, half = photo_of_step(step, len(photos.views), config)
    image, fitted, camera = photos.get(photo, half)
    if step + stride < config.steps:
        photos.ahead(*photo_of_step(step + stride, len(photos.views), config))
    degree = min(int(step / max(config.sh_degree_every * config.steps, 1)), config.sh_degree)
    probe = Means2dProbe.zeros(len(state.params["means"]), photos.device, config.absgrad)
    settings = RenderConfig(sh_degree=degree, packed=config.packed, check_finite=False)
    if state.part is not None:
        settings = replace(settings, background=backdrop(config.seed, step))
    rendered = render(state.gaussians(config.sh_degree), camera, config=settings, probe=probe)
    target = masked_target(image, fitted, rendered.color)
    loss = photometric_loss(rendered.color, target, config.ssim_weight)
    if step >= FROM * config.steps:
        photos.losses.add(photo, loss.detach())
    loss = loss + state.regularization()
    loss.backward()
    drawn = (rendered.radii > 0).all(dim=1)
    pull = None
    if state.by_gradient and state.still_densifies(step - stride + 1):  # of steps made at once, the first is asked
        gradient = probe.absgrad.grad if config.absgrad else probe.means2d.grad
        assert gradient is not None
        pull = pull_of(gradient, drawn, (camera.width, camera.height))
    left_out = None
    if state.asks_what_is_left_out(step, photo):
        left_out = weights_by_mask(state.gaussians(config.sh_degree), camera, fitted)
    return Seen(loss.detach(), drawn, pull, left_out=left_out)


def photo_of_step(step: int, count: int, config: GeometryConfig) -> tuple[int, bool]:
    """Number of the view that a step trains on, and whether at half size."""
    return view_of_step(step, count, config.seed), step < config.coarse_fraction * config.steps


def view_of_step(step: int, count: int, seed: int) -> int:
    """Every view once an epoch, each epoch in its own order that depends on the seed alone (so resumed fits agree)."""
    epoch, position = divmod(step, count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return int(order[position])


def check_loss(loss: Tensor, done: int) -> None:
    """Raise :class:`SplatsegError` where the fit diverged."""
    if not bool(torch.isfinite(loss)):
        raise SplatsegError(f"geometry: expected a finite loss, found {float(loss)} at step {done}")


def evaluate(state: FitState, held_out: Sequence[View], done: int, seconds: float, loss: Tensor) -> dict[str, Any]:
    """Figures for the log."""
    gaussians = state.gaussians(state.config.sh_degree)
    return {
        "stage": "geometry",
        "step": done,
        "seconds": round(seconds, 2),
        "loss": float(loss),
        "gaussians": len(gaussians),
        "psnr": psnr(gaussians.detach(), held_out) if held_out else float("nan"),
    }
