"""Choosing views of a splat: those that, one after the other, show most of what has not been seen enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import SILENT, Reporter
from splatseg.core.scene import NEAR_SHARE
from splatseg.fit.views.candidates import NEAR, Candidates, candidate_views, seeing_quality, useful_distance
from splatseg.fit.views.config import ViewPlanConfig
from splatseg.fit.views.frame import PlanFrame, plan_frame
from splatseg.fit.views.grid import SurfaceGrid, surface_grid
from splatseg.fit.views.positions import picture_axes
from splatseg.render import render

DRAFT = 200  # pixels of the longer side of the picture that a view is judged by
ENOUGH = 3  # views of a surface
_AGAIN = 0.85  # what a further view of a surface is worth, of the one before
_PLAIN, _DETAILED = 0.01, 1.0  # what one is worth beyond ENOUGH: of a wall, and of what has a shape
_AT_ONCE = 64  # candidates whose gain is brought up to date together
_SOLID = 0.5  # alpha from which a pixel shows something
_WITHIN = 1.8  # cells by which a pixel's depth may miss a surface cell
_LEAST_SHOWN, _LEAST_SHOWN_OUTSIDE = 0.3, 0.03  # share of a draft that shows something
_MOST_NEAR = 0.1  # share of a draft nearer than NEAR
_TRIES = 4  # drafts for each view that is wanted, at most


@dataclass(frozen=True)
class Coverage:
    """``visible``: share of the weight of all surface that can be seen from :data:`ENOUGH` of the positions a camera
    may have, at a useful resolution; what lies under, behind or inside of things cannot. Of that, ``once``: in at least
    one of the views, and ``enough``: in :data:`ENOUGH`. A cell is seen with the one before it: a surface is as thick
    as two."""

    once: float
    enough: float
    visible: float


@dataclass(frozen=True, eq=False)
class ViewPlan:
    """Planned ``cameras``, in the splat's frame; their ``coverage``; the ``kind`` of plan, ``inside`` or ``outside``;
    the direction ``up`` (3,); ``dropped``: drafts that showed nothing, or something too near."""

    cameras: tuple[Camera, ...]
    coverage: Coverage
    kind: str
    up: tuple[float, float, float]
    dropped: int


@torch.no_grad()
def plan_views(gaussians: Gaussians, config: ViewPlanConfig, reporter: Reporter = SILENT) -> ViewPlan:
    """Plan views of ``gaussians``, which are drawn on their device; rays are traced on the CPU.

    Raises:
        SplatsegError: a splat with nothing solid to look at.
    """
    frame = plan_frame(gaussians.detach().to("cpu"), config.up)
    grid = surface_grid(frame.discs(gaussians.detach().to("cpu")), frame.half, config.seed)
    if grid is None:
        raise SplatsegError("splat: expected surfaces that can be looked at, found Gaussians too faint or too small")
    candidates = candidate_views(grid, frame.half, config)
    if len(candidates) == 0:
        raise SplatsegError(f"splat: expected room for a camera ({candidates.kind}), found none; another kind may do")
    chosen = _Choice(gaussians, frame, grid, candidates, config)
    with reporter.count(config.views, "planning", unit="view") as progress:
        while len(chosen.cameras) < config.views and chosen.try_next():
            progress.advance(len(chosen.cameras) - chosen.reported)
            chosen.reported = len(chosen.cameras)
    if not chosen.cameras:
        raise SplatsegError("splat: expected a view that shows it, found none; another kind or up may do")
    x, y, z = frame.rotation[2].tolist()
    return ViewPlan(tuple(chosen.cameras), chosen.coverage(), candidates.kind, (x, y, z), chosen.dropped)


def view_camera(frame: PlanFrame, place: Tensor, forward: Tensor, config: ViewPlanConfig) -> Camera:
    """The camera at ``place`` that looks along ``forward``, (3,) each in ``frame``, in the splat's frame."""
    right, below = picture_axes(forward.double()[None])
    rotation = torch.cat([right, below, forward.double()[None]]) @ frame.rotation
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ frame.to_world(place[None])[0]
    focal = config.width / 2 / math.tan(math.radians(config.field_of_view) / 2)
    K = torch.tensor([[focal, 0, config.width / 2], [0, focal, config.height / 2], [0, 0, 1]])
    return Camera(K.float(), pose.float(), config.width, config.height, NEAR_SHARE * frame.size)


