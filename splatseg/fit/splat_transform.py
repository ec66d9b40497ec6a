"""Similarity transforms of a splat that lies in another frame than its capture, from files, and what they do to it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.reading import read_text
from splatseg.ops.reference.rasterize import sh_basis

Matrix = NDArray[np.float64]
_TOLERANCE = 1e-3  # by which a written rotation may miss orthogonality
_DIRECTIONS = 64  # of which spherical harmonics are rotated; 7 numbers a degree are wanted


def read_splat_transform(path: Path, applied: Matrix | None = None) -> Matrix:
    """(4, 4) float64 ``target_from_source``: x_capture = M x_splat, a rotation, one scale and a shift.

    Read from 4x4 numbers (JSON, or text by rows) that are it, or from nerfstudio's ``dataparser_transforms.json``,
    whose ``transform`` (3, 4) and ``scale`` lead the other way: x_splat = scale * (transform @ x_original).

    Args:
        applied: (3, 4) ``applied_transform`` of the capture's ``transforms.json``, capture_from_original: nerfstudio
            counts it into ``transform``. None for a COLMAP capture, which is the original.

    Raises:
        SplatsegError: the file is missing or holds something else.
    """
    try:
        text = read_text(path, "utf-8-sig")
    except (OSError, ValueError) as error:
        raise SplatsegError(
            f"{path}: expected a transform, found: {getattr(error, 'strerror', None) or error}"
        ) from None
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        content = [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]
    if isinstance(content, dict):
        splat_from_original = _matrix(path, "transform", content.get("transform"))
        scale = content.get("scale", 1.0)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise SplatsegError(f"{path}: scale: expected a positive number, found {scale!r}")
        splat_from_original[:3] *= scale
        capture_from_original = np.eye(4) if applied is None else _matrix(path, "applied_transform", applied)
        return capture_from_original @ np.linalg.inv(splat_from_original)
    return _matrix(path, "target_from_source", content)


def _matrix(path: Path, name: str, value: Any) -> Matrix:
    """(4, 4), checked to be a similarity; a last row of 0 0 0 1 may be left out."""
    try:
        given = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        given = np.zeros(0)
    if given.shape not in ((3, 4), (4, 4)) or not np.isfinite(given).all():
        raise SplatsegError(f"{path}: {name}: expected 4x4 or 3x4 finite numbers, found others")
    matrix = np.eye(4)
    matrix[: len(given)] = given
    scale = float(np.cbrt(max(np.linalg.det(matrix[:3, :3]), 0.0)))
    turn = matrix[:3, :3] / scale if scale > 0 else np.zeros((3, 3))
    if np.abs(turn @ turn.T - np.eye(3)).max() > _TOLERANCE or (matrix[3] != (0, 0, 0, 1)).any():
        raise SplatsegError(f"{path}: {name}: expected a rotation times one positive scale, and a shift, found none")
    return matrix


def transformed(gaussians: Gaussians, matrix: Matrix, offset: tuple[float, float, float]) -> Gaussians:
    """``gaussians`` moved by ``matrix`` (4, 4), a similarity of capture frames, into the local frame of ``offset``.

    Means, orientations and sizes follow; so do the spherical harmonics of every degree.
    """
    linear = torch.from_numpy(matrix[:3, :3])
    scale = float(torch.linalg.det(linear)) ** (1 / 3)
    # The rotation nearest to what is written; float32 files miss it by their last digit.
    u, _, vt = torch.linalg.svd(linear / scale)
    rotation = u @ vt
    move = torch.from_numpy(matrix[:3, :3] @ np.array(gaussians.offset) + matrix[:3, 3] - np.array(offset))
    means = (gaussians.means.double() @ linear.T + move).float()
    turned = Rotation.from_matrix(rotation.numpy()) * Rotation.from_quat(
        gaussians.quats.double().numpy(), scalar_first=True
    )
    return replace(
        gaussians,
        means=means,
        quats=torch.from_numpy(turned.as_quat(scalar_first=True)).float(),
        log_scales=gaussians.log_scales + math.log(scale),
        sh=rotated_harmonics(gaussians.sh, rotation),
        offset=offset,
    )


def rotated_harmonics(sh: Tensor, rotation: Tensor) -> Tensor:
    """Coefficients (n, k, 3) whose color at R d is that of ``sh`` at d.

    A rotation maps the harmonics of a degree to themselves: its matrix follows from their values at some directions.
    """
    directions = torch.randn((_DIRECTIONS, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    degree = math.isqrt(sh.shape[1]) - 1
    after, before = sh_basis(degree, directions), sh_basis(degree, directions @ rotation)  # rows R^T d
    result = sh.clone()
    for band in range(1, degree + 1):
        columns = slice(band**2, (band + 1) ** 2)
        turn = torch.linalg.lstsq(after[:, columns], before[:, columns]).solution
        result[:, columns] = torch.einsum("jk,nkc->njc", turn, sh[:, columns].double()).float()
    return result
