"""The main job: a capture becomes a segmentable splat, stage by stage, each cached and resumable.

Stages, in order: ``views`` (of a splat without a capture: planned and rendered), ``geometry`` (photos -> Gaussians, or
a splat that is given), ``hierarchy`` (masks -> patches, a
view at a time), ``features`` (hierarchies -> field), ``labels`` (whole-scene label tree), ``sheet`` (the contact
sheet). A stage of which no input has changed (:mod:`splatseg.fit.stages`) is not run again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from splatseg.core.atomic import write_text
from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree
from splatseg.core.machine import peak_memory
from splatseg.core.memory import require_memory
from splatseg.core.progress import SILENT, Reporter
from splatseg.core.reading import read_json
from splatseg.core.scene import Scene, View
from splatseg.core.splat import FeatureSplat
from splatseg.draw.mask_preview import hierarchy_preview
from splatseg.draw.sheets import run_sheet
from splatseg.fit.features import fit_features
from splatseg.fit.geometry import fit_geometry, psnr
from splatseg.fit.given import Agreement, check_agreement, given_splat, read_splat
from splatseg.fit.hooks import FitHooks
from splatseg.fit.needs import FitSize, stage_needs
from splatseg.fit.settings import FitConfig, FitInputs, plain
from splatseg.fit.stages import Stage, cameras_digests, folder_digest, photos_digest, tensors_digest, views_stage
from splatseg.fit.views.folder import VIEWS, is_planned, summary, write_views
from splatseg.io.digests import digest
from splatseg.io.labels import load_labels, save_labels
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.io.run import Run
from splatseg.io.run_log import RunLog
from splatseg.io.run_paths import RunPaths
from splatseg.io.run_scene import load_run_scene, recorded_place, take_capture
from splatseg.io.test_cameras import load_test_views
from splatseg.masks import MaskSource, mask_source
from splatseg.masks.cache import MaskCache
from splatseg.masks.hierarchy import HierarchyFolder, build_hierarchy
from splatseg.masks.sam.config import SamConfig
from splatseg.masks.stored import StoredMasks, stored_masks
from splatseg.masks.watershed import WatershedConfig
from splatseg.render import choose_device
from splatseg.segment.discretize import discretize

log = logging.getLogger(__name__)

SHEET_VIEWS = 4
SHEET_HIERARCHIES = 2


def spread(views: Sequence[View], count: int) -> list[View]:
    """Up to ``count`` views, evenly spaced from the first to the last."""
    return [views[round(i)] for i in torch.linspace(0, len(views) - 1, min(count, len(views))).tolist()]


def _preview(view: View, hierarchies: HierarchyFolder) -> Image.Image:
    """Patches of ``view``, and the levels of one clicked pixel."""
    hierarchy = hierarchies[view.name]
    return hierarchy_preview(view.image().numpy(), hierarchy.patch_ids, hierarchy.membership)


def _check_bare(inputs: FitInputs) -> None:
    """Raise :class:`SplatsegError` unless a splat is given, and nothing that only a capture has."""
    if inputs.splat is None:
        raise SplatsegError("scene: expected a capture, or a splat to plan views of, found neither")
    if inputs.sfm or inputs.splat_transform is not None:
        name = "sfm" if inputs.sfm else "splat_transform"
        raise SplatsegError(f"{name}: expected a capture beside it, found a splat alone")


class Fit:
    """One run of the main job. :meth:`execute` does all stages; each may be called on its own, in order."""

    def __init__(self, inputs: FitInputs, config: FitConfig, reporter: Reporter = SILENT) -> None:
        self.inputs = inputs
        self.config = config
        self.reporter = reporter
        self.device = choose_device(inputs.device)
        self.scene = inputs.scene or RunPaths(inputs.out).views
        if inputs.scene is None:
            _check_bare(inputs)
        elif not inputs.scene.is_dir():
            raise SplatsegError(f"{inputs.scene}: expected a folder with a COLMAP capture, found none")
        # Before the run folder is made, so that a wrong name leaves nothing behind.
        if inputs.masks not in (None, "watershed", "sam") and not Path(inputs.masks).is_dir():
            raise SplatsegError(f"masks: expected 'watershed', 'sam' or a folder of masks, found '{inputs.masks}'")
        kept = StoredMasks(inputs.masks_in) if inputs.masks is None and inputs.masks_in is not None else None
        place = {"scene": recorded_place(RunPaths(inputs.out), self.scene), "downscale": config.downscale}
        # Of a capture it is compared what lies there; views that are yet to be planned are of no other run's capture.
        self.run = Run.open(inputs.out, place, may_differ=() if inputs.scene is None else ("scene",))
        self.figures: dict[str, Any] = {}
        self.masks = inputs.masks or "watershed"
        self._stored: StoredMasks | None = None
        self._source: MaskSource | None = None
        self._read: Gaussians | None = None
        self._given: tuple[Gaussians, Agreement | None] | None = None
        if kept is not None:
            self._take(kept)
        elif inputs.masks is None and config.watershed == WatershedConfig():
            self._take_newest_masks()

    def _take(self, stored: StoredMasks) -> None:
        self.masks, self._stored = stored.spec, stored
        if stored.name == "files" and Path(self.masks).is_dir():
            self._stored = None  # the folder itself, as it is now

    def _take_newest_masks(self) -> None:
        """The newest masks that the run holds, if it holds any, and a line that says so."""
        found = stored_masks(self.run.masks)
        if not found:
            return
        self._take(found[0])
        log.warning(
            "masks: none named, taking those of '%s' in %s%s; --masks watershed makes others beside them",
            self.masks,
            found[0].folder,
            "" if len(found) == 1 else f", the newest of {len(found)}",
        )

    def execute(self) -> dict[str, Any]:
        """All stages; returns the figures that ``metrics.json`` holds.

        Raises:
            SplatsegError: bad input; see the rooms for which.
        """
        with self.run.lock(), self.run.gone_if_refused():
            self._load_figures()
            if self.inputs.scene is None:
                self.views()
            scene = load_run_scene(self.run, self.scene, find_poses=True, config=self._settings())
            train, held_out = self._split(scene)
            self._check_inputs(scene, train)
            self._check_memory(train)
            take_capture(self.run, self.scene, scene.views)
            write_text(self.run.config, yaml.safe_dump(self._settings(), sort_keys=False))
            gaussians = self.geometry(scene, train, held_out)
            hierarchies = self.hierarchies(train)
            field = self.features(gaussians, train, hierarchies)
            tree = self.labels(gaussians, field)
            self.sheet(gaussians, field, tree, held_out or train, hierarchies, train)
            if (peak := peak_memory()) is not None:
                self._note(peak_memory_mb=round(peak / 2**20))
        return self.figures

    def _check_inputs(self, scene: Scene, train: Sequence[View]) -> None:
        """Read what is given beside the capture, before hours of work and before anything of the run changes.

        Raises:
            SplatsegError: a splat that does not fit, masks or weights that are not there.
        """
        if self.inputs.splat is not None:
            self._given = self._read_given_splat(self.inputs.splat, scene)
        self._masks_digest(self._mask_source(train))

    def _check_memory(self, train: Sequence[View]) -> None:
        """Whether this machine has the memory for the stages that have no result yet; on a GPU it is not asked.

        Raises:
            SplatsegError: it has not.
        """
        if not self.config.check_memory or self.device.type != "cpu":
            return
        config, given = self.config.geometry, self._given and self._given[0]
        coefficients = given.sh.shape[1] if given else (config.sh_degree + 1) ** 2
        pixels = max(view.camera.width * view.camera.height for view in train)
        size = FitSize(len(given) if given else config.max_gaussians, coefficients, len(train), pixels)
        needs = {name: need for name, need in stage_needs(size, self.config).items() if not self.run.was_done(name)}
        if given:
            needs = {name: need - size.splat for name, need in needs.items() if name != "geometry"}
        require_memory(
            needs,
            f"fewer Gaussians than {size.gaussians:,} need less, --config.no-check-memory tries anyway",
        )

    # Stages ----------------------------------------------------------------------------------------------------------

    def views(self) -> None:
        """Plan and render views of the splat, which are the run's capture then."""
        gaussians = self._splat_as_read()
        stage = views_stage(gaussians, self.config.views)
        if self._is_done(stage):
            return
        self.run.unmark(stage.name)
        folder = self.run.views
        with self._timed("views"):
            told = write_views(folder, gaussians.to(self.device), self.config.views, stage.key, self.reporter)
        log.warning("%s: %s", folder, summary(told))
        covered = {"views_cover": told["coverage"]["once"], "views_cover_enough": told["coverage"]["enough"]}
        self._note(views=told["views"], **covered)
        self._finish(stage, [folder / VIEWS, *(folder / name for name in told["files"])])

    def _splat_as_read(self) -> Gaussians:
        """The given splat in its own frame, read once."""
        assert self.inputs.splat is not None
        if self._read is None:
            self._read = read_splat(self.inputs.splat)
        return self._read

    def geometry(self, scene: Scene, train: Sequence[View], held_out: Sequence[View]) -> Gaussians:
        """Fit, or take, the splat."""
        if self.inputs.splat is not None:
            return self._given_splat(self.inputs.splat, scene, held_out)
        stage = Stage.of(
            "geometry",
            photos=photos_digest(train, masks=True),
            **cameras_digests(train),
            points=tensors_digest([scene.points.xyz, scene.points.rgb]),
            offset=list(scene.offset),
            settings=plain(self.config.geometry),
        )
        if self._is_done(stage):
            gaussians = load_gaussians(self.run.geometry)
        else:
            hooks = self._hooks(stage)
            gaussians = fit_geometry(
                dataclasses.replace(scene, views=tuple(train)), self.config.geometry, held_out, self.device, hooks
            )
            self._save_splat(stage, gaussians)
        self._measure(gaussians, held_out)
        return gaussians

    def _given_splat(self, path: Path, scene: Scene, held_out: Sequence[View]) -> Gaussians:
        """The splat of ``path`` in the frame of the scene, compared with the photos before anything is made from it."""
        gaussians, agreement = self._given or self._read_given_splat(path, scene)
        stage = self._given_stage(gaussians, scene)
        if not self._is_done(stage):
            if agreement is not None:
                self._note(splat_psnr=round(agreement.psnr, 3), splat_points=round(agreement.points, 3))
            self._save_splat(stage, gaussians)
        self._measure(gaussians, held_out)
        return gaussians

    def _read_given_splat(self, path: Path, scene: Scene) -> tuple[Gaussians, Agreement | None]:
        """The splat and, where the run's is another one, how it agrees with the photos."""
        gaussians = given_splat(self._splat_as_read(), self.inputs.splat_transform, scene, self.scene)
        stage = self._given_stage(gaussians, scene)
        if self.inputs.scene is None or self.run.is_done(stage.name, stage.key):
            return gaussians, None
        return gaussians, check_agreement(path, gaussians.to(self.device), scene, spread(scene.views, SHEET_VIEWS))

    @staticmethod
    def _given_stage(gaussians: Gaussians, scene: Scene) -> Stage:
        return Stage.of("geometry", splat=gaussians.fingerprint(), offset=list(scene.offset))

    def _save_splat(self, stage: Stage, gaussians: Gaussians) -> None:
        self.run.unmark(stage.name)
        save_gaussians(self.run.geometry, gaussians)
        self._note(gaussians=len(gaussians))
        self._finish(stage, [self.run.geometry])

    def _measure(self, gaussians: Gaussians, held_out: Sequence[View]) -> None:
        """PSNR on the held-out views, a stage of its own: other photos there are no reason to fit anew."""
        if not held_out:
            self.figures.pop("psnr_held_out", None)
            return
        cameras = cameras_digests(held_out)
        stage = Stage.of(
            "psnr", geometry=gaussians.fingerprint(), photos=photos_digest(held_out, masks=True), **cameras
        )
        if not self.run.is_done(stage.name, stage.key):
            self._note(psnr_held_out=round(psnr(gaussians.to(self.device), held_out), 3))
            self._finish(stage, [])

    def hierarchies(self, train: Sequence[View]) -> HierarchyFolder:
        """Masks and patch hierarchy of every training view; one image a process in memory at a time."""
        folder = HierarchyFolder(self.run.hierarchy)
        source = self._mask_source(train)
        stage = Stage.of(
            "hierarchy",
            photos=photos_digest(train),
            masks=self._masks_digest(source),
            settings=plain(self.config.hierarchy),
        )
        if self._is_done(stage):
            return folder
        self.run.unmark(stage.name)
        with self._timed("masks"):
            self._build_hierarchies(train, source, folder)
        self._finish(stage, [folder.path(view.name) for view in train])
        return folder

    def _build_hierarchies(self, train: Sequence[View], source: MaskSource, folder: HierarchyFolder) -> None:
        cache = MaskCache(self.run.masks, source)
        if source is not self._stored:
            cache.describe(self.masks if self.masks in ("watershed", "sam") else Path(self.masks).resolve())
        masks_found = 0
        with (
            closing(cache.all_masks(train)) as found,
            self.reporter.count(len(train), "masks", unit="view") as progress,
        ):
            for view, masks in zip(train, found, strict=True):
                masks_found += len(masks)
                build_hierarchy(masks, self.config.hierarchy).save(folder.path(view.name))
                progress.advance(masks=str(len(masks)))
        if masks_found == 0:
            raise SplatsegError(f"masks '{self.masks}': expected masks in at least one view, found none")
        self._note(masks_per_view=round(masks_found / len(train), 1))

    def features(self, gaussians: Gaussians, train: Sequence[View], hierarchies: HierarchyFolder) -> FeatureField:
        """Fit the feature field."""
        stage = Stage.of(
            "features",
            geometry=gaussians.fingerprint(),
            hierarchy=digest(files=[hierarchies.path(view.name) for view in train]),
            **cameras_digests(train),
            settings=plain(self.config.features),
        )
        if self._is_done(stage):
            return FeatureField.load(self.run.features, gaussians)
        field = fit_features(
            gaussians.to(self.device),
            train,
            lambda view: hierarchies[view.name],
            self.config.features,
            self._hooks(stage),
        )
        self.run.unmark(stage.name)
        field.save(self.run.features)
        self._finish(stage, [self.run.features])
        return field

    def labels(self, gaussians: Gaussians, field: FeatureField) -> LabelTree:
        """Split the whole scene into labeled objects at several levels and write them.

        Labels of the same features and settings are kept, with the names that a person gave them meanwhile.
        """
        stage = Stage.of(
            "labels",
            geometry=gaussians.fingerprint(),
            features=tensors_digest(field.tensors()),
            settings=plain(self.config.clusters),
        )
        if self._is_done(stage):
            with suppress(SplatsegError):
                return load_labels(self.run.labels, gaussians)
        self.run.unmark(stage.name)
        with self._timed("labels"):
            tree = discretize(FeatureSplat(gaussians, field).to(self.device), self.config.clusters)
            save_labels(self.run.labels, gaussians, tree)
        self._note(labels_per_level=[len(tree.at_level(level)) for level in range(tree.levels)])
        self._finish(stage, [])  # no sizes: the files may be edited, and are read to see whether they still hold
        return tree

    def sheet(
        self,
        gaussians: Gaussians,
        field: FeatureField,
        tree: LabelTree,
        views: Sequence[View],
        hierarchies: HierarchyFolder,
        train: Sequence[View],
    ) -> None:
        """The contact sheet: photo, render, feature PCA, labels of up to four of ``views``; below it two of ``train``
        with their hierarchies."""
        shown, below = spread(views, SHEET_VIEWS), spread(train, SHEET_HIERARCHIES)
        stage = Stage.of(
            "sheet",
            geometry=gaussians.fingerprint(),
            features=tensors_digest([field.features]),
            labels=[
                tensors_digest([torch.from_numpy(tree.labels)]),
                [dataclasses.asdict(node) for node in tree.nodes],
                tree.default_level,
            ],
            hierarchy=digest(files=[hierarchies.path(view.name) for view in below]),
            photos=photos_digest([*shown, *below]),
            **cameras_digests(shown),
        )
        if self._is_done(stage):
            return
        run_sheet(
            self.run.contact_sheet,
            gaussians.to(self.device),
            field.unit.to(self.device),
            torch.from_numpy(tree.labels[:, tree.default_level].astype("int64")).to(self.device),
            tree.palette(),
            shown,
            [_preview(view, hierarchies) for view in below],
        )
        self._finish(stage, [self.run.contact_sheet])

    # Inputs ----------------------------------------------------------------------------------------------------------

    def _split(self, scene: Scene) -> tuple[Sequence[View], Sequence[View]]:
        if is_planned(self.scene):
            return scene.views, ()  # renders of the splat itself say nothing about how good it is
        if (self.scene / "test_cameras.json").is_file() and self.config.downscale == 1:
            return scene.views, load_test_views(self.scene, scene)
        return scene.split(self.config.hold_out_every)

    def _mask_source(self, train: Sequence[View]) -> MaskSource:
        """Made once, so that it says once which views have no masks."""
        if self._source is None:
            self._source = self._stored or mask_source(self.masks, train, self._mask_config())
        return self._source

    def _mask_config(self) -> WatershedConfig | SamConfig | None:
        """Settings of the chosen source; a folder of masks has none."""
        if self.masks == "watershed":
            return self.config.watershed
        return self.config.sam if self.masks == "sam" else None

    def _masks_digest(self, source: MaskSource) -> str:
        """Of the source and its settings; of a folder of masks the contents, wherever it lies."""
        folder = Path(self.masks)
        by_contents = source.name == "files" and folder.is_dir()
        return digest([source.name, folder_digest(folder) if by_contents else source.settings()])

    # Bookkeeping -----------------------------------------------------------------------------------------------------

    def _is_done(self, stage: Stage) -> bool:
        """Whether the result of ``stage`` is there; where one of other inputs is, a line says which have changed."""
        if self.run.is_done(stage.name, stage.key):
            self.run.drop_checkpoint(stage.name)  # of a call that was killed when the stage had just been done
            return True
        if self.run.was_done(stage.name) and (line := stage.line(self.run.made_from(stage.name))):
            log.warning(line)
        return False

    def _hooks(self, stage: Stage) -> FitHooks:
        def load() -> dict[str, Any] | None:
            saved = self.run.load_checkpoint(stage.name)
            return saved["state"] if saved and saved.get("digest") == stage.key else None

        def save(state: dict[str, Any]) -> None:
            self.run.save_checkpoint(stage.name, {"digest": stage.key, "state": state})

        def note(figures: Mapping[str, Any]) -> None:
            self._note(**{f"{stage.name}_seconds": round(figures["seconds"], 1)})  # with what went before a kill

        return FitHooks(load, save, RunLog(self.run, self.reporter, note))

    def _finish(self, stage: Stage, outputs: Sequence[Path]) -> None:
        self.run.mark_done(stage.name, stage.key, outputs, stage.inputs)
        self.run.drop_checkpoint(stage.name)

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
            self.figures = dict(read_json(self.run.metrics))
        except (OSError, ValueError, TypeError, RecursionError):
            self.figures = {}

    def _settings(self) -> dict[str, Any]:
        inputs = {
            "scene": None if self.inputs.scene is None else str(self.inputs.scene.resolve()),
            "masks": self.masks if self.masks in ("watershed", "sam") else str(Path(self.masks).resolve()),
            "masks_in": None if self._stored is None else str(self._stored.folder.resolve()),
            "splat": None if self.inputs.splat is None else str(self.inputs.splat.resolve()),
            "splat_transform": None
            if self.inputs.splat_transform is None
            else str(self.inputs.splat_transform.resolve()),
            "sfm": self.inputs.sfm,
        }
        return {**inputs, **plain(self.config)}
