"""Blocks as stages of a run: each is fitted once, and one that was killed goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from splatseg.core.atomic import write_text
from splatseg.core.errors import DAMAGED
from splatseg.core.gaussians import Gaussians
from splatseg.core.machine import available_memory
from splatseg.core.progress import Progress, Reporter
from splatseg.core.reading import read_json
from splatseg.core.scene import Points, Scene, View
from splatseg.fit.blocks.fit import fit_block, merged, scene_shell
from splatseg.fit.blocks.plan import Block, plan_blocks
from splatseg.fit.geometry import GeometryConfig, fit_geometry
from splatseg.fit.needs import FitSize, stage_needs
from splatseg.fit.records import StageRecords
from splatseg.fit.settings import FitConfig
from splatseg.fit.stages import Stage
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.io.run import Run

CHOSEN = "blocks.json"  # in the folder of blocks: how many the run began with
AUTO_VIEWS = 20  # photos for each block at least, where it is not a person who says how many


def block_count(run: Run, config: FitConfig, size: FitSize, asks_memory: bool) -> int:
    """How many blocks the geometry of ``run`` is fitted in: as many as were asked for; of ``auto`` what the run began
    with, else the fewest that this machine has the memory for (one where not even the most would do).

    Args:
        run: may hold a geometry, whole or begun.
        config: all settings.
        size: of the whole fit.
        asks_memory: whether memory may decide.
    """
    if config.blocks != "auto":
        return int(config.blocks)
    with suppress(*DAMAGED):
        return max(int(read_json(run.blocks / CHOSEN)["blocks"]), 1)
    begun = run.was_done("geometry") or run.checkpoint_path("geometry").is_file()
    free = None if begun or not asks_memory else available_memory()
    if free is not None:
        for count in range(1, max(size.views // AUTO_VIEWS, 1) + 1):
            if stage_needs(size, config, count)["geometry"] <= free:
                return count
    return 1


class OfBlock(Reporter):
    """Passes on what the fit of a block says, under the name of the block."""

    def __init__(self, inner: Reporter, number: int, count: int) -> None:
        self._inner = inner
        self._number = number
        self._label = f"block {number + 1} of {count}"

    def update(self, progress: Progress) -> None:
        self._inner.update(replace(progress, label=self._label))

    def finish(self, label: str) -> None:
        self._inner.finish(self._label)

    def log(self, figures: Mapping[str, Any]) -> None:
        self._inner.log({**figures, "block": self._number})


@dataclass(frozen=True)
class BlockJob:
    """The geometry of ``scene`` in ``count`` blocks, the results and checkpoints of each in the run.

    Attributes:
        records: of the run.
        scene: training views and points.
        held_out: views that only measure.
        config: of the whole splat.
        count: of blocks; one is the fit of the whole, as if there were no blocks.
        whole: the geometry's stage.
        device: where to compute.
    """

    records: StageRecords
    scene: Scene
    held_out: Sequence[View]
    config: GeometryConfig
    count: int
    whole: Stage
    device: torch.device

    def gaussians(self) -> Gaussians:
        """Fit the blocks that are not done, and put all together.

        Raises:
            SplatsegError: the capture does not allow so many blocks, or a block's fit fails.
        """
        if self.count == 1:
            self.records.figures.pop("blocks", None)
            with suppress(OSError):
                (self.folder / CHOSEN).unlink(missing_ok=True)
            return fit_geometry(self.scene, self.config, self.held_out, self.device, self.records.hooks(self.whole))
        blocks = self.blocks
        write_text(self.folder / CHOSEN, json.dumps({"blocks": self.count}) + "\n")
        for block in blocks:
            if not self.records.is_done(self.stage(block)):
                self.fit(block)
        self._note()
        return merged([load_gaussians(self.file(block)) for block in blocks])

    @property
    def folder(self) -> Path:
        return self.records.run.blocks

    @cached_property
    def blocks(self) -> list[Block]:
        """A function of the capture alone."""
        return plan_blocks(self.scene, self.count)

    @cached_property
    def shell(self) -> Points:
        """Of the whole scene; every photo is read for it, one after the other."""
        return scene_shell(self.scene, self.config, self.count)

    def stage(self, block: Block) -> Stage:
        return Stage.of(f"block_{block.number}", geometry=self.whole.key)

    def file(self, block: Block) -> Path:
        return self.folder / f"block_{block.number}.ply"

    def fit(self, block: Block) -> None:
        """Fit one block, from its checkpoint if there is one, and leave its file."""
        stage, run = self.stage(block), self.records.run
        hooks = self.records.hooks(stage)
        hooks = replace(hooks, reporter=OfBlock(hooks.reporter, block.number, self.count))
        measured = [view for view in self.held_out if bool(block.region.holds(view.camera.position[None], True))]
        found = fit_block(self.scene, block, self.shell, self.config, measured or self.held_out, self.device, hooks)
        run.unmark(stage.name)
        save_gaussians(self.file(block), found)
        self.records.finish(stage, [self.file(block)])

    def _note(self) -> None:
        """One figure of all blocks' seconds, in place of theirs."""
        figures = self.records.figures
        names = [name for name in figures if name.startswith("block_") and name.endswith("_seconds")]
        if names:
            self.records.note(geometry_seconds=round(sum(figures.pop(name) for name in names), 1), blocks=self.count)
