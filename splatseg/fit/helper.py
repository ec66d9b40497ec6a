"""A fit by several ranks: the first runs the pipeline, the others help with its long stages.

Rank 0 alone decides which stages are left, holds the run's lock, and writes results, checkpoints and stamps, so that
these do not depend on the number of ranks. The others write masks and hierarchies of their share of the views, and
files, checkpoints and stamps of their share of the blocks.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from splatseg.core.gaussians import Gaussians
from splatseg.core.memory import require_memory_of_ranks
from splatseg.core.progress import SILENT, Reporter
from splatseg.core.ranks import ALONE, Ranks
from splatseg.core.scene import Scene, View
from splatseg.fit.blocks.job import BlockJob
from splatseg.fit.features import help_with_features
from splatseg.fit.geometry import fit_geometry
from splatseg.fit.hierarchies import make_hierarchies
from splatseg.fit.meeting import Facts, ask, meet
from splatseg.fit.pipeline import Fit
from splatseg.fit.records import StageRecords
from splatseg.fit.settings import FitConfig, FitInputs
from splatseg.fit.stages import Stage
from splatseg.io.run_scene import load_run_scene
from splatseg.masks.hierarchy import HierarchyFolder
from splatseg.render.backends import check_own_gpu

LAST = "done"


def fit_by(inputs: FitInputs, config: FitConfig, reporter: Reporter = SILENT, ranks: Ranks = ALONE) -> dict[str, Any]:
    """:meth:`Fit.execute` by all ``ranks``; in rank 0 the figures, in the others nothing.

    Raises:
        SplatsegError: bad input, in any rank.
    """
    if not ranks.first:
        warnings.simplefilter("ignore")
        logging.getLogger("splatseg").setLevel(logging.ERROR)  # rank 0 says it
        Helper(inputs, config, ranks).execute()
        return {}
    fit = Fit(inputs, config, reporter, ranks)
    check_own_gpu(fit.device, max(ranks.neighbors(rank) for rank in range(ranks.size)))
    figures = fit.execute()
    ask(ranks, LAST)
    return figures


class Helper:
    """A rank other than the first."""

    def __init__(self, inputs: FitInputs, config: FitConfig, ranks: Ranks) -> None:
        self.inputs = inputs
        self.config = config
        self.ranks = ranks

    def execute(self) -> None:
        """Help until rank 0 is done."""
        meet(self.inputs.out, self.ranks, self._facts)
        if self.config.check_memory and self.fit.device.type == "cpu":
            require_memory_of_ranks({}, {}, "", self.ranks)
        stages: dict[str, Callable[..., None]] = {
            "geometry": self._geometry,
            "blocks": self._blocks,
            "hierarchy": self._hierarchies,
            "features": self._features,
        }
        while (order := self.ranks.broadcast((LAST, ())))[0] != LAST:
            stages[order[0]](*order[1])

    def _facts(self) -> Facts:
        """Opens run and capture, which rank 0 has prepared."""
        self.fit = Fit(self.inputs, self.config, SILENT, self.ranks)
        run = self.fit.run
        self.scene: Scene = load_run_scene(run, self.fit.scene, config=self.fit.settings())
        self.train: Sequence[View] = self.fit.split(self.scene)[0]
        self.folder = HierarchyFolder(run.hierarchy)
        return self.fit.facts(self.scene, self.train)

    def _geometry(self) -> None:
        scene = dataclasses.replace(self.scene, views=tuple(self.train))
        fit_geometry(scene, self.config.geometry, device=self.fit.device, ranks=self.ranks)

    def _blocks(self, count: int, whole: Stage) -> None:
        scene = dataclasses.replace(self.scene, views=tuple(self.train))
        records = StageRecords(self.fit.run, SILENT)
        BlockJob(records, scene, (), self.config.geometry, count, whole, self.fit.device, self.ranks).share()

    def _hierarchies(self) -> None:
        masks = self.fit.masks.cache(self.train, describe=False)
        make_hierarchies(self.train, masks, self.folder, self.config.hierarchy, ranks=self.ranks)

    def _features(self, gaussians: Gaussians) -> None:
        on_device = gaussians.to(self.fit.device)
        help_with_features(on_device, self.train, lambda view: self.folder[view.name], self.config.features, self.ranks)
