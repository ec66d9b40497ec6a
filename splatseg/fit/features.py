"""Hierarchies + Gaussians -> FeatureField: the feature fit.

Geometry is frozen, so a pixel's feature is a fixed sparse combination of Gaussian features. A step gathers a batch of
pixels from a cached pool (``blend``), computes the hierarchical contrastive loss with its gradient, scatters the
gradient back and moves the touched Gaussians with Adam. ``full_render`` trains through complete rendered images
instead: slower by more than an order of magnitude, kept as the check that pools lose nothing.

On a device that can make steps without the host (``ops.replay``), all pools are traced first and joined, and the steps
are replayed. A batch is then one of a few that the view's rows in random order were dealt to once, and not drawn anew:
the same for batches as large as the pool, which is the default, and a sample without repetition otherwise.

A view's loss knows that view's masks only: what it merges, splits or leaves out there, and which of its objects differ.
``init="segments"`` starts from what the masks of all views agree on (``mask_clustering``, ``segment_features``);
``hold_segments`` keeps the codes of Gaussians in a confirmed segment and lets the loss train those that lie in none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from typing import Any, Literal

import torch
from torch import Tensor

from splatseg.core.ahead import ahead
from splatseg.core.errors import SplatsegError, check_finite
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import SILENT, Counter, Reporter
from splatseg.core.ranks import ALONE, Ranks
from splatseg.core.scene import View
from splatseg.core.segments import Segments
from splatseg.fit.hooks import FitHooks
from splatseg.fit.malloc import freed_memory_kept
from splatseg.fit.mask_clustering import MaskClusteringConfig, find_segments
from splatseg.fit.pixel_pools import PixelPool, SamplingConfig, draw_batch
from splatseg.fit.pool_cache import HierarchyOf, PoolCache
from splatseg.fit.regions import RegionConfig, complete
from splatseg.fit.segment_features import SegmentFeatureConfig, segment_features
from splatseg.ops import (
    AdamConfig,
    LossConfig,
    SparseFeatureAdam,
    hierarchical_contrastive_loss,
    hierarchical_contrastive_loss_and_grad,
)
from splatseg.ops.nearest import nearest
from splatseg.ops.replay import BatchSize, PooledSteps, PoolStack, Schedule, can_replay
from splatseg.render import render

NO_MASKS = "masks: expected at least one view with a mask over the splat, found none"

# What measured best on dev_kitchen (docs/evaluation/results.md). Without the norm term the features are free to turn
# while they are small; with it, the published constants lock in the direction of the first noise.
BEST_LOSS = replace(LossConfig.paper(), phi_min=0.1, norm_weight=0.0)


@dataclass(frozen=True)
class FeatureConfig:
    """Settings of the feature fit."""

    dim: int = 24
    """Channels of a Gaussian's feature. With color beside them 24 fill the 32 channels that gsplat draws at once."""
    steps: int = 200
    """Steps of the loss, one view each. With held codes they train the Gaussians that lie in no agreed segment."""
    lr: float = 0.02
    lr_final: float = 0.001
    """Adam's rate decays from ``lr`` to ``lr_final`` along a half cosine."""
    init_sigma: float = 0.01
    """Features start as normal noise of this size."""
    init: Literal["noise", "segments"] = "segments"
    """``segments``: Gaussians in segments that several views agree on start from codes of those segments instead."""
    hold_segments: bool = True
    """Keep those codes; the loss trains the other Gaussians only."""
    mask_clustering: MaskClusteringConfig = field(default_factory=MaskClusteringConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    segment_features: SegmentFeatureConfig = field(default_factory=SegmentFeatureConfig)
    loss: LossConfig = field(default_factory=lambda: BEST_LOSS)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    full_render: bool = False
    """Train through full rendered images instead of pixel pools."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise SplatsegError(f"features.dim: expected at least 1, found {self.dim}")
        if self.steps < 1:
            raise SplatsegError(f"features.steps: expected at least 1, found {self.steps}")
        if self.init not in ("noise", "segments"):
            raise SplatsegError(f"features.init: expected noise or segments, found '{self.init}'")

    @classmethod
    def published(cls) -> FeatureConfig:
        """The constants of the published Gaussian-splatting variant (loss preset ``gs``, unit-norm first features)."""
        loss = LossConfig.gs()
        sampling = SamplingConfig(pool_pixels=loss.pixels, batch_pixels=loss.pixels)
        return cls(dim=16, loss=loss, sampling=sampling, steps=1000, init="noise", hold_segments=False, init_sigma=0.25)

    @classmethod
    def from_noise(cls) -> FeatureConfig:
        """The loss alone, from noise: every feature is trained, and no view's masks are compared with another's.

        16 channels, as in the paper's table 4.
        """
        return cls(dim=16, init="noise", hold_segments=False, steps=1000)

    @classmethod
    def preset(cls, name: str) -> FeatureConfig:
        """``fast``, ``default`` or ``quality``."""
        base = cls()
        if name == "fast":
            return replace(base, steps=100)
        if name == "default":
            return base
        if name == "quality":
            return replace(base, steps=1000)
        raise SplatsegError(f"preset: expected fast, default or quality, found '{name}'")


def learning_rate(config: FeatureConfig, step: int) -> float:
    """Half-cosine decay from ``lr`` to ``lr_final``."""
    share = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.lr_final + (config.lr - config.lr_final) * share


def fit_features(
    gaussians: Gaussians,
    views: Sequence[View],
    hierarchy_of: HierarchyOf,
    config: FeatureConfig = FeatureConfig(),
    hooks: FitHooks | None = None,
    ranks: Ranks = ALONE,
) -> FeatureField:
    """Learn a feature for every Gaussian (OmniSeg3D, Ying et al. 2024, section 3).

    Args:
        gaussians: the frozen splat; its device is where the fit computes.
        views: training views.
        hierarchy_of: loads the patch hierarchy of a view, called a few times a view, from several threads at once.
        config: see :class:`FeatureConfig`.
        hooks: checkpoints and reporter; a checkpoint found there is taken up.
        ranks: of which this is the first; the others :func:`help_with_features`.

    Returns:
        The field, on the CPU.

    Raises:
        SplatsegError: no view has a usable mask, a hierarchy of another size than its view, a checkpoint of another
            fit, or a loss that is not finite.
    """
    hooks = hooks or FitHooks()
    trainer = FeatureTrainer(gaussians, views, hierarchy_of, config, ranks)
    saved = hooks.load_checkpoint()
    trainer.ask(int(saved["step"]) if saved else 0, evidence=saved is None and config.init == "segments")
    before = float(saved["seconds"]) if saved else 0.0
    started = last_saved = time.monotonic()
    with freed_memory_kept():
        first = trainer.restore(saved) if saved else trainer.start(hooks.reporter)
    report_every = max(config.steps // 20, 1)
    done = first
    with freed_memory_kept(), hooks.reporter.count(config.steps, "features", initial=first) as progress:
        while done < config.steps:
            until = min((done // report_every + 1) * report_every, config.steps)
            made, loss = trainer.advance(done, until)
            done += made
            progress.advance(made)
            seconds = before + time.monotonic() - started
            if done % report_every == 0:
                if not math.isfinite(loss):
                    raise SplatsegError(f"features: expected a finite loss, found {loss} at step {done}")
                hooks.reporter.log({"stage": "features", "step": done, "seconds": round(seconds, 3), "loss": loss})
                progress.advance(0, loss=f"{loss:.3f}")
            if time.monotonic() - last_saved > hooks.checkpoint_seconds:
                hooks.save_checkpoint({**trainer.checkpoint(done), "seconds": seconds})
                last_saved = time.monotonic()
    trainer.dismiss()
    trainer.fill()
    return FeatureField(trainer.features.detach().cpu(), gaussians.fingerprint(), trainer.segments)


def help_with_features(
    gaussians: Gaussians, views: Sequence[View], hierarchy_of: HierarchyOf, config: FeatureConfig, ranks: Ranks
) -> None:
    """What other ranks do while the first is in :func:`fit_features` with the same arguments: evidence and pools."""
    with freed_memory_kept():
        FeatureTrainer(gaussians, views, hierarchy_of, config, ranks).help()


@dataclass(frozen=True)
class PoolRequest:
    """What rank 0 asks of the others: their share of the evidence, and pools of the views ``wanted`` of at most so many
    pixels."""

    evidence: bool
    pixels: int
    wanted: tuple[int, ...]


class FeatureTrainer:
    """Features, their optimizer and the pools of one fit.

    Where Gaussians are held, steps on the CPU know the others alone: gradient, averages and the pools' contributions
    are of those, and what the held ones give each pixel is added up once.
    """

    def __init__(
        self,
        gaussians: Gaussians,
        views: Sequence[View],
        hierarchy_of: HierarchyOf,
        config: FeatureConfig,
        ranks: Ranks = ALONE,
    ) -> None:
        if not views:
            raise SplatsegError("features: expected at least one training view, found none")
        self.gaussians = gaussians.detach()
        for name, tensor in self.gaussians.tensors().items():
            if name != "sh":  # the others are what pools read, which take it for granted
                check_finite(name, tensor)
        self.views = views
        self.config = config
        self.ranks = ranks
        self._features = self._noise() if ranks.first else gaussians.means.new_zeros(0, config.dim)
        self._moving: tuple[Tensor, Tensor] | None = None  # ids (m,) and features (m, d) of those that steps move
        self._optimizer: SparseFeatureAdam | None = None
        self.replays = can_replay(self._features) and not config.full_render
        self.pools = PoolCache(self.gaussians, views, hierarchy_of, config.sampling, config.seed, self.replays)
        self.pools.together = self.replays and ranks.alone
        self._replayed: PooledSteps | None = None
        self.held: Tensor | None = None
        """(n,) bool: Gaussians in an agreed segment, which ``hold_segments`` keeps; None before :meth:`start`."""
        self.segments: Segments | None = None

    @property
    def features(self) -> Tensor:
        """(n, d) as they are now."""
        if self._moving is not None:
            rows, moved = self._moving
            self._features[rows] = moved
        return self._features

    @property
    def optimizer(self) -> SparseFeatureAdam:
        """Of the features that steps move; made when it is first asked for, as it takes four times their memory."""
        if self._optimizer is None:
            moved = self._features if self._moving is None else self._moving[1]
            self._optimizer = SparseFeatureAdam(
                moved, AdamConfig(lr=self.config.lr, norm_weight=self.config.loss.norm_weight)
            )
        return self._optimizer

    def start(self, reporter: Reporter = SILENT) -> int:
        """Set the first features as ``config.init`` says; returns 0, the number of steps done."""
        features = self._features
        self.held = torch.zeros(len(self.gaussians), dtype=torch.bool, device=features.device)
        if self.config.init == "segments":
            with reporter.count(len(self.views), "segments") as progress:
                pools = self._evidence(progress)
                found = find_segments(
                    pools, len(self.gaussians), self.config.mask_clustering, self.config.seed, self.gaussians
                )
            self.segments = complete(found, self.gaussians, self.config.regions)
            codes = segment_features(
                self.segments, self.config.dim, self.config.segment_features, self.config.seed, features.device
            )
            known = (codes != 0).any(dim=1)
            features[known] = codes[known]
            # What no view was seen to show has its neighbor's code to begin with; the loss may know better.
            self.held = known & torch.from_numpy(self.segments.weights > 0).to(known.device)
        self._hold()
        return 0

    def _noise(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.config.seed)
        noise = torch.randn(len(self.gaussians), self.config.dim, generator=generator)
        return noise.mul_(self.config.init_sigma).to(self.gaussians.device)

    def fill(self) -> None:
        """Give Gaussians that neither segments nor the loss have moved from their noise the feature of the nearest one
        that has one. Without agreed segments the noise stays, as published."""
        self.pools.forget()
        self._optimizer = None
        if self.segments is None:
            return
        features = self.features
        unmoved = (features == self._noise()).all(dim=1)
        if not bool(unmoved.any()) or bool(unmoved.all()):
            return
        means = self.gaussians.means.cpu().numpy()
        blank, known = unmoved.cpu().numpy().nonzero()[0], (~unmoved).cpu().numpy().nonzero()[0]
        source = torch.from_numpy(known[nearest(means[known], means[blank])[0][:, 0]]).to(features.device)
        features[unmoved] = features[source]
        if self._moving is not None:
            self._moving = (self._moving[0], features[self._moving[0]])

    def _evidence(self, progress: Counter) -> Iterator[PixelPool]:
        """A pool a view, of pixels in and outside masks; none of them is kept."""
        clustering = self.config.mask_clustering
        pixels = max(min(clustering.pixels, clustering.total_pixels // len(self.views)), 1)
        config = replace(self.config.sampling, pool_pixels=pixels, batch_pixels=1, unmasked=True)

        def pools(numbers: Sequence[int]) -> Iterator[PixelPool | None]:
            hierarchies = ahead(self.pools.hierarchy_of, [self.views[index] for index in numbers])
            for index, hierarchy in zip(numbers, hierarchies, strict=True):
                yield self.pools.another(index, hierarchy, config)

        for pool in self.ranks.collect(len(self.views), pools, self.gaussians.device):
            progress.advance()
            if pool is not None:
                yield pool

    def ask(self, first: int, evidence: bool) -> None:
        """Have the other ranks make the pools of the steps from number ``first`` on, and first their share of the
        ``evidence``. While this rank looks at that, they are at the pools, and it makes none itself."""
        if self.ranks.alone:
            return
        wanted = list(range(len(self.views)))
        if not self.replays:
            orders = (self._order(step)[0] for step in range(first, self.config.steps))
            wanted = list(dict.fromkeys(orders))
        if wanted:
            self.pools.settle(wanted[0])
        request = self.ranks.broadcast(PoolRequest(evidence, self.pools.pixels, tuple(wanted)))
        self.pools.arriving = zip(wanted, self._collected(request), strict=True)

    def help(self) -> None:
        """Do what :meth:`ask` asks for."""
        request = self.ranks.broadcast(PoolRequest(False, 0, ()))
        if request.evidence:
            with SILENT.count(len(self.views), "segments") as progress:
                list(self._evidence(progress))
        self.pools.pixels = request.pixels
        list(self._collected(request))

    def _collected(self, request: PoolRequest) -> Iterator[PixelPool | None]:
        """The pools that are wanted, in their order, in rank 0."""
        wanted = request.wanted
        return self.ranks.collect(
            len(wanted),
            lambda numbers: self.pools.once([wanted[number] for number in numbers]),
            self.gaussians.device,
            held=len(wanted),
            first_too=not request.evidence,
        )

    def dismiss(self) -> None:
        """Take what the other ranks still hold."""
        for _ in self.pools.arriving:
            pass

    def _hold(self) -> None:
        """From now on steps keep the features that are held."""
        if not self.config.hold_segments or self.held is None or not bool(self.held.any()):
            return
        if self.replays or self.config.full_render:
            self.optimizer.freeze(self.held)
            return
        rows = (~self.held).nonzero()[:, 0]
        self._moving, self._optimizer = (rows, self._features[rows]), None
        number = torch.full((len(self.held),), -1, dtype=torch.int32, device=rows.device)
        number[rows] = torch.arange(len(rows), dtype=torch.int32, device=rows.device)
        self.pools.forget()
        self.pools.prepare = lambda pool: pool.without(number, self._features)

    def advance(self, step: int, until: int) -> tuple[int, float]:
        """Make steps from number ``step`` on, one or, where the device replays them, all before ``until``.

        Returns how many, and the loss of the last.
        """
        if not self.replays:
            return 1, self.step(step)
        if self.held is None:
            self.start()
        if self._replayed is None:
            self._replayed = self.replay()
        self._replayed.run(until - step)
        self._replayed.check()
        return until - step, float(self._replayed.losses[until - 1])

    def replay(self) -> PooledSteps:
        """Trace the pools of all views, and lay down what each step will do; views in the order of :meth:`step`."""
        usable: list[int] = []
        pools = self._pools_once(usable)
        first = next(pools, None)
        if first is None:
            raise SplatsegError(NO_MASKS)
        size = BatchSize(self.config.sampling.batch_pixels, self.config.loss.min_pixels)
        shuffle = torch.Generator(self.features.device).manual_seed(self.config.seed)
        stack = PoolStack.of(chain([first], pools), size, shuffle)
        place = {index: k for k, index in enumerate(usable)}
        batches_of = stack.view.bincount(minlength=len(place)).tolist()
        first_of = [0, *accumulate(batches_of)]
        batches = []
        for step in range(self.config.steps):
            generator = self._step_generator(step)
            order = self._order(step, generator)
            view = next(place[i] for i in order if i in place)
            batches.append(first_of[view] + int(torch.randint(batches_of[view], (1,), generator=generator)))
        rates = [learning_rate(self.config, step) for step in range(self.config.steps)]
        return PooledSteps(stack, self.optimizer, self.config.loss, Schedule(torch.tensor(batches), rates))

    def _pools_once(self, usable: list[int]) -> Iterator[PixelPool]:
        """The pool of each view that has one, which is noted in ``usable``; none is kept: batches take their place."""
        for index, pool in self.pools.arriving if self.ranks.size > 1 else enumerate(self.pools.once()):
            if pool is not None:
                usable.append(index)
                yield pool

    def _order(self, step: int, generator: torch.Generator | None = None) -> list[int]:
        """Views in the order in which a step tries them; ``generator`` is the step's, new if None."""
        generator = self._step_generator(step) if generator is None else generator
        return torch.randperm(len(self.views), generator=generator).tolist()  # type: ignore[no-any-return]

    def _step_generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)

    def step(self, step: int) -> float:
        """One optimizer step on one view (more, where views turn out to have no masks); returns its loss."""
        if self.held is None:
            self.start()
        generator = self._step_generator(step)
        for index in self._order(step, generator):
            pool = self.pools.get(index)
            if pool is None:
                continue
            batch = draw_batch(pool, self.config.sampling.batch_pixels, generator)
            if self.config.full_render:
                loss = self._accumulate_rendered(index, pool, batch.rows, batch.patch)
            else:
                blended = pool.blended(self.optimizer.features, batch.rows)
                loss, grad = hierarchical_contrastive_loss_and_grad(
                    blended, batch.patch, membership=pool.membership, config=self.config.loss
                )
                self.optimizer.accumulate(pool.contributions, grad, batch.rows)
            self.optimizer.step(learning_rate(self.config, step))
            return float(loss)
        raise SplatsegError(NO_MASKS)

    def _accumulate_rendered(self, index: int, pool: PixelPool, rows: Tensor, patch: Tensor) -> Tensor:
        """The same loss through a complete rendered image."""
        features = self._features.clone().requires_grad_()
        image = render(self.gaussians, self.views[index].camera.to(features.device), features=features).features
        assert image is not None
        columns, lines = pool.contributions.pixels[rows].long().unbind(1)
        loss = hierarchical_contrastive_loss(
            image[lines, columns], patch, membership=pool.membership, config=self.config.loss
        )
        (grad,) = torch.autograd.grad(loss, features)
        self.optimizer.accumulate_dense(grad)
        return loss.detach()

    def checkpoint(self, done: int) -> dict[str, Any]:
        """Everything :meth:`restore` needs to go on after ``done`` steps as if nothing had happened."""
        segments = {} if self.segments is None else self.segments.to_tensors()
        return {"step": done, "features": self.features, "held": self.held, **segments, **self.optimizer.state_dict()}

    def restore(self, saved: dict[str, Any]) -> int:
        """Take the state over; returns the number of steps already done."""
        if saved["features"].shape != self._features.shape:
            raise SplatsegError(
                f"checkpoint of the features: expected shape {tuple(self._features.shape)}, "
                f"found {tuple(saved['features'].shape)}"
            )
        self._features.copy_(saved["features"])
        self.held = saved["held"].to(self._features.device)
        stored = {name: value for name, value in saved.items() if name.startswith("segments.")}
        self.segments = Segments.from_tensors(stored, len(self._features)) if stored else None
        self._hold()
        moments = {name: self._fitting(saved[name]) for name in ("exp_avg", "exp_avg_sq") if name in saved}
        self.optimizer.load_state_dict(saved | moments)
        return int(saved["step"])

    def _fitting(self, moment: Tensor) -> Tensor:
        """A saved average of all Gaussians or of those that move, as the optimizer has it here: a fit may go on on
        another device."""
        moves = ~self.held if self.held is not None else None
        if moves is None or len(moment) == len(self.optimizer.features) or not moment.dim():
            return moment
        if len(moment) == len(moves):
            return moment[moves.to(moment.device)]
        whole = moment.new_zeros(len(moves), *moment.shape[1:])
        if len(moment) == int(moves.sum()):
            whole[moves.to(moment.device)] = moment
        return whole if len(moment) == int(moves.sum()) else moment
