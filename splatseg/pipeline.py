"""The main job: a capture becomes a segmentable splat, stage by stage, each cached and resumable.

Stages, in order: ``geometry`` (photos -> Gaussians, or a splat that is given), ``hierarchy`` (masks -> patches, a
view at a
time), ``features`` (hierarchies -> field), ``labels`` (whole-scene label tree), ``sheet`` (the contact sheet). A
stage whose inputs and settings are unchanged is not run again.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from splatseg.clusters import ClusterConfig, LabelTree, discretise
from splatseg.errors import SplatsegError
from splatseg.evaluate.hierarchical import load_test_views
from splatseg.export import save_labels
from splatseg.features import FeatureConfig, fit_features
from splatseg.field import FeatureField
from splatseg.gaussians import Gaussians
from splatseg.geometry import GeometryConfig, fit_geometry, psnr
from splatseg.given import check_agreement, given_splat
from splatseg.hierarchy import HierarchyConfig, HierarchyFolder, build_hierarchy
from splatseg.hooks import FitHooks
from splatseg.io.atomic import write_text
from splatseg.io.colmap import load_colmap, run_sfm
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.io.run import Run, digest
from splatseg.masks import MaskSource, mask_source
from splatseg.masks.cache import MaskCache
from splatseg.masks.preview import hierarchy_preview
from splatseg.masks.sam_config import SamConfig
from splatseg.masks.watershed import WatershedConfig
from splatseg.pictures import contact_sheet
from splatseg.progress import Progress
from splatseg.render import choose_device
from splatseg.scene import Scene, View

SHEET_VIEWS = 4
SHEET_HIERARCHIES = 2


@dataclass(frozen=True)
class FitConfig:
    """Everything a fit can be told; written to ``config.yaml`` of the run."""

    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    watershed: WatershedConfig = field(default_factory=WatershedConfig)
    sam: SamConfig = field(default_factory=SamConfig)
    hierarchy: HierarchyConfig = field(default_factory=HierarchyConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    clusters: ClusterConfig = field(default_factory=ClusterConfig)
    hold_out_every: int = 8
    """Every so many-th view measures PSNR instead of training; 0 trains on all. A scene with its own
    ``test_cameras.json`` is measured on those and trains on all."""
    downscale: int = 1
    """Photos are used at 1/downscale of their size (``images_2``, ``images_4``, ``images_8`` where they exist)."""

    @classmethod
    def preset(cls, name: str) -> FitConfig:
        """``fast``, ``default`` or ``quality``."""
        return cls(geometry=GeometryConfig.preset(name), features=FeatureConfig.preset(name))


@dataclass(frozen=True)
class FitInputs:
    """What is fitted and where it goes."""

    scene: Path
    out: Path
    masks: str = "watershed"
    """``watershed``, ``sam``, or a folder of masks."""
    splat: Path | None = None
    """An existing splat (PLY) instead of fitting the geometry."""
    sfm: bool = False
    """The scene is a folder of photos without poses: run structure from motion first."""
    device: str = "auto"
    """``auto`` (CUDA where a GPU and the kernels for it are there), ``cpu`` or ``cuda``; no part of the settings, so
    that a fit may go on elsewhere."""
    splat_transform: Path | None = None
    """How ``splat`` lies in the capture's frame: nerfstudio's ``dataparser_transforms.json`` or 4x4 numbers."""


def spread(views: Sequence[View], count: int) -> list[View]:
    """Up to ``count`` views, evenly spaced from the first to the last."""
    return [views[round(i)] for i in torch.linspace(0, len(views) - 1, min(count, len(views))).tolist()]


class Fit:
    """One run of the main job. :meth:`execute` does all stages; each may be called on its own, in order."""

    def __init__(self, inputs: FitInputs, config: FitConfig, quiet: bool = False) -> None:
        self.inputs = inputs
        self.config = config
        self.quiet = quiet
        self.device = choose_device(inputs.device)
        if not inputs.scene.is_dir():
            raise SplatsegError(f"{inputs.scene}: expected a folder with a COLMAP capture, found none")
        # Before the run folder is made, so that a wrong name leaves nothing behind.
        if inputs.masks not in ("watershed", "sam") and not Path(inputs.masks).is_dir():
            raise SplatsegError(f"masks: expected 'watershed', 'sam' or a folder of masks, found '{inputs.masks}'")
        self.run = Run.open(inputs.out, {"scene": str(inputs.scene.resolve()), "downscale": config.downscale})
        self.figures: dict[str, Any] = {}

    def execute(self) -> dict[str, Any]:
        """All stages; returns the figures that ``metrics.json`` holds.

        Raises:
            SplatsegError: bad input; see the rooms for which.
        """
        with self.run.lock():
            write_text(self.run.config, yaml.safe_dump(self._settings(), sort_keys=False))
            self._load_figures()
            scene = self._scene()
            train, held_out = self._split(scene)
            gaussians = self.geometry(scene, train, held_out)
            hierarchies = self.hierarchies(train)
            field = self.features(gaussians, train, hierarchies)
            tree = self.labels(gaussians, field)
            self.sheet(gaussians, field, tree, held_out or train, self._previews(train, hierarchies))
            self._note(peak_memory_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        return self.figures

    # Stages ----------------------------------------------------------------------------------------------------------

    def geometry(self, scene: Scene, train: Sequence[View], held_out: Sequence[View]) -> Gaussians:
        """Fit, or take, the splat."""
        if self.inputs.splat is not None:
            return self._given_splat(self.inputs.splat, scene, held_out)
        key = digest(
            {"geometry": self._plain(self.config.geometry), "views": [v.name for v in train]},
            stats=[path for v in train for path in v.files],
        )
        if self.run.is_done("geometry", key):
            return load_gaussians(self.run.geometry)
        hooks = self._hooks("geometry", key)
        gaussians = fit_geometry(
            dataclasses.replace(scene, views=tuple(train)), self.config.geometry, held_out, self.device, hooks
        )
        save_gaussians(self.run.geometry, gaussians)
        if held_out:
            self._note(psnr_held_out=round(psnr(gaussians.to(self.device), held_out), 3))
        self._note(gaussians=len(gaussians))
        self._finish("geometry", key, [self.run.geometry])
        return gaussians

    def _given_splat(self, path: Path, scene: Scene, held_out: Sequence[View]) -> Gaussians:
        transform = self.inputs.splat_transform
        key = digest(
            {"splat": str(path), "offset": scene.offset}, files=[path, *([] if transform is None else [transform])]
        )
        gaussians = given_splat(path, transform, scene, self.inputs.scene)
        if not self.run.is_done("geometry", key):
            found = check_agreement(path, gaussians.to(self.device), scene, spread(scene.views, SHEET_VIEWS))
            self._note(splat_psnr=round(found.psnr, 3), splat_points=round(found.points, 3))
            save_gaussians(self.run.geometry, gaussians)
            if held_out:
                self._note(psnr_held_out=round(psnr(gaussians.to(self.device), held_out), 3))
            self._note(gaussians=len(gaussians))
            self._finish("geometry", key, [self.run.geometry])
        return gaussians

    def hierarchies(self, train: Sequence[View]) -> HierarchyFolder:
        """Masks and patch hierarchy of every training view; one image a process in memory at a time."""
        folder = HierarchyFolder(self.run.hierarchy)
        source = mask_source(self.inputs.masks, train, self._mask_config())
        settings = {"hierarchy": self._plain(self.config.hierarchy), "source": source.name, "masks": source.settings()}
        key = digest(
            {**settings, "views": [v.name for v in train]},
            files=self._mask_files(),
            stats=[v.image_path for v in train],
        )
        paths = [folder.path(view.name) for view in train]
        if self.run.is_done("hierarchy", key):
            return folder
        with self._timed("masks"):
            self._build_hierarchies(train, source, folder)
        self._finish("hierarchy", key, paths)
        return folder

    def _build_hierarchies(self, train: Sequence[View], source: MaskSource, folder: HierarchyFolder) -> None:
        cache = MaskCache(self.run.masks, source)
        masks_found = 0
        with (
            closing(cache.all_masks(train)) as found,
            Progress(len(train), "masks", unit="view", quiet=self.quiet) as progress,
        ):
            for view, masks in zip(train, found, strict=True):
                masks_found += len(masks)
                build_hierarchy(masks, self.config.hierarchy).save(folder.path(view.name))
                progress.advance(masks=str(len(masks)))
        if masks_found == 0:
            raise SplatsegError(f"masks '{self.inputs.masks}': expected masks in at least one view, found none")
        self._note(masks_per_view=round(masks_found / len(train), 1))

    def features(self, gaussians: Gaussians, train: Sequence[View], hierarchies: HierarchyFolder) -> FeatureField:
        """Fit the feature field."""
        key = digest(
            {"features": self._plain(self.config.features), "gaussians": gaussians.fingerprint()},
            files=[hierarchies.path(view.name) for view in train],
        )
        if self.run.is_done("features", key):
            return FeatureField.load(self.run.features, gaussians)
        field = fit_features(
            gaussians.to(self.device),
            train,
            lambda view: hierarchies[view.name],
            self.config.features,
            self._hooks("features", key),
        )
        field.save(self.run.features)
        self._finish("features", key, [self.run.features])
        return field

    def labels(self, gaussians: Gaussians, field: FeatureField) -> LabelTree:
        """Split the whole scene into labelled objects at several levels and write them."""
        with self._timed("labels"):
            tree = discretise(gaussians.to(self.device), field, self.config.clusters)
            save_labels(self.run.labels, gaussians, tree)
        self._note(labels_per_level=[len(tree.at_level(level)) for level in range(tree.levels)])
        return tree

    def sheet(
        self,
        gaussians: Gaussians,
        field: FeatureField,
        tree: LabelTree,
        views: Sequence[View],
        below: Sequence[Image.Image] = (),
    ) -> None:
        """The contact sheet: photo, render, feature PCA, labels of up to four views; ``below`` it the rest."""
        contact_sheet(
            self.run.contact_sheet,
            gaussians.to(self.device),
            field.unit.to(self.device),
            torch.from_numpy(tree.labels[:, tree.default_level].astype("int64")).to(self.device),
            tree.palette(),
            spread(views, SHEET_VIEWS),
            below,
        )

    def _previews(self, train: Sequence[View], hierarchies: HierarchyFolder) -> list[Image.Image]:
        """Patches, and the levels of one clicked pixel, of two training views."""
        previews = []
        for view in spread(train, SHEET_HIERARCHIES):
            hierarchy = hierarchies[view.name]
            previews.append(hierarchy_preview(view.image().numpy(), hierarchy.patch_ids, hierarchy.membership))
        return previews

    # Inputs ----------------------------------------------------------------------------------------------------------

    def _scene(self) -> Scene:
        folder = self.inputs.scene
        if self.inputs.sfm:
            images = folder / "images" if (folder / "images").is_dir() else folder
            folder = run_sfm(images, self.run.sfm)
        no_masks = None if self.inputs.masks in ("watershed", "sam") else Path(self.inputs.masks)
        return load_colmap(folder, self.config.downscale, self.run.cache, no_masks=no_masks)

    def _split(self, scene: Scene) -> tuple[Sequence[View], Sequence[View]]:
        if (self.inputs.scene / "test_cameras.json").is_file() and self.config.downscale == 1:
            return scene.views, load_test_views(self.inputs.scene, scene)
        return scene.split(self.config.hold_out_every)

    def _mask_config(self) -> WatershedConfig | SamConfig | None:
        """Settings of the chosen source; a folder of masks has none."""
        if self.inputs.masks == "watershed":
            return self.config.watershed
        return self.config.sam if self.inputs.masks == "sam" else None

    def _mask_files(self) -> list[Path]:
        folder = Path(self.inputs.masks)
        return sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []

    # Bookkeeping -----------------------------------------------------------------------------------------------------

    def _hooks(self, stage: str, key: str) -> FitHooks:
        def load() -> dict[str, Any] | None:
            saved = self.run.load_checkpoint(stage)
            return saved["state"] if saved and saved.get("digest") == key else None

        def save(state: dict[str, Any]) -> None:
            self.run.save_checkpoint(stage, {"digest": key, "state": state})

        def log(figures: dict[str, Any]) -> None:
            self.run.log(figures)
            self._note(**{f"{stage}_seconds": round(figures["seconds"], 1)})  # counts what went before a kill too

        return FitHooks(load_checkpoint=load, save_checkpoint=save, log=log, quiet=self.quiet)

    def _finish(self, stage: str, key: str, outputs: Sequence[Path]) -> None:
        self.run.mark_done(stage, key, outputs)
        self.run.checkpoint_path(stage).unlink(missing_ok=True)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._note(**{f"{stage}_seconds": round(time.monotonic() - started, 1)})

    def _note(self, **figures: Any) -> None:
        self.figures.update(figures)
        write_text(self.run.metrics, json.dumps(self.figures, indent=1) + "\n")

    def _load_figures(self) -> None:
        """Figures of stages that an earlier call finished."""
        try:
            self.figures = dict(json.loads(self.run.metrics.read_text()))
        except (OSError, ValueError, TypeError):
            self.figures = {}

    def _settings(self) -> dict[str, Any]:
        inputs = {
            "scene": str(self.inputs.scene.resolve()),
            "masks": self.inputs.masks
            if self.inputs.masks in ("watershed", "sam")
            else str(Path(self.inputs.masks).resolve()),
            "splat": None if self.inputs.splat is None else str(self.inputs.splat.resolve()),
            "splat_transform": None
            if self.inputs.splat_transform is None
            else str(self.inputs.splat_transform.resolve()),
            "sfm": self.inputs.sfm,
        }
        return {**inputs, **self._plain(self.config)}

    @staticmethod
    def _plain(config: Any) -> dict[str, Any]:
        """A frozen config as plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(config), default=str))
