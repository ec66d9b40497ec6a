"""Fit a segmentable splat to a COLMAP capture: ``python scripts/fit.py SCENE [--out RUN] [--preset
fast|default|quality]``.

SCENE holds ``images/`` and ``sparse/0`` (binary or text, any camera model that pycolmap knows), a ``transforms.json``
of nerfstudio or instant-ngp, or photos alone with ``--sfm``. Every setting of the preset can be changed, e.g.
``--config.geometry.steps 4000 --config.features.dim 8``.
A killed fit goes on where it was when the same command is given again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from splatseg.cli.endings import last_given, parse
from splatseg.core.errors import SplatsegError
from splatseg.core.progress import terminal
from splatseg.fit.pipeline import Fit
from splatseg.fit.settings import FitConfig, FitInputs
from splatseg.io.colmap import find_model

Preset = Literal["fast", "default", "quality"]


@dataclass(frozen=True)
class Arguments:
    """Fit a splat with a feature field to a capture and split it into labeled objects."""

    scene: Annotated[Path, tyro.conf.Positional]
    """COLMAP capture, or a folder of photos with --sfm."""
    out: Path | None = None
    """Run folder; runs/<scene name> if not given."""
    preset: Preset = "default"
    """Starting point of all settings below."""
    masks: str | None = None
    """watershed (needs no weights), sam, or a folder of masks (amg.py output or one label map a view); not given: those
    that the run holds (scripts/masks.py), else watershed."""
    splat: Path | None = None
    """Use this splat (PLY from INRIA's code, gsplat or nerfstudio) instead of fitting one."""
    splat_transform: Path | None = None
    """Where that splat lies in another frame: nerfstudio's dataparser_transforms.json, or 4x4 numbers (JSON or text)
    that take its positions to the capture's."""
    sfm: bool = False
    """Find the poses with pycolmap first."""
    model: str | None = None
    """Of several models in SCENE/sparse the one in this folder; without it the one with most photos."""
    downscale: int | None = None
    """Use the photos at 1/downscale of their size (same as --config.downscale)."""
    full_render: bool = False
    """Train features through whole rendered images, not pools (same as --config.features.full-render)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where a GPU and the kernels for it are there."""
    quiet: bool = False
    """No progress on stderr."""
    config: FitConfig = field(default_factory=FitConfig)


def main() -> None:
    preset = last_given("--preset")
    known = FitConfig.preset(preset if preset is not None and preset in get_args(Preset) else "default")
    arguments = parse(Arguments, default=Arguments(scene=tyro.MISSING, config=known), description=__doc__)
    out = arguments.out or Path("runs") / arguments.scene.resolve().name
    # The model's folder is a scene of its own: whoever opens the run finds the same poses.
    scene = arguments.scene if arguments.model is None else find_model(arguments.scene, arguments.model)
    if arguments.splat_transform is not None and arguments.splat is None:
        raise SplatsegError("--splat-transform: expected --splat beside it, found none")
    inputs = FitInputs(
        scene, out, arguments.masks, arguments.splat, arguments.sfm, arguments.device, arguments.splat_transform
    )
    config = arguments.config
    if arguments.downscale is not None:
        config = replace(config, downscale=arguments.downscale)
    if arguments.full_render:
        config = replace(config, features=replace(config.features, full_render=True))
    figures = Fit(inputs, config, terminal(arguments.quiet)).execute()
    for name, value in figures.items():
        if not isinstance(value, dict):  # tables that scripts/evaluate.py added
            print(f"{name:>20}  {value}")
    print(f"{'contact sheet':>20}  {out / 'contact_sheet.png'}")
    print(f"{'labeled splat':>20}  {out / 'labels.ply'}")
    print(f"{'viewer':>20}  python scripts/view.py {out}")
