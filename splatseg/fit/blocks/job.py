"""Blocks as stages of a run: each is fitted once, and one that was killed goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from splatseg.core.atomic import write_text
from splatseg.core.errors import DAMAGED
from splatseg.core.gaussians import Gaussians
from splatseg.core.machine import available_memory
from splatseg.core.progress import SILENT, Progress, Reporter
from splatseg.core.ranks import ALONE, Ranks
from splatseg.core.reading import read_json
from splatseg.core.scene import Points, Scene, View
from splatseg.fit.blocks.borders import join_block, merged
from splatseg.fit.blocks.fit import fit_block, scene_shell
from splatseg.fit.blocks.plan import Block, assigned, plan_blocks
from splatseg.fit.geometry import GeometryConfig, fit_geometry
from splatseg.fit.hooks import FitHooks
from splatseg.fit.meeting import ask
from splatseg.fit.needs import FitSize, geometry_of_ranks, stage_needs
from splatseg.fit.records import StageRecords
from splatseg.fit.settings import FitConfig
from splatseg.fit.stages import Stage
from splatseg.io.digests import digest
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.io.run import Run

CHOSEN = "blocks.json"  # in the folder of blocks: how many the run began with
AUTO_VIEWS = 20  # photos for each block at least, where it is not a person who says how many


def block_count(run: Run, config: FitConfig, size: FitSize, asks_memory: bool, ranks: Ranks = ALONE) -> int:
    """How many blocks the geometry of ``run`` is fitted in: as many as were asked for; of ``auto`` what the run has, or
    began with, else the fewest that this machine has the memory for (one where not even the most would do).

    Args:
        run: may hold a geometry, whole or begun.
        config: all settings.
        size: of the whole fit.
        asks_memory: whether memory may decide.
        ranks: that share the machine's memory.
    """
    if config.blocks != "auto":
        return int(config.blocks)
    if run.was_done("geometry"):
        made_from = (run.made_from("geometry") or {}).get("blocks")
        return next((count for count in range(2, size.views + 1) if digest(count) == made_from), 1)
    with suppress(*DAMAGED):
        return max(int(read_json(run.blocks / CHOSEN)["blocks"]), 1)
    begun = run.checkpoint_path("geometry").is_file()
    free = None if begun or not asks_memory else available_memory()
    if free is not None:
        for count in range(1, max(size.views // AUTO_VIEWS, 1) + 1):
            shared = ranks.neighbors() * geometry_of_ranks(size, config, count)
            if (stage_needs(size, config, count)["geometry"] if ranks.alone else shared) <= free:
                return count
    return 1


class Labeled(Reporter):
    """Passes on what a fit of a block says, under a name of its own."""

    def __init__(self, inner: Reporter, label: str, number: int) -> None:
        self._inner = inner
        self._label = label
        self._number = number

    def update(self, progress: Progress) -> None:
        self._inner.update(replace(progress, label=self._label))

    def finish(self, label: str) -> None:
        self._inner.finish(self._label)

    def log(self, figures: Mapping[str, Any]) -> None:
        self._inner.log({**figures, "block": self._number})


@dataclass(frozen=True)
class BlockJob:
    """The geometry of ``scene`` in ``count`` blocks, the results and checkpoints of each in the run.

    Blocks are fitted, then joined (:mod:`splatseg.fit.blocks.borders`): no block needs another for the first, nor what
    another is after the second. So either is dealt to ranks, which leave files and stamps of their share, and the
    splat is the same with any number of them. One block is fitted by all ranks together.

    Attributes:
        records: of the run.
        scene: training views and points.
        held_out: views that only measure.
        config: of the whole splat.
        count: of blocks; one is the fit of the whole, as if there were no blocks.
        whole: the geometry's stage.
        device: where to compute.
        ranks: of which this is one; the others have the same job and :meth:`share` it.
    """

    records: StageRecords
    scene: Scene
    held_out: Sequence[View]
    config: GeometryConfig
    count: int
    whole: Stage
    device: torch.device
    ranks: Ranks = ALONE

    def gaussians(self) -> Gaussians:
        """Fit and join the blocks that are not done, and put all together.

        Raises:
            SplatsegError: the capture does not allow so many blocks, or a block's fit fails.
        """
        if self.count == 1:
            self.records.figures.pop("blocks", None)
            with suppress(OSError):
                (self.folder / CHOSEN).unlink(missing_ok=True)
            ranks, hooks = ask(self.ranks, self.whole.name), self.records.hooks(self.whole)
            return fit_geometry(self.scene, self.config, self.held_out, self.device, hooks, ranks)
        blocks = self.blocks
        write_text(self.folder / CHOSEN, json.dumps({"blocks": self.count}) + "\n")
        ask(self.ranks, "blocks", self.count, self.whole)
        self.share()
        self._note()
        return merged([load_gaussians(self.file("border", block)) for block in blocks])

    def share(self) -> None:
        """Fit, then join, this rank's blocks, each once all ranks have come so far."""
        for work in (self.fit, self.join):
            self.ranks.agree(partial(self._each, work))

    def _each(self, work: Callable[[Block], None]) -> None:
        for block in self.ranks.deal(self.blocks):
            work(block)

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

    @cached_property
    def shown(self) -> list[list[bool]]:
        """Of each held-out view, the blocks that it measures."""
        regions = [block.region for block in self.blocks]
        return assigned(self.held_out, self.scene.points.xyz, regions).tolist() if self.held_out else []

    def file(self, kind: str, block: Block) -> Path:
        """Of ``block``: all that was fitted, or of ``border`` what of it is in the whole splat."""
        return self.folder / f"{kind}_{block.number}.ply"

    def fit(self, block: Block) -> None:
        """Fit one block where that is not done, from its checkpoint if there is one, and leave its file."""

        def fitted(hooks: FitHooks) -> Gaussians:
            measured = [view for view, shows in zip(self.held_out, self.shown, strict=True) if shows[block.number]]
            return fit_block(self.scene, block, self.shell, self.config, measured, self.device, hooks)

        self._once("block", f"block {block.number + 1} of {self.count}", block, fitted)

    def join(self, block: Block) -> None:
        """Train one block's borders where that is not done, and leave what of it is in the whole splat."""

        def joined(hooks: FitHooks) -> Gaussians:
            found = (load_gaussians(self.file("block", other)) for other in self.blocks[: block.number])
            lower = [splat.select(block.region.holds(splat.means, expanded=True)) for splat in found]
            fitted = self.file("block", block)
            return join_block(self.scene, self.blocks, load_gaussians(fitted), lower, self.config, self.device, hooks)

        self._once("border", f"borders of block {block.number + 1}", block, joined)

    def _once(self, kind: str, label: str, block: Block, work: Callable[[FitHooks], Gaussians]) -> None:
        stage, file = Stage.of(f"{kind}_{block.number}", geometry=self.whole.key), self.file(kind, block)
        if self.records.is_done(stage):
            return
        hooks = self.records.hooks(stage)
        reporter = Labeled(hooks.reporter, label, block.number) if self.ranks.first else SILENT
        found = work(replace(hooks, reporter=reporter))
        self.records.run.unmark(stage.name)
        save_gaussians(file, found)
        self.records.finish(stage, [file])

    def _note(self) -> None:
        """One figure of all blocks' seconds, in place of theirs."""
        figures = self.records.figures
        names = [name for name in figures if name.startswith(("block_", "border_")) and name.endswith("_seconds")]
        if names:
            self.records.note(geometry_seconds=round(sum(figures.pop(name) for name in names), 1), blocks=self.count)
