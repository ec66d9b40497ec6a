"""What prototypes.py times: for each case both contenders' parts, after a check that their values agree."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import feature_problem as pools
from benchmarks.ablation.prototype_sources import Part, Prototypes, PrototypeScene
from benchmarks.iteration import iterate, make_state
from benchmarks.loss_baselines import make_batch
from benchmarks.rasterize import HEIGHT, WIDTH, make_scene
from splatseg import ops
from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.ops import Contributions, LossConfig, photometric_loss
from splatseg.ops.rasterize import Splats, rasterize
from splatseg.render import RenderConfig, render, trace

TOLERANCE = 1e-3
"""Norm of the difference over the norm. Rounding leaves 1e-7 to 1e-5; a splat that falls on the other side of a limit
(alpha 1/255, transmittance 1e-4, weight 1e-3) in a few pixels brings gradients to 1.5e-4."""
RATE = 1.25e-4
"""Adam's rate in the prototype's iteration, which goes back to its start each time."""


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of one case; a ratio above 1 means that ours is faster.

    Totals are of the turn in which they were least, parts each of its own. ``ratio`` is the median over turns of the
    two times of one turn: the speed of a shared machine changes within seconds, so only neighbors compare well.
    ``ratio_of_best`` is that of the totals, ``ratio_with_uncounted`` as ``ratio`` with the prototype's parts in
    parentheses.
    """

    case: str
    threads: int
    ours_ms: float
    prototype_ms: float
    ratio: float
    ratio_of_best: float
    ratio_with_uncounted: float
    ours_parts: dict[str, float]
    prototype_parts: dict[str, float]


def compare(case: str, ours: Sequence[Part], prototype: Sequence[Part], turns: int, burst: int = 1) -> Comparison:
    """Let the contenders take turns of ``burst`` runs, so that a busy machine disturbs both alike."""
    totals: tuple[list[float], list[float]] = ([], [])
    uncounted: list[float] = []
    best: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for turn in range(-1, turns):  # the first one warms up
        for side, parts in enumerate((ours, prototype)):
            for _ in range(burst):
                times = run_parts(parts)
                if turn < 0:
                    continue
                totals[side].append(sum(ms for name, ms in times.items() if counted(name)))
                best[side].update({name: min(ms, best[side].get(name, ms)) for name, ms in times.items()})
                if side:
                    uncounted.append(sum(times.values()))
    least = [min(t) for t in totals]
    ratio, with_uncounted = (
        statistics.median(b / a for a, b in zip(totals[0], theirs, strict=True)) for theirs in (totals[1], uncounted)
    )
    ratios = ratio, least[1] / least[0], with_uncounted
    return Comparison(case, torch.get_num_threads(), least[0], least[1], *ratios, best[0], best[1])


def run_parts(parts: Sequence[Part]) -> dict[str, float]:
    times = {}
    for name, run in parts:
        start = time.perf_counter()
        run()
        if name:
            times[name] = 1e3 * (time.perf_counter() - start)
    return times


def counted(name: str) -> bool:
    """Parts in parentheses are timed and listed, but are no part of the total: the other side has none such."""
    return not name.startswith("(")


def check(what: str, ours: Tensor, prototype: Tensor, tolerance: float = TOLERANCE) -> None:
    """Refuse to time what does not compute the same."""
    error = float((ours.double() - prototype.double()).norm() / ours.double().norm())
    if not error <= tolerance:
        raise SystemExit(f"{what}: ours and the prototype's differ by {error:.1e}, expected at most {tolerance:.0e}")


def make_prototype(modules: Prototypes, splats: Splats, camera: Camera) -> PrototypeScene:
    sh = splats.sh.transpose(1, 2).contiguous()
    return PrototypeScene(modules, camera, splats.means, splats.quats, splats.scales, splats.opacities, sh)


