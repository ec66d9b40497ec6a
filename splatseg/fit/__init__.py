"""The main job: photos -> Gaussians -> features -> labels, stage by stage, cached and resumable."""

from splatseg.fit.features import FeatureConfig, fit_features
from splatseg.fit.geometry import GeometryConfig, fit_geometry
from splatseg.fit.pipeline import Fit
from splatseg.fit.scene import fit_scene
from splatseg.fit.settings import FitConfig, FitInputs

__all__ = [
    "FeatureConfig",
    "Fit",
    "FitConfig",
    "FitInputs",
    "GeometryConfig",
    "fit_features",
    "fit_geometry",
    "fit_scene",
]