class _Choice:
    """The greedy choice: gains by rays, and what a view truly shows by a small picture of it."""

    def __init__(
        self, gaussians: Gaussians, frame: PlanFrame, grid: SurfaceGrid, candidates: Candidates, config: ViewPlanConfig
    ) -> None:
        self.gaussians, self.frame, self.grid = gaussians, frame, grid
        self.candidates, self.config = candidates, config
        self.cameras: list[Camera] = []
        self.reported = self.dropped = 0
        count = len(grid.surface)
        self.views = torch.zeros(count, dtype=torch.int32)  # of each surface cell, at a useful resolution
        self.patch, patches = grid.patches
        self.seen = torch.zeros(patches)  # of each patch the sum of qualities, and its views
        self.patch_views = torch.zeros(patches, dtype=torch.int32)
        self.weights = torch.zeros(patches).index_add_(0, self.patch, grid.weights)
        detail = torch.zeros(patches).index_add_(0, self.patch, grid.weights * grid.detail) / self.weights
        self.beyond = _PLAIN + (_DETAILED - _PLAIN) * detail
        self.bounds = torch.full((len(candidates),), float("inf"))  # on the gains, which only fall

    def try_next(self) -> bool:
        """Draft the most promising view that is left and take it, if it is good; False where none is left."""
        pick = self._best()
        if pick is None or len(self.cameras) + self.dropped >= _TRIES * self.config.views:
            return False
        self.bounds[pick] = -1
        camera = view_camera(self.frame, self.candidates.places[pick], self.candidates.forward[pick], self.config)
        rows, distances = self._draft(camera, bool(self.candidates.shell[pick]))
        if len(rows) == 0:
            self.dropped += 1
            return True
        self.cameras.append(camera)
        quality = seeing_quality(distances, self.grid, camera.fx)
        shown = torch.zeros(len(self.views), dtype=torch.bool)
        shown[rows[quality > 0]] = True
        self.views += self.grid.around(shown).int()
        # By patches: in one that is seen, cells behind its surface never will be.
        best = torch.zeros(len(self.seen)).scatter_reduce(0, self.patch[rows], quality, "amax")
        self.seen += best
        self.patch_views += (best > 0).int()
        return True

    def _best(self) -> int | None:
        """The candidate of the largest gain: old gains bound new ones, so that only the best are counted anew."""
        factor = torch.where(self.patch_views < ENOUGH, _AGAIN**self.patch_views, self.beyond * _AGAIN**self.seen)
        worth = torch.cat([self.weights * factor, torch.zeros(1)])  # the last one is that of no patch
        fresh = torch.zeros(len(self.bounds), dtype=torch.bool)
        while True:
            top = self.bounds.topk(min(_AT_ONCE, len(self.bounds))).indices
            if float(self.bounds[top[0]]) <= 0:
                return None
            if bool(fresh[top[0]]):
                return int(top[0])
            stale = top[~fresh[top] & (self.bounds[top] > 0)]
            self.bounds[stale] = (worth[self.candidates.patches[stale]] * self.candidates.quality[stale]).sum(dim=1)
            fresh[stale] = True

    def _draft(self, camera: Camera, shell: bool) -> tuple[Tensor, Tensor]:
        """Surface cells (k,) that the view shows and their distances; none where it is to be dropped."""
        scale = DRAFT / max(camera.width, camera.height)
        small = camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
        drawn = render(self.gaussians, small.to(self.gaussians.device))
        alpha, depth = drawn.alpha.cpu(), drawn.depth.cpu()
        solid = alpha > _SOLID
        near = (alpha > 0.2) & (depth < NEAR * self.frame.size)
        nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        least = _LEAST_SHOWN_OUTSIDE if shell else _LEAST_SHOWN
        if float(solid.float().mean()) < least or float(near.float().mean()) > _MOST_NEAR:
            return nothing
        row, column = solid.nonzero().unbind(1)
        points = self.frame.to_local(small.unproject(torch.stack([column, row], dim=1), depth[row, column]))
        distances = (points - self.frame.to_local(small.position[None])).norm(dim=1)
        rows = self.grid.nearest_surface(points, _WITHIN)
        return rows[rows >= 0], distances[rows >= 0]

    def coverage(self) -> Coverage:
        weights, few = self.grid.weights, (self.views < ENOUGH).nonzero()[:, 0]
        farthest = useful_distance(self.grid, self.cameras[0].fx)
        places = sum(positions.seeing(self.grid, few, farthest) for positions in self.candidates.positions)
        missed = few[places >= ENOUGH]  # of all others that are not seen enough, no plan could show more
        enough, once = (float(weights[rows].sum()) for rows in (self.views >= ENOUGH, missed[self.views[missed] > 0]))
        visible = enough + float(weights[missed].sum())
        return Coverage((enough + once) / visible, enough / visible, visible)
