"""The state of a running geometry fit: parameters, optimizers and densification, as gsplat's strategies expect them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from gsplat import DefaultStrategy
from gsplat.strategy.ops import remove, reset_opa
from torch import Tensor
from torch.nn import Parameter, ParameterDict

from splatseg.core.gaussians import Gaussians
from splatseg.fit.geometry.config import GeometryConfig
from splatseg.fit.geometry.dense import FreeSpace
from splatseg.fit.geometry.left_out import Looks, mostly_left_out
from splatseg.fit.geometry.mcmc import Mcmc
from splatseg.fit.geometry.region import Part
from splatseg.ops.adam import AdamConfig, adam_

ADAM = AdamConfig(lr=1.0, eps=1e-15)
"""3DGS' constants; each column has a rate of its own."""
CARVED_AFTER = 101  # steps after the last densification, so that what it made is looked at too
# gsplat's strategies look parameters up by these names
_FIELD_OF_PARAM = {
    "means": "means",
    "quats": "quats",
    "scales": "log_scales",
    "opacities": "opacity_logits",
    "sh": "sh",
}


@dataclass(frozen=True, eq=False)
class Seen:
    """What the views of a step, whose gradients the parameters hold, tell beside them.

    Attributes:
        loss: () of the step, detached.
        drawn: (n,) bool, or of several views float32: how many draw a Gaussian.
        pull: (n,) length of the gradient of each projected mean, of drawn ones, in halves of the image's sides; summed
            over views. None where densification does not ask.
        views: how many.
        spread: of several views, by the parameter's name, how far their gradients differ: the mean of their squares
            less the square of their mean, over the views that draw a Gaussian; (n, k) for k columns.
        left_out: (n, 2) weights in traced pixels that count and in others (``left_out.weights_by_mask``), where that
            was asked.
    """

    loss: Tensor
    drawn: Tensor
    pull: Tensor | None
    views: int = 1
    spread: Mapping[str, Tensor] | None = None
    left_out: Tensor | None = None


def pull_of(gradient: Tensor, drawn: Tensor, size: tuple[int, int]) -> Tensor:
    """``Seen.pull`` of one view by the gradient (n, 2) per pixel of the projected means in an image of width and height
    ``size``."""
    halves = torch.stack([gradient[:, 0] * (size[0] / 2.0), gradient[:, 1] * (size[1] / 2.0)], dim=-1)
    return torch.where(drawn, halves.norm(dim=-1), 0.0)


