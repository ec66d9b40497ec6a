"""Gaussian-splatting feature fields with hierarchical click segmentation.

From a COLMAP capture to a labeled splat::

    splat = splatseg.fit_scene("captures/kitchen", "runs/kitchen")
    splatseg.save_labels("labels.ply", splat.gaussians, splat.discretize())

Names are imported when they are first asked for: ``import splatseg`` itself loads neither torch nor a kernel.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from splatseg._libz import load_libz as _load_libz

_load_libz()  # before any room is imported: see there

__version__ = "0.2.0"

if TYPE_CHECKING:
    from splatseg.core.camera import Camera
    from splatseg.core.errors import SplatsegError
    from splatseg.core.field import FeatureField
    from splatseg.core.gaussians import Gaussians
    from splatseg.core.label_tree import LabelTree
    from splatseg.core.scene import Scene, View
    from splatseg.core.selection import Selection
    from splatseg.fit.features import FeatureConfig, fit_features
    from splatseg.fit.geometry import GeometryConfig, fit_geometry
    from splatseg.fit.scene import fit_scene
    from splatseg.fit.settings import FitConfig
    from splatseg.io.colmap import load_colmap
    from splatseg.io.labels import load_labels, save_labels
    from splatseg.io.ply import load_gaussians as load_ply
    from splatseg.io.ply import save_gaussians as save_ply
    from splatseg.segment.splat import SegmentableSplat
    from splatseg.session import Session
    from splatseg.session.session import open_run

_PUBLIC = {
    "Camera": "core.camera",
    "FeatureConfig": "fit.features",
    "FeatureField": "core.field",
    "FitConfig": "fit.settings",
    "Gaussians": "core.gaussians",
    "GeometryConfig": "fit.geometry",
    "LabelTree": "core.label_tree",
    "Scene": "core.scene",
    "SegmentableSplat": "segment.splat",
    "Selection": "core.selection",
    "Session": "session",
    "SplatsegError": "core.errors",
    "View": "core.scene",
    "fit_features": "fit.features",
    "fit_geometry": "fit.geometry",
    "fit_scene": "fit.scene",
    "load_colmap": "io.colmap",
    "load_labels": "io.labels",
    "load_ply": "io.ply:load_gaussians",
    "open_run": "session.session",
    "save_labels": "io.labels",
    "save_ply": "io.ply:save_gaussians",
}

__all__ = [
    "Camera",
    "FeatureConfig",
    "FeatureField",
    "FitConfig",
    "Gaussians",
    "GeometryConfig",
    "LabelTree",
    "Scene",
    "SegmentableSplat",
    "Selection",
    "Session",
    "SplatsegError",
    "View",
    "__version__",
    "fit_features",
    "fit_geometry",
    "fit_scene",
    "load_colmap",
    "load_labels",
    "load_ply",
    "open_run",
    "save_labels",
    "save_ply",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'splatseg' has no attribute {name!r}")
    module, _, inner = _PUBLIC[name].partition(":")
    value = globals()[name] = getattr(_import_module(f"splatseg.{module}"), inner or name)
    return value


def __dir__() -> list[str]:
    return __all__
