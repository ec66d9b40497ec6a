"""Find the masks of all photos of a scene, ahead of a fit.

    splatseg masks SCENE --out RUN                      by Segment Anything
    splatseg masks SCENE --out RUN --source watershed   without weights
    torchrun --nproc-per-node 4 scripts/masks.py SCENE --out RUN

SCENE is a COLMAP scene or a folder of images. Masks go to a folder in RUN/masks
for each source and its settings, where 'splatseg fit' finds them; torchrun
gives each process its share of the photos. A call that was stopped goes on
where it was when it is given again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, get_args

import torch
import tyro
from PIL import Image

from splatseg.cli.endings import last_given, parse
from splatseg.cli.options import PathOrNone, TextOrNone
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.photos import find_photos, photo_size, photo_suffixes
from splatseg.core.progress import SILENT, Reporter, terminal
from splatseg.core.rank_endings import process_ranks
from splatseg.core.ranks import ALONE, Ranks
from splatseg.core.scene import View
from splatseg.draw.mask_preview import Pixels, hierarchy_preview
from splatseg.fit.masks_job import MaskJob, run_masks
from splatseg.io.colmap import find_model, has_model, load_colmap
from splatseg.io.run import Run
from splatseg.io.run_log import RunLog
from splatseg.io.run_paths import RunPaths
from splatseg.io.run_scene import recorded_place, take_capture
from splatseg.io.shared_folder import check_shared
from splatseg.masks import MaskSource, mask_source
from splatseg.masks.cache import MaskCache
from splatseg.masks.files import write_note
from splatseg.masks.hierarchy import HierarchyConfig, build_hierarchy
from splatseg.masks.mask_set import MaskSet
from splatseg.masks.sam.config import Preset
from splatseg.masks.sam.source import SamConfig, SamMasks
from splatseg.masks.watershed import WatershedConfig
from splatseg.render.backends import take_own_gpu


@dataclass(frozen=True)
class Arguments:
    """Masks of all photos of a scene."""

    scene: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SCENE")]
    """COLMAP scene, or a folder of images."""
    out: Path
    """Run folder; masks go to its masks/."""
    source: str = "sam"
    """sam, watershed, or a folder of masks (COCO JSON, amg.py folders, label maps)."""
    images: PathOrNone = None
    """Take all images of this folder instead of the scene's registered photos."""
    model: TextOrNone = None
    """Of several models in SCENE/sparse the one in this folder, as in 'splatseg fit'."""
    downscale: int = 1
    """Use photos this many times smaller, as in 'splatseg fit'."""
    preset: Preset = "default"
    """fast: 16x16 points; default: 32x32 points; fine: 32x32 points and a layer of crops. --sam.* overrides."""
    sam_checkpoint: PathOrNone = None
    """Weights; without it the official ones, from $SPLATSEG_CACHE (default: the user's cache folder)."""
    sam: SamConfig = field(default_factory=SamConfig)
    watershed: WatershedConfig = field(default_factory=WatershedConfig)
    preview: bool = False
    """Draw masks and patch hierarchy of every view to the folder preview beside the masks."""
    pixel: tuple[int, int] | None = None
    """Column and row whose levels the hierarchy preview shows; by default one that lies in the most masks."""
    coco: PathOrNone = None
    """Also write amg.py's COCO run-length JSON to this folder."""
    quiet: bool = False
    """No progress, no summary."""


def make(options: Arguments, ranks: Ranks = ALONE) -> None:
    with ranks.in_turn():
        place = {"scene": recorded_place(RunPaths(options.out), scene_folder(options)), "downscale": options.downscale}
        run_folder = Run.open(options.out, place, may_differ=("scene",)) if ranks.first else Run.existing(options.out)
    with run_folder.gone_if_refused():
        check_shared(run_folder.folder, ranks)
        job, views = prepared(options, run_folder, ranks)
    summary = run_masks(views, job, ranks)
    if ranks.first and not options.quiet:
        print(
            f"{len(views)} views: {summary.made} made, {summary.kept} already there; {summary.masks} masks in "
            f"{summary.seconds:.1f} s -> {job.cache.folder}"
        )


