"""Constants of the hierarchical contrastive loss."""

from __future__ import annotations

from dataclasses import dataclass, replace

from splatseg.core.errors import SplatsegError


@dataclass(frozen=True)
class LossConfig:
    """Constants of the loss; the defaults are those of :meth:`gs`."""

    phi_min: float = 0.5
    """Smallest concentration phi, > 0: below it a patch's temperature does not fall."""
    phi_max: float = 1.0
    """Largest concentration phi."""
    phi_scale: float = 10.0
    """Factor on phi before it is clipped."""
    level_decay: float = 0.2
    """Level l counts decay^l; 0 is the basic loss of eq. 3."""
    min_pixels: int = 21
    """Patches with fewer samples in the batch are left out, as anchors and as negatives."""
    weight: float = 1e-3
    """Factor on the whole sum."""
    norm_weight: float = 100.0
    """Factor on the mean over Gaussians of (|f| - 1)^2; used by the feature fit, not by the op."""
    pixels: int = 32768
    """Pixels sampled a step; used by the feature fit, not by the op."""
    deterministic: bool = False
    """On CUDA, the same bits in every run (slower). The CPU always gives the same bits, for any number of threads."""

    def __post_init__(self) -> None:
        if not 0 < self.phi_min <= self.phi_max:
            raise SplatsegError(f"phi_min, phi_max: expected 0 < min <= max, found {self.phi_min} and {self.phi_max}")
        if self.level_decay < 0:
            raise SplatsegError(f"level_decay: expected at least 0, found {self.level_decay}")
        if self.min_pixels < 1:
            raise SplatsegError(f"min_pixels: expected at least 1, found {self.min_pixels}")

    @classmethod
    def gs(cls) -> LossConfig:
        """The published Gaussian-splatting variant, which keeps patches of more than 20 samples."""
        return cls()

    @classmethod
    def paper(cls) -> LossConfig:
        """The paper's decay, lambda = 0.5; it gives no other values for phi's bounds, so those are the variant's."""
        return replace(cls.gs(), level_decay=0.5)

    @classmethod
    def basic(cls) -> LossConfig:
        """Eq. 3, contrastive clustering without the hierarchy: only the anchor's own level counts."""
        return replace(cls.gs(), level_decay=0.0)