class VisibleAdam:
    """Adam over drawn rows that keeps its state where a torch optimizer does, so that gsplat's strategies can edit it.

    It is none: the first ``torch.optim.Optimizer`` of a process imports torch's compiler, a second and a half.

    Attributes:
        param_groups: one, of the one parameter; its ``lr`` holds one rate per column of the flattened parameter, and
            may be changed between steps.
        state: by parameter: steps and averages, nothing before the first step.
    """

    def __init__(self, param: Parameter, lr: Tensor) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": [param], "lr": lr}]
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)

    @torch.no_grad()
    def step_visible(self, visible: Tensor) -> None:
        """One step on the rows where ``visible`` (n,) bool."""
        params, moments, grad = self._begin(1)
        adam_(params, moments, grad, self._rates(1), ADAM, rows=visible, lr=self.param_groups[0]["lr"])

    @torch.no_grad()
    def step_of_views(self, drawn: Tensor, views: int, spread: Tensor) -> None:
        """So many steps at once, by the mean gradient of the views that draw a row.

        A row that k of them draw has averages that decay k times, in the second one the mean of squares, as by k steps
        of one view, and moves by k^(3/4) times the rate. All k times, as k steps of one view had their gradients been
        taken before the first, is too far with the rates of short fits; the root, usual for a batch, too little in few
        steps. docs/guides/several-machines.md has figures.

        Args:
            drawn: (n,) how many of the views draw each row.
            views: how many there are.
            spread: (n, columns) of :class:`Seen`.
        """
        params, moments, grad = self._begin(views)
        # The op adds (1 - b) mean^2 to b v, and is to add (1 - b) (mean^2 + spread).
        decay = ADAM.betas[1] ** drawn
        moments[1].addcmul_(spread, ((1 - decay) / decay)[:, None])
        for times in range(1, views + 1):
            config = replace(ADAM, betas=(ADAM.betas[0] ** times, ADAM.betas[1] ** times))
            rows, rates = drawn == times, self._rates(times)
            adam_(params, moments, grad, rates, config, rows=rows, lr=self.param_groups[0]["lr"])

    def _begin(self, views: int) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Count so many steps; values, averages and gradient as (n, columns)."""
        group = self.param_groups[0]
        param = group["params"][0]
        state = self.state[param]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(param), exp_avg_sq=torch.zeros_like(param))
        state["step"] += views
        rows, columns = param.shape[0], group["lr"].numel()
        flat = [t.view(rows, columns) for t in (param, param.grad.contiguous(), state["exp_avg"], state["exp_avg_sq"])]
        return flat[0], (flat[2], flat[3]), flat[1]

    def _rates(self, times: int) -> Tensor:
        """Of a step of so many views, at the count of steps by now."""
        count = self.state[self.param_groups[0]["params"][0]]["step"]
        return torch.tensor(ADAM.rates(count, ADAM.lr * times**0.75), dtype=torch.float64)


class GradientDensification(DefaultStrategy):
    """gsplat's densification by gradient, with statistics that are gathered without asking the device.

    gsplat 1.5.3 picks the drawn Gaussians by a boolean index, three times per step; each waits for the device. The sums
    are the same, term by term.
    """

    def _update_state(self, params: Any, state: dict[str, Any], info: dict[str, Any], packed: bool = False) -> None:
        seen = info["seen"]
        if seen is None:
            return
        if state["grad2d"] is None:
            state["grad2d"], state["count"] = torch.zeros_like(seen.pull), torch.zeros_like(seen.pull)
        state["grad2d"].add_(seen.pull)
        state["count"].add_(seen.drawn)


class FitState:
    """Parameters, their optimizers and the densification statistics of one fit."""

    def __init__(
        self,
        gaussians: Gaussians,
        extent: float,
        config: GeometryConfig,
        free: FreeSpace | None = None,
        part: Part | None = None,
    ) -> None:
        self.config = config
        self.free = free
        self.part = part
        self.looks: Looks | None = None  # at what photos leave out, where they do
        self.extent = extent
        tensors = gaussians.tensors()
        self.params = ParameterDict({name: Parameter(tensors[f].clone()) for name, f in _FIELD_OF_PARAM.items()})
        self.optimizers = {name: VisibleAdam(p, self._rates(name)) for name, p in self.params.items()}
        self.strategy = mcmc_strategy(config) if config.strategy == "mcmc" else default_strategy(config)
        self.strategy.check_sanity(self.params, self.optimizers)
        # The extent is asked for by the default strategy alone, which scales its thresholds by it.
        with_extent = {"scene_scale": extent} if isinstance(self.strategy, DefaultStrategy) else {}
        self.statistics: dict[str, Any] = self.strategy.initialize_state(**with_extent)

    def _rates(self, name: str) -> Tensor:
        """(k,) learning rate a column of the flattened parameter."""
        config, param = self.config, self.params[name]
        columns = param[0].numel() if param.dim() > 1 else 1
        if name == "sh":
            rates = torch.full((columns,), config.lr_sh_rest)
            rates[:3] = config.lr_sh0
            return rates.to(param.device)
        rate = {
            "means": config.lr_means * self.extent,
            "quats": config.lr_quats,
            "scales": config.lr_scales,
            "opacities": config.lr_opacities,
        }[name]
        return torch.full((columns,), rate, device=param.device)

    def gaussians(self, sh_degree: int) -> Gaussians:
        """The splat with SH up to ``sh_degree``; its tensors are the parameters, so gradients reach them."""
        p = self.params
        return Gaussians(p["means"], p["quats"], p["scales"], p["opacities"], p["sh"][:, : (sh_degree + 1) ** 2])

    def optimize(self, step: int, seen: Seen) -> None:
        """Adam on every parameter; the rate of the means decays exponentially to its final value."""
        config = self.config
        decay = (config.lr_means_final / config.lr_means) ** (step / config.steps)
        self.optimizers["means"].param_groups[0]["lr"] = self._rates("means") * decay
        for name, optimizer in self.optimizers.items():
            if seen.spread is None:
                optimizer.step_visible(seen.drawn)
            else:
                optimizer.step_of_views(seen.drawn, seen.views, seen.spread[name])
        for param in self.params.values():
            param.grad = None

    @property
    def by_gradient(self) -> bool:
        """Whether densification asks for the gradient of projected means."""
        return not isinstance(self.strategy, Mcmc)

    def still_densifies(self, step: int) -> bool:
        """Whether it asks for anything at ``step`` or later."""
        return step < int(self.strategy.refine_stop_iter)

    def densify(self, step: int, seen: Seen | None) -> None:
        """gsplat's clone, split and prune, bounded by ``max_gaussians``, and the opacity reset; or its MCMC moves.

        Called for each step in turn; of several that were made at once the first has what was ``seen``.
        """
        if isinstance(self.strategy, Mcmc):
            rate = float(self.optimizers["means"].param_groups[0]["lr"][0])
            self.strategy.step_post_backward(self.params, self.optimizers, self.statistics, step, {}, rate)
            return
        if seen is not None and seen.left_out is not None:
            known = self.statistics.get("left_out")
            self.statistics["left_out"] = seen.left_out if known is None else known + seen.left_out
        self._bound_growth(step)
        self.strategy.step_post_backward(self.params, self.optimizers, self.statistics, step, {"seen": seen})
        every = self.config.opacity_reset_every
        if every and step > 0 and step % every == 0 and step < self.strategy.refine_stop_iter:
            reset_opa(self.params, self.optimizers, self.statistics, value=2 * self.config.prune_opacity)
        if step > 0 and step % self.config.refine_every == 0 and step < self.strategy.refine_stop_iter + CARVED_AFTER:
            self.carve()
            if self.looks is not None and self.looks.complete(step, step - self.config.refine_every):
                self.take_out_what_is_left_out()

    def asks_what_is_left_out(self, step: int, photo: int) -> bool:
        """Whether a step traces some pixels of its ``photo``."""
        return self.looks is not None and self.still_densifies(step) and self.looks.at(step, photo)

    @torch.no_grad()
    def take_out_what_is_left_out(self) -> None:
        """Remove the Gaussians that lie mostly where photos are not compared; what was seen long ago counts less."""
        weights = self.statistics.get("left_out")
        if weights is None:
            return
        outside = mostly_left_out(weights, self.config.left_out)
        if bool(outside.any()):
            remove(self.params, self.optimizers, self.statistics, outside)
        self.statistics["left_out"] *= 0.5

    @torch.no_grad()
    def carve(self) -> None:
        """Remove the Gaussians in space that ``dense.carve`` views know to be free."""
        if self.free is None or not self.config.dense.carve:
            return
        floating = self.free.seen_past(self.params["means"]) >= self.config.dense.carve
        if bool(floating.any()):
            remove(self.params, self.optimizers, self.statistics, floating)

    def regularization(self) -> Tensor:
        """What MCMC adds to the loss so that useless Gaussians fade and shrink; 0 with the default strategy."""
        if not isinstance(self.strategy, Mcmc):
            return torch.zeros((), device=self.params["means"].device)
        opacity, scale = self.params["opacities"].sigmoid().mean(), self.params["scales"].exp().mean()
        return self.config.opacity_reg * opacity + self.config.scale_reg * scale

    def _bound_growth(self, step: int) -> None:
        """Raise the growth threshold so that at most the room left is cloned or split, steepest gradients first."""
        self.strategy.grow_grad2d = self.config.grow_grad2d
        sums, counts = self.statistics["grad2d"], self.statistics["count"]
        if sums is None or step % self.config.refine_every:
            return
        room = self.config.max_gaussians - len(sums)
        if self.part is not None:
            means = self.params["means"].detach()
            sums[~self.part.grows(means)] = 0
            room = min(room, self.part.room(means))
        if room <= 0:
            self.strategy.grow_grad2d = float("inf")
        elif room < len(sums):
            steepest = (sums / counts.clamp_min(1)).topk(room).values[-1]
            self.strategy.grow_grad2d = max(self.config.grow_grad2d, float(steepest))

    def checkpoint(self, step: int) -> dict[str, Any]:
        """Everything :meth:`restore` needs to go on after ``step`` steps as if nothing had happened."""
        moments = {
            name: {k: v for k, v in optimizer.state[self.params[name]].items()}
            for name, optimizer in self.optimizers.items()
        }
        return {
            "step": step,
            "params": {name: p.detach() for name, p in self.params.items()},
            "moments": moments,
            "statistics": self.statistics,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all(),  # one a GPU; none without
        }

    def restore(self, saved: dict[str, Any]) -> int:
        """Take the state over; returns the number of steps already done."""
        for name, values in saved["params"].items():
            old = self.params[name]
            param = Parameter(values.to(old.device))
            optimizer = self.optimizers[name]
            optimizer.state.pop(old, None)
            optimizer.param_groups[0]["params"] = [param]
            optimizer.state[param] = moved(saved["moments"][name], old.device)
            self.params[name] = param
        self.statistics = moved(saved["statistics"], self.params["means"].device)
        torch.set_rng_state(saved["torch_rng"])
        if len(saved.get("cuda_rng", ())) == torch.cuda.device_count():  # else the fit goes on on another machine
            torch.cuda.set_rng_state_all(saved.get("cuda_rng", []))
        return int(saved["step"])


def default_strategy(config: GeometryConfig) -> GradientDensification:
    """gsplat's densification by gradient, its steps scaled to those of the fit."""
    return GradientDensification(
        grow_grad2d=config.grow_grad2d,
        refine_start_iter=int(config.refine_start * config.steps),
        refine_stop_iter=int(config.refine_stop * config.steps),
        refine_every=config.refine_every,
        # gsplat 1.5.3 never resets (`0 & step > 0` binds the wrong way), so opacities are reset in `densify`. The
        # number still gates its pruning of Gaussians too big in space, which must wait for large ones to have settled.
        reset_every=config.opacity_reset_every or config.steps,
        prune_opa=config.prune_opacity,
        absgrad=config.absgrad,
    )


def mcmc_strategy(config: GeometryConfig) -> Mcmc:
    """gsplat's MCMC densification, its steps scaled to those of the fit."""
    return Mcmc(
        cap_max=config.max_gaussians,
        refine_start_iter=int(config.refine_start * config.steps),
        refine_stop_iter=int(config.refine_stop * config.steps),
        refine_every=config.refine_every,
        min_opacity=config.prune_opacity,
    )


def moved(state: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """``state`` with its tensors on ``device``."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in state.items()}


def trimmed(gaussians: Gaussians) -> Gaussians:
    """Detached copies with unit quaternions, the form that is saved."""
    tensors: dict[str, Any] = {name: t.detach().clone() for name, t in gaussians.tensors().items()}
    tensors["quats"] = torch.nn.functional.normalize(tensors["quats"], dim=1)
    return replace(gaussians, **tensors)