def prepared(options: Arguments, run_folder: Run, ranks: Ranks) -> tuple[MaskJob, Sequence[View]]:
    """What is to be done; rank 0 writes what all ranks use: undistorted photos, weights, notes."""
    reporter = terminal(options.quiet or not ranks.first)
    with ranks.in_turn():
        if ranks.first:
            run_folder.remove_leftovers()
        views = load_views(options)
        source = source_of(options, views, reporter)
        cache = MaskCache(run_folder.masks, source)
        if ranks.first:
            take_capture(run_folder, scene_folder(options), views)
        source_name = options.source if options.source in ("watershed", "sam") else Path(options.source).resolve()
        cache.describe(source_name, ahead=True)
        if options.coco is not None and ranks.first:
            write_note(options.coco, views)
    job = MaskJob(
        cache,
        cache.folder / "preview" if options.preview else None,
        lambda image, masks: picture_of_hierarchy(image, masks, options.pixel),
        options.coco,
        RunLog(run_folder, reporter),
        tuple(view.name for view in views),
    )
    return job, views


def scene_folder(options: Arguments) -> Path:
    """The scene, or of its models the one that ``--model`` names: a scene of its own."""
    return options.scene if options.model is None else find_model(options.scene, options.model)


def load_views(options: Arguments) -> Sequence[View]:
    """The views of the scene, or one for each image of a folder."""
    if options.images is None and not is_image_folder(options.scene):
        no_masks = None if options.source in ("watershed", "sam") else Path(options.source)
        return load_colmap(scene_folder(options), options.downscale, Run(options.out).cache, no_masks=no_masks).views
    folder = options.images or options.scene
    if options.downscale != 1:
        raise SplatsegError(f"downscale: expected 1 with a folder of images, found {options.downscale}")
    if not folder.is_dir():
        raise SplatsegError(
            f"{folder}: expected a folder of images, found {'a file' if folder.exists() else 'nothing'}"
        )
    names = find_photos(folder, without=[options.out, folder / "masks"]).names
    if not names:
        raise SplatsegError(f"{folder}: expected images (.jpg, .png, ...), found none")
    return [view_of_image(folder / name, name) for name in names]


def is_image_folder(folder: Path) -> bool:
    """A folder that holds images itself and no poses."""
    if not folder.is_dir() or has_model(folder):
        return False
    return any(path.suffix.lower() in photo_suffixes() for path in folder.iterdir())


def view_of_image(path: Path, name: str) -> View:
    """A view without a pose: masks need the image and its size only."""
    width, height = photo_size(path, name)
    return View(name, Camera(torch.eye(3), torch.eye(4), width, height), path)


def source_of(options: Arguments, views: Sequence[View], reporter: Reporter = SILENT) -> MaskSource:
    if options.source == "sam":
        return SamMasks(sam_config(options), reporter)
    config = options.watershed if options.source == "watershed" else None
    return mask_source(options.source, views, config)


def sam_config(options: Arguments) -> SamConfig:
    """The preset's values with what was given on the command line, as :func:`options_of` parsed it."""
    return options.sam if options.sam_checkpoint is None else replace(options.sam, checkpoint=options.sam_checkpoint)


def options_of() -> Arguments:
    """The command line, with the values of its preset as the defaults: whatever is given explicitly holds."""
    preset = last_given("--preset")
    known = SamConfig.preset(preset) if preset in get_args(Preset) else SamConfig()  # type: ignore[arg-type]
    default = Arguments(scene=tyro.MISSING, out=tyro.MISSING, sam=known)
    return parse(Arguments, default=default, description=__doc__)


def picture_of_hierarchy(image: Pixels, masks: MaskSet, pixel: tuple[int, int] | None) -> Image.Image:
    hierarchy = build_hierarchy(masks, HierarchyConfig())
    return hierarchy_preview(image, hierarchy.patch_ids, hierarchy.membership, pixel)


def main() -> None:
    with process_ranks() as ranks:
        take_own_gpu()
        make(options_of(), ranks)