def rasterize_cases(modules: Prototypes, n: int, channels: int, turns: int) -> Iterator[Comparison]:
    """The op, forward and backward, as benchmarks/rasterize.py times it.

    Ours also blends depth, and its backward goes through the SH: to the coefficients and, by the view direction, to
    the means. The prototype's SH backward exists only fused with Adam; its time is listed, not counted.
    """
    splats, camera = make_scene(n)
    features = torch.randn(n, 16, generator=torch.Generator().manual_seed(1)) if channels > 3 else None
    theirs = make_prototype(modules, splats, camera)
    moments = (torch.zeros_like(theirs.sh), torch.zeros_like(theirs.sh))
    for run in (theirs.project, theirs.bin, theirs.hand_over, theirs.shade, lambda: theirs.draw(features)):
        run()
    leaves = [t.clone().requires_grad_() for t in vars(splats).values()]
    rows = None if features is None else features.clone().requires_grad_()
    drawing = rasterize(Splats(*leaves), camera, rows)
    outputs, inputs = [drawing.color], leaves
    check("image", drawing.color.detach(), theirs.image)
    if drawing.features is not None and rows is not None:
        outputs, inputs = [drawing.color, drawing.features], [*leaves, rows]
        check("feature image", drawing.features.detach(), theirs.feature_image)
    grads = [torch.randn(o.shape, generator=torch.Generator().manual_seed(2)) for o in outputs]
    found = torch.autograd.grad(outputs, inputs, grads, retain_graph=True)
    theirs.draw_backward(*grads)
    theirs.project_backward()
    theirs.sh_step(moments, 0.0)
    wanted = [*theirs.grads[1:], theirs.grads2d[:, 5], 10 * moments[0].transpose(1, 2), theirs.feature_grads]
    for what, mine, other in zip(("quats", "scales", "opacities", "sh", "features"), found[1:], wanted, strict=False):
        check(f"gradient of {what}", mine, other)  # the first moment is a tenth of the first gradient
    name = f"rasterize {n // 1000}k {'RGB' if features is None else 'RGB+16'}"
    forward: list[Part] = [("project", theirs.project), ("bin", theirs.bin), ("shade", theirs.shade)]
    forward.append(("draw", lambda: theirs.draw(features)))
    yield compare(f"{name} forward", [("op", lambda: rasterize(splats, camera, features))], forward, turns)
    backward: list[Part] = [
        ("draw_backward", lambda: theirs.draw_backward(*grads)),
        ("project_backward", theirs.project_backward),
        ("(sh_and_adam)", lambda: theirs.sh_step(moments, 0.0)),
    ]
    op: Part = ("op", lambda: torch.autograd.grad(outputs, inputs, grads, retain_graph=True))
    yield compare(f"{name} backward", [op], backward, turns)


class PrototypeFit:
    """An iteration of 3DGS made of the prototype's parts; activations and their chain rule by PyTorch."""

    def __init__(self, modules: Prototypes, gaussians: Gaussians, camera: Camera, photo: Tensor) -> None:
        self.modules = modules
        self.stored = [gaussians.means, gaussians.quats, gaussians.log_scales, gaussians.opacity_logits]
        self.stored = [t.detach().clone() for t in self.stored]
        self.start = [t.clone() for t in self.stored]
        means, quats, log_scales, logits = self.stored
        splats = Splats(means, quats, log_scales.exp(), logits.sigmoid(), gaussians.sh.detach())
        self.scene = make_prototype(modules, splats, camera)
        self.sh_start = self.scene.sh.clone()
        self.moments = [(torch.zeros_like(t), torch.zeros_like(t)) for t in (*self.stored, self.scene.sh)]
        self.photo = photo.permute(2, 0, 1).float().div(255).contiguous()
        self.image_grad = torch.empty(HEIGHT, WIDTH, 3)
        self.buffer = torch.empty(12, HEIGHT, WIDTH)

    def activate(self) -> None:
        self.scene.scales, self.scene.opacities = self.stored[2].exp(), self.stored[3].sigmoid()

    def loss(self) -> None:
        module = self.modules.train_parts
        self.value = module.ssim_l1(self.scene.image, self.photo, 0.2, self.image_grad, self.buffer)

    def activate_backward(self) -> None:
        """Gradients of what is stored, in its order."""
        s, (means, quats, scales) = self.scene, self.scene.grads
        logits = s.grads2d[:, 5] * s.opacities * (1 - s.opacities)
        self.grads = [means, quats, scales * s.scales, logits]

    def adam(self) -> None:
        for values, moments, grad in zip(self.stored, self.moments, self.grads, strict=False):
            self.modules.train_parts.adam(values, *moments, grad, RATE)

    def restore(self) -> None:
        for values, start in zip((*self.stored, self.scene.sh), (*self.start, self.sh_start), strict=True):
            values.copy_(start)

    def parts(self) -> list[Part]:
        s = self.scene
        return [
            ("activate", self.activate),
            ("project", s.project),
            ("bin", s.bin),
            ("", s.hand_over),
            ("shade", s.shade),
            ("draw", s.draw),
            ("loss", self.loss),
            ("draw_backward", lambda: s.draw_backward(self.image_grad)),
            ("project_backward", s.project_backward),
            ("activate_backward", self.activate_backward),
            ("sh_and_adam", lambda: s.sh_step(self.moments[4], RATE)),
            ("adam", self.adam),
            ("", self.restore),
        ]


