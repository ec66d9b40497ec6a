"""The contact sheet of a run, the last stage of a fit: a few views, and the hierarchies of two photos below them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree
from splatseg.core.scene import View, spread_views
from splatseg.draw.mask_preview import hierarchy_preview
from splatseg.draw.sheets import run_sheet
from splatseg.fit.stages import Stage, cameras_digests, photos_digest, tensors_digest
from splatseg.io.digests import digest
from splatseg.masks.hierarchy import HierarchyFolder

VIEWS = 4
HIERARCHIES = 2


@dataclass(frozen=True, eq=False)
class Sheet:
    """What a sheet shows: photo, render, feature PCA and labels of ``shown``, patches and levels of ``below``."""

    gaussians: Gaussians
    field: FeatureField
    tree: LabelTree
    shown: Sequence[View]
    below: Sequence[View]
    hierarchies: HierarchyFolder
    caption: str

    @classmethod
    def of(
        cls,
        results: tuple[Gaussians, FeatureField, LabelTree],
        views: Sequence[View],
        train: Sequence[View],
        hierarchies: HierarchyFolder,
        caption: str = "photo",
    ) -> Sheet:
        """Of up to four of ``views`` and two of ``train``, which alone have hierarchies; ``caption`` says what the
        views' own pictures are."""
        return cls(*results, spread_views(views, VIEWS), spread_views(train, HIERARCHIES), hierarchies, caption)

    def stage(self) -> Stage:
        tree = self.tree
        return Stage.of(
            "sheet",
            geometry=self.gaussians.fingerprint(),
            features=tensors_digest([self.field.features]),
            labels=[
                tensors_digest([torch.from_numpy(tree.labels)]),
                [dataclasses.asdict(node) for node in tree.nodes],
                tree.default_level,
            ],
            hierarchy=digest(files=[self.hierarchies.path(view.name) for view in self.below]),
            photos=photos_digest([*self.shown, *self.below]),
            caption=self.caption,
            **cameras_digests(self.shown),
        )

    def draw(self, path: Path, device: torch.device) -> None:
        """Write the PNG."""
        run_sheet(
            path,
            self.gaussians.to(device),
            self.field.unit.to(device),
            torch.from_numpy(self.tree.labels[:, self.tree.default_level].astype("int64")).to(device),
            self.tree.palette(),
            self.shown,
            [self._preview(view) for view in self.below],
            self.caption,
        )

    def _preview(self, view: View) -> Image.Image:
        """Patches of ``view``, and the levels of one clicked pixel."""
        hierarchy = self.hierarchies[view.name]
        return hierarchy_preview(view.image().numpy(), hierarchy.patch_ids, hierarchy.membership)
