"""Fit a segmentable splat to a capture and split it into labeled objects: the main job.

    splatseg fit SCENE                         COLMAP, or a transforms.json
    splatseg fit SCENE --masks sam             masks that give quality
    splatseg fit PHOTOS --sfm                  photos alone: poses first
    splatseg fit --splat FILE                  a splat alone: views are planned
    splatseg fit --config runs/x/config.yaml --out runs/y       once more
    torchrun --nproc-per-node 2 -m splatseg.cli fit SCENE       by two processes

A fit that was stopped goes on where it was when the same command is given
again. Every setting can be changed, as by --config.geometry.steps 4000.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from splatseg.cli.endings import last_given, parse
from splatseg.cli.options import IntOrNone, PathOrNone, TextOrNone
from splatseg.core.errors import SplatsegError
from splatseg.core.progress import terminal
from splatseg.core.rank_endings import process_ranks
from splatseg.core.ranks import Ranks
from splatseg.fit.config_file import Repeated, read_fit_config
from splatseg.fit.helper import fit_by
from splatseg.fit.settings import FitConfig, FitInputs
from splatseg.io.colmap import find_model
from splatseg.io.splats import SUFFIXES, beside
from splatseg.render.backends import take_own_gpu

Preset = Literal["fast", "default", "quality"]


@dataclass(frozen=True)
class Arguments:
    """Fit a splat with a feature field to a capture and split it into labeled objects."""

    scene: Annotated[PathOrNone, tyro.conf.Positional, tyro.conf.arg(metavar="SCENE")] = None
    """COLMAP capture, or a folder of photos with --sfm. With --splat it may be left out: views of the splat are planned
    and rendered then."""
    out: PathOrNone = None
    """Run folder; runs/NAME of the scene if not given."""
    preset: Preset = "default"
    """Starting point of all settings: fast, default, or quality, which takes longest."""
    masks: TextOrNone = None
    """sam, watershed (needs no weights), or a folder of masks (of amg.py, or a label map per view). Not given: those
    that the run holds ('splatseg masks'), else watershed."""
    splat: PathOrNone = None
    """Use this splat instead of fitting one: PLY of any tool, compressed PLY, spz, sog, splat, ksplat."""
    splat_transform: PathOrNone = None
    """Where that splat lies in another frame: nerfstudio's dataparser_transforms.json, or 4x4 numbers (JSON or text)
    that take its positions to the capture's."""
    sfm: bool = False
    """Find the poses with pycolmap first."""
    model: TextOrNone = None
    """Of several models in SCENE/sparse the one in this folder; without it the one with most photos."""
    config_file: Annotated[PathOrNone, tyro.conf.arg(name="config", metavar="FILE")] = None
    """The config.yaml of a run, to repeat it: scene, masks and all settings as they were. Options beat the file, and a
    --preset beats its settings of geometry and features."""
    downscale: IntOrNone = None
    """Use the photos at 1/downscale of their size (same as --config.downscale)."""
    blocks: TextOrNone = None
    """Fit the geometry in so many blocks of the capture, one after the other, in less memory; auto, the default: in one
    wherever there is memory for it (same as --config.blocks)."""
    full_render: bool = False
    """Train features through whole rendered images, not pools (same as --config.features.full-render)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where a GPU and the kernels for it are there."""
    quiet: bool = False
    """No progress on stderr."""
    config: FitConfig = field(default_factory=FitConfig)


def defaults() -> tuple[Arguments, Repeated]:
    """What holds where no option says otherwise: the preset's settings, or those of ``--config FILE``."""
    preset = last_given("--preset")
    chosen = FitConfig.preset(preset if preset is not None and preset in get_args(Preset) else "default")
    file = last_given("--config")
    if file is None:
        return Arguments(config=chosen), Repeated()
    repeated, config = read_fit_config(Path(file))
    if preset is not None:
        config = replace(config, geometry=chosen.geometry, features=chosen.features)
    return Arguments(
        scene=repeated.scene,
        splat=repeated.splat,
        splat_transform=repeated.splat_transform,
        sfm=repeated.sfm,
        config=config,
    ), repeated


def inputs_of(arguments: Arguments, repeated: Repeated) -> FitInputs:
    """What is fitted, and where it goes.

    Raises:
        SplatsegError: options that do not go together.
    """
    if arguments.scene is None:
        _check_bare(arguments)
    named = arguments.scene or _without_suffix(arguments.splat)
    out = arguments.out or Path("runs") / named.resolve().name
    # The model's folder is a scene of its own: whoever opens the run finds the same poses.
    scene = arguments.scene
    if scene is not None and arguments.model is not None:
        scene = find_model(scene, arguments.model)
    if arguments.splat_transform is not None and arguments.splat is None:
        raise SplatsegError("--splat-transform: expected --splat beside it, found none")
    kept = repeated.masks_in if arguments.masks is None else None
    if kept is not None and not kept.is_dir():
        raise SplatsegError(
            f"{arguments.config_file}: masks_in: expected the folder of masks that the run took, found none at {kept}; "
            "name masks with --masks"
        )
    masks = arguments.masks or (repeated.masks if kept is None else None)
    return FitInputs(
        scene, out, masks, arguments.splat, arguments.sfm, arguments.device, arguments.splat_transform, kept
    )


def _check_bare(arguments: Arguments) -> None:
    if arguments.splat is None:
        raise SplatsegError("SCENE: expected a capture, or --splat FILE alone, found neither")
    for option in ("sfm", "model", "splat_transform"):
        if getattr(arguments, option):
            raise SplatsegError(f"--{option.replace('_', '-')}: expected a SCENE beside it, found none")


def _without_suffix(splat: Path | None) -> Path:
    """Where a run of a splat alone gets its name from."""
    assert splat is not None
    return beside(splat, "") if splat.name.lower().endswith(tuple(SUFFIXES.values())) else splat.with_suffix("")


def main() -> None:
    with process_ranks() as ranks:
        take_own_gpu()
        fit(ranks)


def fit(ranks: Ranks) -> None:
    default, repeated = defaults()
    arguments = parse(Arguments, default=default, description=__doc__)
    inputs = inputs_of(arguments, repeated)
    config = arguments.config
    if arguments.downscale is not None:
        config = replace(config, downscale=arguments.downscale)
    if arguments.blocks is not None:
        config = replace(config, blocks=arguments.blocks)
    if arguments.full_render:
        config = replace(config, features=replace(config.features, full_render=True))
    figures = fit_by(inputs, config, terminal(arguments.quiet or not ranks.first), ranks)
    if ranks.first:
        tell(figures, inputs.out)


def tell(figures: dict[str, Any], out: Path) -> None:
    """What was made, and where it is."""
    for name, value in figures.items():
        if not isinstance(value, dict):  # tables that 'splatseg evaluate' added
            print(f"{name:>20}  {value}")
    print(f"{'contact sheet':>20}  {out / 'contact_sheet.png'}")
    print(f"{'labeled splat':>20}  {out / 'labels.ply'}")
    print(f"{'viewer':>20}  splatseg view {out}")
