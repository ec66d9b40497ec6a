"""A capture that fits in seconds: six small rendered views with masks and ground truth, and settings for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from splatseg.fit.features import FeatureConfig
from splatseg.fit.geometry import GeometryConfig
from splatseg.fit.pixel_pools import SamplingConfig
from splatseg.fit.settings import FitConfig
from splatseg.synthetic import SceneConfig, write_scene

TINY = FitConfig(
    geometry=replace(GeometryConfig.preset("fast"), steps=30, max_gaussians=4000),
    features=FeatureConfig(dim=8, steps=20, sampling=SamplingConfig(pool_pixels=2000, batch_pixels=2000)),
)


def write_capture(folder: Path) -> Path:
    """Write it to ``folder``, its masks in ``masks_2d``."""
    write_scene(folder, SceneConfig(objects=2, views=6, test_views=2, width=96, height=72))
    return folder
