"""What the scripts that read a finished run share: its splat and its features."""

from __future__ import annotations

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.io.run import Run
from splatseg.io.splats import SplatFormat, not_held
from splatseg.segment.splat import SegmentableSplat


def print_notes(kind: SplatFormat, gaussians: Gaussians) -> None:
    """What is lost in a file of the format."""
    for line in not_held(kind, gaussians):
        print(f"note     {line}")


def load_fitted(run: Run) -> SegmentableSplat:
    """The run's splat and the features that were fitted on it.

    Raises:
        SplatsegError: one of them is missing, broken, or they do not belong together.
    """
    for path in (run.geometry, run.features):
        if not path.is_file():
            raise SplatsegError(f"{path}: expected a finished fit (scripts/fit.py), found no such file")
    return SegmentableSplat.load(run.geometry, run.features)
