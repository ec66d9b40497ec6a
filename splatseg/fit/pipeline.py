"""The main job: a capture becomes a segmentable splat, stage by stage, each cached and resumable.

Stages, in order: ``views`` (of a splat without a capture: planned and rendered), ``geometry`` (photos -> Gaussians, or
a splat that is given), ``hierarchy`` (masks -> patches, a view at a time), ``features`` (hierarchies -> field),
``labels`` (whole-scene label tree), ``sheet`` (the contact sheet). A stage of which no input has changed
(:mod:`splatseg.fit.stages`) is not run again.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from splatseg.core.atomic import write_text
from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree
from splatseg.core.machine import peak_memory
from splatseg.core.memory import require_memory_of_ranks
from splatseg.core.progress import SILENT, Reporter
from splatseg.core.ranks import ALONE, Ranks
from splatseg.core.scene import Scene, View, spread_views
from splatseg.core.splat import FeatureSplat
from splatseg.fit.blocks.job import BlockJob, block_count
from splatseg.fit.features import fit_features
from splatseg.fit.geometry import psnr
from splatseg.fit.given import COMPARED_VIEWS, Agreement, check_agreement, given_splat, read_splat
from splatseg.fit.hierarchies import make_hierarchies
from splatseg.fit.mask_choice import MaskChoice
from splatseg.fit.meeting import Facts, ask, meet
from splatseg.fit.needs import FitSize, geometry_of_ranks, helping_needs, stage_needs
from splatseg.fit.records import StageRecords
from splatseg.fit.settings import FitConfig, FitInputs, plain
from splatseg.fit.sheet import Sheet
from splatseg.fit.stages import Stage, cameras_digests, photos_digest, tensors_digest, views_stage
from splatseg.fit.views.folder import VIEWS, check_place, is_planned, summary, write_views
from splatseg.io.digests import digest
from splatseg.io.labels import load_labels, save_labels
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.io.run import Run
from splatseg.io.run_paths import RunPaths
from splatseg.io.run_scene import load_run_scene, recorded_place, take_capture
from splatseg.io.test_cameras import load_test_views
from splatseg.masks.hierarchy import HierarchyFolder
from splatseg.masks.stored import StoredMasks
from splatseg.render import choose_device
from splatseg.segment.discretize import discretize

log = logging.getLogger(__name__)


class Fit:
    """One run of the main job. :meth:`execute` does all stages; each may be called on its own, in order.

    With ``ranks`` this is the first of them; the others are :class:`splatseg.fit.helper.Helper`.
    """

    def __init__(self, inputs: FitInputs, config: FitConfig, reporter: Reporter = SILENT, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self.inputs = inputs
        self.config = config
        self.reporter = reporter
        self.device = choose_device(inputs.device)
        self.scene = inputs.scene or RunPaths(inputs.out).views
        # Before the run folder is made, so that a wrong name leaves nothing behind.
        inputs.check()
        inputs.check_blocks(config)
        kept = StoredMasks(inputs.masks_in) if inputs.masks is None and inputs.masks_in is not None else None
        place = {"scene": recorded_place(RunPaths(inputs.out), self.scene), "downscale": config.downscale}
        # Of a capture it is compared what lies there; views that are yet to be planned are of no other run's capture.
        self.run = Run.open(inputs.out, place, may_differ=() if inputs.scene is None else ("scene",))
        self.records = StageRecords(self.run, reporter)
        self.masks = MaskChoice(inputs, config, self.run, kept)
        self._blocks: int | None = None
        self._read: Gaussians | None = None
        self._given: tuple[Gaussians, Agreement | None] | None = None

    @property
    def figures(self) -> dict[str, Any]:
        """What ``metrics.json`` holds."""
        return self.records.figures

    def execute(self) -> dict[str, Any]:
        """All stages; returns the figures that ``metrics.json`` holds.

        Raises:
            SplatsegError: bad input; see the rooms for which.
        """
        with self.run.lock(), self.run.gone_if_refused():
            self.records.load()
            if self.inputs.scene is None:
                self.views()
            scene = load_run_scene(self.run, self.scene, find_poses=True, config=self.settings())
            train, held_out = self.split(scene)
            self._check_inputs(scene, train)
            meet(self.run.folder, self.ranks, lambda: self.facts(scene, train))
            self._check_memory(train)
            take_capture(self.run, self.scene, scene.views)
            write_text(self.run.config, yaml.safe_dump(self.settings(), sort_keys=False))
            gaussians = self.geometry(scene, train, held_out)
            hierarchies = self.hierarchies(train)
            field = self.features(gaussians, train, hierarchies)
            tree = self.labels(gaussians, field)
            caption = "planned view" if is_planned(self.scene) else "photo"
            self.sheet(Sheet.of((gaussians, field, tree), held_out or train, train, hierarchies, caption))
            if (peak := peak_memory()) is not None:
                self.records.note(peak_memory_mb=round(peak / 2**20))
        return self.figures

    def _check_inputs(self, scene: Scene, train: Sequence[View]) -> None:
        """Read what is given beside the capture, before hours of work and before anything of the run changes.

        Raises:
            SplatsegError: a splat that does not fit, masks or weights that are not there.
        """
        if self.inputs.splat is not None:
            self._given = self._read_given_splat(self.inputs.splat, scene)
        self.masks.digest(train)

    def facts(self, scene: Scene, train: Sequence[View]) -> Facts:
        """What all ranks must have alike. Where the capture lies may differ, and of a splat that is given rank 0's
        counts."""
        inputs = {
            "photos": photos_digest(train, masks=True),
            **cameras_digests(train),
            "points": tensors_digest([scene.points.xyz, scene.points.rgb]),
            "masks": self.masks.digest(train),
        }
        given = {"splat": self.inputs.splat is not None, "device": self.device.type}
        return Facts({**plain(self.config), **given}, inputs)

    def _check_memory(self, train: Sequence[View]) -> None:
        """Whether this machine has the memory for the stages that have no result yet; on a GPU it is not asked.

        Raises:
            SplatsegError: it has not.
        """
        if not self._asks_memory():
            return
        given, size = self._given and self._given[0], self._size(train)
        blocks = 1 if given else self._block_count(train)
        needs = stage_needs(size, self.config, blocks)
        needs = {name: need for name, need in needs.items() if not self.run.was_done(name)}
        if given:
            needs = {name: need - size.splat for name, need in needs.items() if name != "geometry"}
        if "geometry" in needs and not self.ranks.alone:
            needs["geometry"] = geometry_of_ranks(size, self.config, blocks)
        helping = {name: need for name, need in helping_needs(size, self.config, blocks).items() if name in needs}
        require_memory_of_ranks(
            needs,
            helping,
            f"fewer Gaussians than {size.gaussians:,} need less, --config.no-check-memory tries anyway",
            self.ranks,
        )

    def _asks_memory(self) -> bool:
        return self.config.check_memory and self.device.type == "cpu"

    def _size(self, train: Sequence[View]) -> FitSize:
        config, given = self.config.geometry, self._given and self._given[0]
        coefficients = given.sh.shape[1] if given else (config.sh_degree + 1) ** 2
        pixels = max(view.camera.width * view.camera.height for view in train)
        return FitSize(len(given) if given else config.max_gaussians, coefficients, len(train), pixels)

    def _block_count(self, train: Sequence[View]) -> int:
        """Decided once: free memory is another one later."""
        if self._blocks is None:
            self._blocks = block_count(self.run, self.config, self._size(train), self._asks_memory(), self.ranks)
        return self._blocks

    # Stages ----------------------------------------------------------------------------------------------------------

    def views(self) -> None:
        """Plan and render views of the splat, which are the run's capture then."""
        gaussians = self._splat_as_read()
        stage = views_stage(gaussians, self.config.views)
        if self.records.is_done(stage):
            return
        self.run.unmark(stage.name)
        folder = self.run.views
        check_place(folder, self.inputs.splat)
        with self.records.timed("views"):
            told = write_views(folder, gaussians.to(self.device), self.config.views, stage.key, self.reporter)
        log.warning("%s: %s", folder, summary(told))
        covered = {"views_cover": told["coverage"]["once"], "views_cover_enough": told["coverage"]["enough"]}
        self.records.note(views=told["views"], **covered)
        self.records.finish(stage, [folder / VIEWS, *(folder / name for name in told["files"])])

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
        blocks = self._block_count(train)
        stage = Stage.of(
            "geometry",
            photos=photos_digest(train, masks=True),
            **cameras_digests(train),
            points=tensors_digest([scene.points.xyz, scene.points.rgb]),
            offset=list(scene.offset),
            settings=plain(self.config.geometry),
            **({"blocks": blocks} if blocks > 1 else {}),
        )
        if self.records.is_done(stage):
            gaussians = load_gaussians(self.run.geometry)
        else:
            scene = dataclasses.replace(scene, views=tuple(train))
            job = BlockJob(self.records, scene, held_out, self.config.geometry, blocks, stage, self.device, self.ranks)
            gaussians = job.gaussians()
            self._save_splat(stage, gaussians)
        self._measure(gaussians, held_out)
        return gaussians

    def _given_splat(self, path: Path, scene: Scene, held_out: Sequence[View]) -> Gaussians:
        """The splat of ``path`` in the frame of the scene, compared with the photos before anything is made from it."""
        gaussians, agreement = self._given or self._read_given_splat(path, scene)
        stage = self._given_stage(gaussians, scene)
        if not self.records.is_done(stage):
            if agreement is not None:
                self.records.note(splat_psnr=round(agreement.psnr, 3), splat_points=round(agreement.points, 3))
            self._save_splat(stage, gaussians)
        self._measure(gaussians, held_out)
        return gaussians

    def _read_given_splat(self, path: Path, scene: Scene) -> tuple[Gaussians, Agreement | None]:
        """The splat and, where the run's is another one, how it agrees with the photos."""
        gaussians = given_splat(self._splat_as_read(), self.inputs.splat_transform, scene, self.scene)
        stage = self._given_stage(gaussians, scene)
        if self.inputs.scene is None or self.run.is_done(stage.name, stage.key):
            return gaussians, None
        return gaussians, check_agreement(
            path, gaussians.to(self.device), scene, spread_views(scene.views, COMPARED_VIEWS)
        )

    @staticmethod
    def _given_stage(gaussians: Gaussians, scene: Scene) -> Stage:
        return Stage.of("geometry", splat=gaussians.fingerprint(), offset=list(scene.offset))

    def _save_splat(self, stage: Stage, gaussians: Gaussians) -> None:
        self.run.unmark(stage.name)
        save_gaussians(self.run.geometry, gaussians)
        self.records.note(gaussians=len(gaussians))
        self.records.finish(stage, [self.run.geometry])

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
            self.records.note(psnr_held_out=round(psnr(gaussians.to(self.device), held_out), 3))
            self.records.finish(stage, [])

    def hierarchies(self, train: Sequence[View]) -> HierarchyFolder:
        """Masks and patch hierarchy of every training view; one image per process in memory at a time."""
        folder = HierarchyFolder(self.run.hierarchy)
        stage = Stage.of(
            "hierarchy",
            photos=photos_digest(train),
            masks=self.masks.digest(train),
            settings=plain(self.config.hierarchy),
        )
        if self.records.is_done(stage):
            return folder
        self.run.unmark(stage.name)
        with self.records.timed("masks"):
            masks = self.masks.cache(train)
            ranks = ask(self.ranks, stage.name)
            found = make_hierarchies(train, masks, folder, self.config.hierarchy, self.reporter, ranks)
        if found == 0:
            raise SplatsegError(f"masks '{self.masks.spec}': expected masks in at least one view, found none")
        self.records.note(masks_per_view=round(found / len(train), 1))
        self.records.finish(stage, [folder.path(view.name) for view in train])
        return folder

    def features(self, gaussians: Gaussians, train: Sequence[View], hierarchies: HierarchyFolder) -> FeatureField:
        """Fit the feature field."""
        stage = Stage.of(
            "features",
            geometry=gaussians.fingerprint(),
            hierarchy=digest(files=[hierarchies.path(view.name) for view in train]),
            **cameras_digests(train),
            settings=plain(self.config.features),
        )
        if self.records.is_done(stage):
            return FeatureField.load(self.run.features, gaussians)
        field = fit_features(
            gaussians.to(self.device),
            train,
            lambda view: hierarchies[view.name],
            self.config.features,
            self.records.hooks(stage),
            ask(self.ranks, stage.name, gaussians),
        )
        self.run.unmark(stage.name)
        field.save(self.run.features)
        self.records.finish(stage, [self.run.features])
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
        if self.records.is_done(stage):
            with suppress(SplatsegError):
                return load_labels(self.run.labels, gaussians)
        self.run.unmark(stage.name)
        with self.records.timed("labels"):
            tree = discretize(FeatureSplat(gaussians, field).to(self.device), self.config.clusters)
            save_labels(self.run.labels, gaussians, tree)
        self.records.note(labels_per_level=[len(tree.at_level(level)) for level in range(tree.levels)])
        self.records.finish(stage, [])  # no sizes: the files may be edited, and are read to see whether they still hold
        return tree

    def sheet(self, sheet: Sheet) -> None:
        """Draw the contact sheet."""
        stage = sheet.stage()
        if self.records.is_done(stage):
            return
        sheet.draw(self.run.contact_sheet, self.device)
        self.records.finish(stage, [self.run.contact_sheet])

    # Inputs ----------------------------------------------------------------------------------------------------------

    def split(self, scene: Scene) -> tuple[Sequence[View], Sequence[View]]:
        if is_planned(self.scene):
            return scene.views, ()  # renders of the splat itself say nothing about how good it is
        if (self.scene / "test_cameras.json").is_file() and self.config.downscale == 1:
            return scene.views, load_test_views(self.scene, scene)
        return scene.split(self.config.hold_out_every)

    def settings(self) -> dict[str, Any]:
        inputs = {
            "scene": None if self.inputs.scene is None else str(self.inputs.scene.resolve()),
            **self.masks.recorded(),
            "splat": None if self.inputs.splat is None else str(self.inputs.splat.resolve()),
            "splat_transform": None
            if self.inputs.splat_transform is None
            else str(self.inputs.splat_transform.resolve()),
            "sfm": self.inputs.sfm,
        }
        return {**inputs, **plain(self.config)}
