"""Numbers of the projection and of the rasterizer that the ops, their references and who bounds them agree on."""

from __future__ import annotations

TILE = 16
"""Pixels per side of a tile; ``kTile`` of cuda_ext."""
EPS2D = 0.3
"""Added to both variances of a projected Gaussian, pixels^2: the low-pass of 3DGS."""
CLAMP = 0.15
"""How far past the image's edge the projection's Jacobian is evaluated, as a share of width / fx and height / fy. The
number is gsplat's, and ``margin_x`` of cuda_ext/cpu/project_footprint.h."""
