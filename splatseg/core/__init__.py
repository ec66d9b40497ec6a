"""What every room speaks of: cameras, Gaussians, scenes, features, selections, label trees, errors, whole files."""

from splatseg.core.camera import Camera
from splatseg.core.errors import MissingExtraError, SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelNode, LabelTree
from splatseg.core.scene import Points, Scene, View
from splatseg.core.selection import Selection

__all__ = [
    "Camera",
    "FeatureField",
    "Gaussians",
    "LabelNode",
    "LabelTree",
    "MissingExtraError",
    "Points",
    "Scene",
    "Selection",
    "SplatsegError",
    "View",
]
