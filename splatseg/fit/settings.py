"""What the main job is given: settings of all stages, and inputs."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splatseg.core.errors import SplatsegError
from splatseg.fit.features import FeatureConfig
from splatseg.fit.geometry import GeometryConfig
from splatseg.fit.views.config import ViewPlanConfig
from splatseg.masks.hierarchy import HierarchyConfig
from splatseg.masks.sam.config import SamConfig
from splatseg.masks.watershed import WatershedConfig
from splatseg.segment.discretize import ClusterConfig

MADE_MASKS = ("watershed", "sam")  # what --masks calls the sources that make them


@dataclass(frozen=True)
class FitConfig:
    """Everything a fit can be told; written to ``config.yaml`` of the run."""

    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    watershed: WatershedConfig = field(default_factory=WatershedConfig)
    sam: SamConfig = field(default_factory=SamConfig)
    hierarchy: HierarchyConfig = field(default_factory=HierarchyConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    clusters: ClusterConfig = field(default_factory=ClusterConfig)
    views: ViewPlanConfig = field(default_factory=ViewPlanConfig)
    """Of a splat without a capture: how its views are planned."""
    hold_out_every: int = 8
    """Every so many-th view measures PSNR instead of training; 0 trains on all. A scene with its own
    ``test_cameras.json`` is measured on those and trains on all."""
    downscale: int = 1
    """Photos are used at 1/downscale of their size (``images_2``, ``images_4``, ``images_8`` where they exist)."""
    blocks: str = "auto"
    """How many blocks the geometry is fitted in, one after the other, each within its share of the memory, and put
    together (:mod:`splatseg.fit.blocks`): a number, or auto, one wherever this machine has the memory for it."""
    check_memory: bool = True
    """A fit that this machine has no memory for is refused before it begins; False tries anyway (swap)."""

    def __post_init__(self) -> None:
        if self.blocks != "auto" and not (self.blocks.isdecimal() and self.blocks.isascii() and int(self.blocks) > 0):
            raise SplatsegError(f"blocks: expected auto or a whole number of at least 1, found '{self.blocks}'")

    @classmethod
    def preset(cls, name: str) -> FitConfig:
        """``fast``, ``default`` or ``quality``."""
        return cls(geometry=GeometryConfig.preset(name), features=FeatureConfig.preset(name))


@dataclass(frozen=True)
class FitInputs:
    """What is fitted and where it goes."""

    scene: Path | None
    """The capture; None: views of ``splat``, which are planned and rendered into the run."""
    out: Path
    masks: str | None = None
    """``watershed``, ``sam``, or a folder of masks; None: the masks that the run holds, else ``watershed``."""
    splat: Path | None = None
    """An existing splat, of any format, instead of fitting the geometry."""
    sfm: bool = False
    """The scene is a folder of photos without poses: run structure from motion first."""
    device: str = "auto"
    """``auto`` (CUDA where a GPU and the kernels for it are there), ``cpu`` or ``cuda``; no part of the settings, so
    that a fit may go on elsewhere."""
    splat_transform: Path | None = None
    """How ``splat`` lies in the capture's frame: nerfstudio's ``dataparser_transforms.json`` or 4x4 numbers."""
    masks_in: Path | None = None
    """Masks that another run keeps, the folder ``masks/NAME-DIGEST`` in it; ``masks`` must be None."""

    def check(self) -> None:
        """Raise :class:`SplatsegError` for a capture or masks that are not there, and for what goes not together."""
        if self.scene is None:
            self._check_bare()
        elif not self.scene.is_dir():
            raise SplatsegError(f"{self.scene}: expected a folder with a COLMAP capture, found none")
        if self.masks not in (None, *MADE_MASKS) and not Path(self.masks).is_dir():
            raise SplatsegError(f"masks: expected 'watershed', 'sam' or a folder of masks, found '{self.masks}'")

    def check_blocks(self, config: FitConfig) -> None:
        """Raise :class:`SplatsegError` for blocks of a geometry that is not fitted."""
        if self.splat is not None and config.blocks not in ("auto", "1"):
            raise SplatsegError(f"blocks: expected a geometry to fit, found a splat that is given ({self.splat})")

    def _check_bare(self) -> None:
        if self.splat is None:
            raise SplatsegError("scene: expected a capture, or a splat to plan views of, found neither")
        if self.sfm or self.splat_transform is not None:
            name = "sfm" if self.sfm else "splat_transform"
            raise SplatsegError(f"{name}: expected a capture beside it, found a splat alone")


def plain(config: Any) -> dict[str, Any]:
    """A frozen config as plain JSON values, as digests and ``config.yaml`` hold it."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return values
