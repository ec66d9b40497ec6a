"""What the scripts that read a finished run share: its splat and its features."""

from __future__ import annotations

from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.io.ply import load_gaussians
from splatseg.io.run import Run


def load_field(run: Run) -> tuple[Gaussians, FeatureField]:
    """The run's splat and the features that were fitted on it.

    Raises:
        SplatsegError: one of them is missing, broken, or they do not belong together.
    """
    for path in (run.geometry, run.features):
        if not path.is_file():
            raise SplatsegError(f"{path}: expected a finished fit (scripts/fit.py), found no such file")
    gaussians = load_gaussians(run.geometry)
    return gaussians, FeatureField.load(run.features, gaussians)