def iteration_cases(modules: Prototypes, n: int, turns: int) -> Iterator[Comparison]:
    """A whole iteration of the geometry fit; parameters go back to their start after each, so that all are alike.

    Ours also has depth, the 2D gradients that densification reads, the SH's view-direction gradient and Adam's bias
    correction, and takes the photo as bytes; the prototype's Adam moves the rows that are not drawn too (the SH's
    excepted).
    """
    torch.manual_seed(0)
    state, camera = make_state(n)
    photo = torch.rand(HEIGHT // 8, WIDTH // 8, 3).repeat_interleave(8, 0).repeat_interleave(8, 1).mul(255).byte()
    gaussians = state.gaussians(3)
    theirs = PrototypeFit(modules, gaussians, camera, photo)
    run_parts(theirs.parts())
    loss = photometric_loss(render(gaussians, camera, config=RenderConfig(sh_degree=3)).color, photo, 0.2)
    check("loss of the iteration", loss.detach(), torch.tensor(theirs.value))
    params = [state.params[name] for name in ("quats", "scales", "opacities", "sh")]
    wanted = [*theirs.grads[1:], 10 * theirs.moments[4][0].transpose(1, 2)]
    for mine, other in zip(torch.autograd.grad(loss, params), wanted, strict=True):
        check("gradient of the iteration", mine, other)
    start = {name: param.detach().clone() for name, param in state.params.items()}
    steps = itertools.count()

    @torch.no_grad()
    def restore() -> None:
        for name, param in state.params.items():
            param.copy_(start[name])

    ours: list[Part] = [("iteration", lambda: iterate(state, camera, photo, next(steps))), ("", restore)]
    yield compare(f"iteration {n // 1000}k", ours, theirs.parts(), turns)


class Traces:
    """Pools of random pixels of every view, traced by both; ``ours`` and ``theirs`` hold the last round's."""

    def __init__(self, modules: Prototypes, n: int, views: int) -> None:
        self.modules, self.generator = modules, torch.Generator().manual_seed(0)
        self.gaussians, self.cameras = pools.surface_scene(n, self.generator), pools.ring_cameras(views)
        index = [torch.randperm(WIDTH * HEIGHT, generator=self.generator)[: pools.POOL] for _ in range(views)]
        self.pixels = [torch.stack([i % WIDTH, i // WIDTH], dim=1).int() for i in index]
        self.flat = [i.int() for i in index]
        self.ours: dict[int, Contributions] = {}
        self.theirs: dict[int, Any] = {}
        self.view = -1

    def trace(self) -> None:
        self.ours[self.view] = trace(self.gaussians, self.cameras[self.view], self.pixels[self.view])

    def next_view(self) -> None:
        self.view = (self.view + 1) % len(self.cameras)
        self.theirs[self.view] = self.modules.rasterize.CSR()
        g = self.gaussians
        self.scene = make_prototype(
            self.modules, Splats(g.means, g.quats, g.scales, g.opacities, g.sh), self.cameras[self.view]
        )

    def activate(self) -> None:
        self.scene.scales, self.scene.opacities = self.gaussians.scales, self.gaussians.opacities

    def walk(self) -> None:
        self.modules.rasterize.walk(self.scene.view, self.flat[self.view], 1e-3, self.theirs[self.view])

    def parts(self) -> list[Part]:
        s = lambda: self.scene  # noqa: E731 - another one for each view
        return [
            ("activate", self.activate),
            ("project", lambda: s().project()),
            ("bin", lambda: s().bin()),
            ("walk", self.walk),
        ]


def trace_cases(traces: Traces, rounds: int) -> Iterator[Comparison]:
    """A pool of one view; ours also checks the pixels and returns the input's order."""
    ours: list[Part] = [("", traces.next_view), ("trace", traces.trace)]
    for _ in traces.cameras:
        run_parts([*ours, *traces.parts()])
        mine, theirs = traces.ours[traces.view], traces.theirs[traces.view]
        check("entries of a pool", torch.tensor(mine.ids.numel()), torch.tensor(theirs.nnz()))
        check("weights of a pool", mine.weights.sum(), theirs.tensors()[2].sum())
    yield compare("trace of a pool", ours, traces.parts(), rounds * len(traces.cameras))


class PrototypeStep:
    """A feature step of the prototype over its own pools; rows are those that hold the same pixels."""

    def __init__(self, traces: Traces, problem: pools.Problem, grad: Tensor) -> None:
        self.modules, self.pools, self.grad = traces.modules.rasterize, list(traces.theirs.values()), grad
        self.rows, self.order = [], []
        for k, rows in enumerate(problem.rows):
            view = k % len(self.pools)
            place = torch.empty(WIDTH * HEIGHT, dtype=torch.int32)
            place[self.pools[view].tensors()[3].long()] = torch.arange(pools.POOL, dtype=torch.int32)
            pixels = problem.pools[view].pixels[rows].long()
            found = place[pixels[:, 1] * WIDTH + pixels[:, 0]].sort()
            self.rows.append(found.values)
            self.order.append(found.indices)
        self.features = problem.start.clone()
        self.moments = (torch.zeros_like(self.features), torch.zeros_like(self.features))
        self.sums = torch.zeros(torch.get_num_threads(), *self.features.shape)
        self.out = torch.empty_like(grad)
        self.step = -1

    def blend(self) -> None:
        self.step += 1
        k = self.step % len(self.rows)
        self.modules.spmm(self.pools[k % len(self.pools)], self.rows[k], self.features, self.out, False)

    def transpose(self, grad: Tensor | None = None) -> None:
        k, grad = self.step % len(self.rows), self.grad if grad is None else grad
        self.modules.spmmT(self.pools[k % len(self.pools)], self.rows[k], grad, self.sums, False)

    def adam(self) -> None:
        self.modules.adam(self.features, *self.moments, self.sums, 2.5e-3, True, self.step + 1)


def feature_cases(traces: Traces, steps: int) -> Iterator[Comparison]:
    """A step of the feature fit without its loss, cycling over the views, ten steps per turn."""
    mine = [traces.ours[view] for view in range(len(traces.cameras))]
    problem = pools.make_problem(mine, len(traces.gaussians.means), 4 * len(mine), traces.generator)
    grad = torch.randn(pools.BATCH, pools.CHANNELS, generator=traces.generator)
    theirs = PrototypeStep(traces, problem, grad)
    features = problem.start.clone()
    optimizer = ops.SparseFeatureAdam(features, ops.AdamConfig(norm_weight=0.0))
    step = 0

    def where() -> tuple[Contributions, Tensor]:
        return mine[step % len(mine)], problem.rows[step % len(problem.rows)]

    def blend() -> Tensor:
        return ops.blend(where()[0], features, where()[1])

    def adam() -> None:
        nonlocal step
        optimizer.step()
        step += 1

    theirs.blend()
    check("blend", blend()[theirs.order[0]], theirs.out)
    theirs.transpose(grad[theirs.order[0]])
    optimizer.accumulate(where()[0], grad, where()[1])
    theirs.adam()
    adam()
    check("update of the features", features - problem.start, theirs.features - problem.start)
    accumulate: Part = ("transpose", lambda: optimizer.accumulate(where()[0], grad, where()[1]))
    ours: list[Part] = [("blend", blend), accumulate, ("adam", adam)]
    parts: list[Part] = [("blend", theirs.blend), ("transpose", theirs.transpose), ("adam", theirs.adam)]
    yield compare("feature step", ours, parts, steps // 10, burst=10)


def loss_cases(modules: Prototypes, p: int, turns: int, n: int = 8192) -> Iterator[Comparison]:
    """Loss and gradient, each with its own level tables of the sampled patches from the membership bits.

    Ours takes patch ids as they are and drops what is not kept; the prototype gets ids without gaps for nothing.
    """
    batch, config = make_batch(n, p, 16), replace(LossConfig.gs(), min_pixels=1)
    ids, slot = torch.unique(batch.patch, return_inverse=True)
    ids, slot = ids.int(), slot.int()
    bits = torch.nn.functional.pad(batch.membership, (0, 8 - batch.membership.shape[1])).contiguous()
    depth = int(modules.patches.levels(bits, ids).max())
    decay = torch.tensor([0.0] + [config.level_decay**d for d in range(depth)])
    settings = (config.phi_scale, config.phi_min, config.phi_max, True, True, config.weight)
    grad, table, value = torch.empty_like(batch.features), torch.empty(0), 0.0

    def levels() -> None:
        nonlocal table
        table = modules.patches.levels(bits, ids)

    def loss() -> None:
        nonlocal value
        value = modules.loss.hcl(batch.features, slot, table, decay, *settings, grad)[0]

    theirs: list[Part] = [("levels", levels), ("loss", loss)]
    run = lambda: ops.hierarchical_contrastive_loss_and_grad(  # noqa: E731
        batch.features, batch.patch, membership=batch.membership, config=config
    )
    run_parts(theirs)
    check("loss", run()[0], torch.tensor(value))
    check("gradient of the loss", run()[1], grad)
    yield compare(f"loss {p} patches", [("op", run)], theirs, turns)
