"""Photos -> Gaussians."""

from splatseg.geometry.config import GeometryConfig
from splatseg.geometry.fit import fit_geometry, psnr
from splatseg.geometry.init import gaussians_from_points

__all__ = ["GeometryConfig", "fit_geometry", "gaussians_from_points", "psnr"]
