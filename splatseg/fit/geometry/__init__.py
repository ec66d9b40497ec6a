"""Photos -> Gaussians."""

from splatseg.fit.geometry.config import GeometryConfig
from splatseg.fit.geometry.fit import fit_geometry, psnr
from splatseg.fit.geometry.init import gaussians_from_points

__all__ = ["GeometryConfig", "fit_geometry", "gaussians_from_points", "psnr"]
