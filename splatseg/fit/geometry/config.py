"""Settings of the geometry fit and their presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from splatseg.core.errors import SplatsegError

PUBLISHED_RATES: dict[str, Any] = {
    "lr_means": 1.6e-4,
    "lr_means_final": 1.6e-6,
    "lr_scales": 5e-3,
    "lr_quats": 1e-3,
    "lr_opacities": 5e-2,
    "lr_sh0": 2.5e-3,
    "lr_sh_rest": 2.5e-3 / 20,
}
"""Learning rates of 3DGS (Kerbl et al. 2023), for 30,000 steps."""


@dataclass(frozen=True)
class DenseConfig:
    """Surface points from the photos themselves, before the first step (:mod:`splatseg.fit.geometry.dense`)."""

    below: float = 150
    """Sparse points a photo from which on ``start`` ``auto`` is sparse."""
    side: int = 400
    """Long side in pixels of the photos that are matched."""
    photos: int = 64
    """Photos that are matched at most, evenly spread over the names in order: half a second of processor time each."""
    planes: int = 128
    """Depths tried at a quarter of that size."""
    sources: int = 4
    """Views that each view is matched with."""
    score: float = 0.6
    """Least correlation of a match."""
    agree: int = 1
    """Least number of other views that find a point at the same place."""
    tolerance: float = 0.01
    """The same place: within this share of its distance."""
    points: int = 120_000
    """Points kept at most."""
    least_share: float = 0.02
    """Least share of the textured pixels that several photos must explain; else the start is sparse."""
    carve: int = 2
    """While densifying, remove Gaussians that so many views see past, 0 none: floaters in space known to be free."""
    passes: int = 40
    """Most steps after a dense start, in passes over the photos. It begins near the end, and few photos are fitted ever
    better by more steps at the cost of the views between them (docs/evaluation/real_photos.md)."""


@dataclass(frozen=True)
class GeometryConfig:
    """3DGS training as gsplat's ``simple_trainer`` does it (Kerbl et al. 2023), scaled to ``steps``.

    Fractions are of ``steps``, so that a preset changes one number. Learning rates are per step for Adam; that of the
    means is in units of the scene extent. They are those for some thousand steps, three to six times as high
    as the published ones (the means' last one: 30 times), which are for 30,000 (:data:`PUBLISHED_RATES`, of
    ``quality``): with those a short fit stops on the way. docs/evaluation/real_photos.md has the figures.
    """

    steps: int = 3000
    """Optimizer steps, one training view each."""
    coarse_fraction: float = 0.3
    """Share of the steps trained at half resolution: a quarter of the pixels while the large structure settles."""
    sh_degree: int = 2
    """Highest degree of the spherical harmonics, 0..3."""
    sh_degree_every: float = 0.12
    """The degree in use grows by one every so often (fraction of steps)."""
    ssim_weight: float = 0.2
    """Share of D-SSIM in the loss, the rest is L1."""
    lr_means: float = 9.6e-4
    lr_means_final: float = 4.8e-5
    lr_scales: float = 2e-2
    lr_quats: float = 3e-3
    lr_opacities: float = 5e-2
    lr_sh0: float = 1e-2
    lr_sh_rest: float = 5e-4
    init_opacity: float = 0.1
    init_scale: float = 1.0
    """Initial standard deviation in units of the mean distance to the three nearest points."""
    start: Literal["auto", "sparse", "dense"] = "auto"
    """What the fit starts from: ``sparse`` takes the capture's points alone; ``dense`` adds surface points found by
    matching the photos, where the photos agree on any (a line says where not), and the far shell; ``auto`` is dense
    where the capture has fewer than ``dense.below`` points a photo. docs/evaluation/real_photos.md has the figures."""
    dense: DenseConfig = field(default_factory=DenseConfig)
    shell: int = 3000
    """Points of a dense start on a sphere round everything, at most, in the colors that the photos show there; 0 none.
    They are part of the splat: sky and far walls (:mod:`splatseg.fit.geometry.shell`)."""
    shell_reach: float = 3.0
    """Radius of that sphere, in distances of the farthest sparse points."""
    strategy: Literal["default", "mcmc"] = "default"
    """How Gaussians come and go: ``default`` clones, splits and prunes by gradient (Kerbl et al. 2023); ``mcmc`` moves
    dead ones and adds up to ``max_gaussians`` (Kheradmand et al. 2024); :meth:`mcmc` sets what goes with it."""
    opacity_reg: float = 0.01
    """Weight of the mean opacity in the loss; ``mcmc`` only."""
    scale_reg: float = 0.01
    """Weight of the mean standard deviation in the loss; ``mcmc`` only."""
    packed: bool = False
    """On CUDA, gsplat's packed mode: less memory where a view shows a small part of the scene."""
    max_gaussians: int = 200_000
    """Densification stops adding near this number; bounds memory (about 1 kB a Gaussian with the optimizer state)."""
    refine_start: float = 0.04
    refine_stop: float = 0.6
    refine_every: int = 100
    """Densify and prune every so many steps between ``refine_start`` and ``refine_stop`` (fractions)."""
    grow_grad2d: float = 0.0002
    """Gradient of the projected mean, in normalized image units, above which a Gaussian is cloned or split."""
    absgrad: bool = False
    """Use the absolute gradient (AbsGS); its threshold is about four times larger."""
    opacity_reset_every: int = 0
    """Set opacities back to 0.01 every so many steps during refinement, 0 never (3DGS: 3000 of 30000)."""
    prune_opacity: float = 0.005
    left_out: float = 0.8
    """Remove Gaussians with more than this share of their weight where photos are not compared (masks of the capture,
    alpha), 1 none: they stick out of what counts (:mod:`splatseg.fit.geometry.left_out`). Not with ``mcmc``."""
    eval_every: float = 0.1
    """Measure PSNR on the held-out views every so often (fraction of steps)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SplatsegError(f"geometry.steps: expected at least 1, found {self.steps}")
        if self.sh_degree not in (0, 1, 2, 3):
            raise SplatsegError(f"geometry.sh_degree: expected 0, 1, 2 or 3, found {self.sh_degree}")
        if self.max_gaussians < 1:
            raise SplatsegError(f"geometry.max_gaussians: expected at least 1, found {self.max_gaussians}")
        if self.start not in ("auto", "sparse", "dense"):
            raise SplatsegError(f"geometry.start: expected auto, sparse or dense, found '{self.start}'")
        if self.dense.passes < 1:
            raise SplatsegError(f"geometry.dense.passes: expected at least 1, found {self.dense.passes}")
        if self.shell < 0:
            raise SplatsegError(f"geometry.shell: expected 0 or more points, found {self.shell}")
        if not 1 < self.shell_reach < math.inf:
            raise SplatsegError(f"geometry.shell_reach: expected more than 1, found {self.shell_reach}")
        if not 0 < self.left_out <= 1:
            raise SplatsegError(f"geometry.left_out: expected a share above 0 and up to 1, found {self.left_out}")
        if self.strategy not in ("default", "mcmc"):
            raise SplatsegError(f"geometry.strategy: expected default or mcmc, found '{self.strategy}'")

    def after_dense_start(self, photos: int) -> GeometryConfig:
        """These settings with the steps that a fit to so many ``photos`` takes after a dense start."""
        return replace(self, steps=min(self.steps, self.dense.passes * photos))

    def starts_dense(self, points: int, photos: int) -> bool:
        """Whether a fit to so many ``photos`` with so many sparse ``points`` starts dense."""
        return self.start == "dense" or (self.start == "auto" and points < self.dense.below * photos)

    def mcmc(self) -> GeometryConfig:
        """The same with the MCMC strategy and the first guess that its paper and gsplat's trainer use with it."""
        return replace(self, strategy="mcmc", init_opacity=0.5, init_scale=0.1)

    @classmethod
    def preset(cls, name: str) -> GeometryConfig:
        """``fast``, ``default`` or ``quality``."""
        base = cls()
        if name == "fast":
            return replace(base, steps=1200, sh_degree=1, max_gaussians=100_000, coarse_fraction=0.5)
        if name == "default":
            return base
        if name == "quality":
            more = replace(base, steps=30_000, sh_degree=3, max_gaussians=3_000_000, coarse_fraction=0.1)
            return replace(more, dense=replace(base.dense, passes=120), **PUBLISHED_RATES)
        raise SplatsegError(f"preset: expected fast, default or quality, found '{name}'")
