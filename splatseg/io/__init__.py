"""Files in and out: COLMAP scenes, PLY splats, the run folder. Every write is atomic."""

from splatseg.core.atomic import atomic_write, write_text
from splatseg.io.colmap import load_colmap, run_sfm
from splatseg.io.digests import digest
from splatseg.io.ply import load_extra, load_gaussians, save_gaussians
from splatseg.io.run import Run

__all__ = [
    "Run",
    "atomic_write",
    "digest",
    "load_colmap",
    "load_extra",
    "load_gaussians",
    "run_sfm",
    "save_gaussians",
    "write_text",
]
