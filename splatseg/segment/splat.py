"""A splat with its features: what a click needs, in one object."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.field import FeatureField
from splatseg.core.label_tree import LabelTree
from splatseg.core.scene import View
from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.io.ply import load_gaussians
from splatseg.segment.clicks import Click, Query, make_query
from splatseg.segment.discretize import ClusterConfig, discretize
from splatseg.segment.levels import Level, propose_levels, surface_weights
from splatseg.segment.scores import Scores, scores


@dataclass(frozen=True, eq=False)
class Proposal:
    """One of the nested answers to a click."""

    level: Level
    selection: Selection


@dataclass(frozen=True, eq=False)
class Found:
    """What clicks found.

    Attributes:
        query: the features that were searched for.
        scores: of every Gaussian, in [-1, 1].
        levels: nested proposals, smallest first; at least one.
    """

    query: Query
    scores: Scores
    levels: tuple[Proposal, ...]

    @property
    def selection(self) -> Selection:
        """The smallest proposal."""
        return self.levels[0].selection

    def above(self, threshold: float) -> Selection:
        """The Gaussians that score above ``threshold``, in [-1, 1]."""
        return self.scores.above(threshold)


@dataclass(frozen=True, eq=False)
class SegmentableSplat(FeatureSplat):
    """A splat and the features that were fitted on it, with what a click needs.

    Raises:
        SplatsegError: the features belong to another splat.
    """

    @cached_property
    def weights(self) -> Tensor:
        """(n,) share of the surface that each Gaussian is."""
        return surface_weights(self.gaussians)

    def click(
        self,
        view: View | Camera,
        u: float,
        v: float,
        add: tuple[tuple[float, float], ...] = (),
        subtract: tuple[tuple[float, float], ...] = (),
    ) -> Found:
        """What lies at image position (u, v) of a view, pixel centers at + 0.5, as nested proposals.

        Args:
            add: further positions of what is wanted.
            subtract: positions of what is not.

        Raises:
            SplatsegError: a position outside the image, or with nothing there.
        """
        camera = (view.camera if isinstance(view, View) else view).to(self.gaussians.device)
        wanted = [Click(camera, position) for position in ((u, v), *add)]
        unwanted = [Click(camera, position, positive=False) for position in subtract]
        query = make_query(self, [*wanted, *unwanted])
        found = scores(self.field, query)
        levels = propose_levels(found, self.weights, segments=self.field.segments)
        return Found(query, found, tuple(Proposal(level, found.above(level.threshold)) for level in levels))

    def discretize(self, config: ClusterConfig | None = None) -> LabelTree:
        """Label every Gaussian at several nested levels."""
        return discretize(self, config)

    @classmethod
    def load(cls, geometry: Path | str, features: Path | str) -> SegmentableSplat:
        """From a splat's PLY and the safetensors of its features.

        Raises:
            SplatsegError: a file is missing or damaged, or they do not belong together.
        """
        gaussians = load_gaussians(geometry)
        field = FeatureField.load(features, gaussians)  # names the file where they do not belong together
        return cls._checked(gaussians, field)
