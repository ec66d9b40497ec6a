"""Floaters: Gaussians that hang in the air, belong to no surface, and are in the way.

A floater is *isolated*: it lies in a connected piece of few Gaussians (``region_tools.Touching``). It is *far from
surfaces*: further from every Gaussian of a larger piece than a share of the scene's size. Where cameras are known, it
must besides be *in front of* what they see (the depth of the larger pieces at its center) in most of the views that do
not have it behind something, or be seen by so *few views* that it hardly weighs. A part of a real thing is isolated,
too, where the splat is sparse; it has the depth of its neighbors, and no view looks through it.

Measured on floaters planted into dev_kitchen: docs/guides/viewer.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

import splatseg.render as rendering
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.selection import Selection
from splatseg.segment.neighbors import scene_size
from splatseg.segment.properties import Visibility, shrunk, sizes, visibility
from splatseg.segment.region_tools import Touching

LEAST = 8  # Gaussians of a surface, in however small a splat
TRANSPARENT = -20.0  # logit: not drawn


@dataclass(frozen=True)
class FloaterConfig:
    """What counts as a floater.

    Attributes:
        piece: most Gaussians of a piece that is isolated.
        share: ... and no more than this share of the splat.
        far: distance from larger pieces, as a share of the scene's size (the diagonal of its middle 98 %).
        front: share of the views it is in front of the surfaces in, of those in which it is not behind them.
        margin: how far in front, as a share of the scene's size, beside twice its largest standard deviation.
        views: fewest views that must look through it.
        few: seen by at most so many views it is one, too, wherever it is.
    """

    piece: int = 200
    share: float = 0.01
    far: float = 0.005
    front: float = 0.5
    margin: float = 0.01
    views: int = 2
    few: int = 1

    def __post_init__(self) -> None:
        if self.piece < 1 or self.views < 1 or self.few < 0:
            raise SplatsegError(
                f"clean: expected piece and views from 1 and few from 0, found {self.piece}, {self.views}, {self.few}"
            )
        shares = {name: getattr(self, name) for name in ("share", "far", "front", "margin")}
        if not all(0 <= value <= 1 for value in shares.values()):
            raise SplatsegError(f"clean: expected shares in 0..1, found {shares}")


def find_floaters(
    gaussians: Gaussians,
    cameras: Sequence[Camera] = (),
    config: FloaterConfig | None = None,
    touching: Touching | None = None,
    seen: Visibility | None = None,
    report: Callable[[str, float], None] = lambda step, share: None,
) -> Selection:
    """The floaters of a splat; see the module.

    Args:
        cameras: that it was fitted to, in its frame; without any, what is isolated and far from surfaces is a floater.
        touching, seen: its graph and what ``cameras`` see of it, where they are known already.
        report: called with the step and the share done; may raise to stop.
    """
    config = config or FloaterConfig()
    report("looking what touches", 0.0)
    graph = touching or Touching(gaussians, lambda share: report("looking what touches", 0.2 * share))
    stray, surface = _stray(gaussians, graph, config)
    if not stray.any() or not surface.any():
        return Selection.none(len(gaussians))
    if cameras:
        known = seen or visibility(
            gaussians, cameras, lambda share: report("looking through the photos", 0.2 + share / 2)
        )
        few = (known.views <= config.few).cpu().numpy()
        stray &= few | _in_front(gaussians, surface, cameras, config, report)
    report("looking through the photos", 1.0)
    return Selection(torch.from_numpy(stray))


def _stray(gaussians: Gaussians, graph: Touching, config: FloaterConfig) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) bool each: what is isolated and far from surfaces, and the surfaces, i.e. what is in larger pieces."""
    n = len(gaussians)
    _, numbers = graph.pieces(np.ones(n, bool))
    surface = np.bincount(numbers)[numbers] > min(config.piece, max(int(config.share * n), LEAST))
    stray, means = ~surface, gaussians.means.detach().cpu().numpy()
    if stray.any() and surface.any():
        distances, _ = cKDTree(means[surface]).query(means[stray], workers=-1)
        stray[stray] = distances > config.far * scene_size(means)
    return stray, surface


def _in_front(
    gaussians: Gaussians,
    surface: NDArray[np.bool_],
    cameras: Sequence[Camera],
    config: FloaterConfig,
    report: Callable[[str, float], None],
) -> NDArray[np.bool_]:
    """(n,) bool: what lies in front of the ``surface`` (n,) in most of the views that do not have it behind it."""
    kept = torch.from_numpy(surface).to(gaussians.device)
    drawn = replace(gaussians, opacity_logits=gaussians.opacity_logits.masked_fill(~kept, TRANSPARENT))
    margin = config.margin * scene_size(gaussians.means.detach().cpu().numpy()) + 2 * sizes(gaussians)
    front = torch.zeros(len(gaussians), dtype=torch.int32, device=gaussians.device)
    beside = torch.zeros_like(front)
    for number, camera in enumerate(cameras):
        report("looking through the photos", 0.7 + 0.3 * number / len(cameras))
        ids, gaps = _gaps(gaussians, drawn, shrunk(camera).to(gaussians.device))
        front[ids] += gaps > margin[ids]
        beside[ids] += gaps.abs() <= margin[ids]
    result: NDArray[np.bool_] = ((front >= config.views) & (front > config.front * (front + beside))).cpu().numpy()
    return result


@torch.no_grad()
def _gaps(gaussians: Gaussians, drawn: Gaussians, camera: Camera) -> tuple[Tensor, Tensor]:
    """Ids (m,) of the Gaussians whose centers are in the picture, and how far before what is ``drawn`` there they are
    (m,): infinitely, where there is nothing."""
    rendered = rendering.render(drawn, camera)
    places, depths = camera.project(gaussians.means)
    extent = places.new_tensor([camera.width, camera.height])
    ids = ((depths > camera.near) & ((places >= 0) & (places < extent)).all(1)).nonzero()[:, 0]
    column, row = places[ids].long().unbind(1)
    behind = torch.where(rendered.alpha[row, column] > 0.5, rendered.depth[row, column], torch.inf)
    return ids, behind - depths[ids]
