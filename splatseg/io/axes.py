"""Half a turn about x: from the axes of COLMAP and INRIA's PLY (x right, y down, z forward) to those of SPZ and glTF
(x right, y up, z back), and back. All of it is changes of sign, so that no bit of a value is lost."""

from __future__ import annotations

from dataclasses import replace

import torch

from splatseg.core.gaussians import Gaussians

_POSITION = (1.0, -1.0, -1.0)
_QUATERNION = (1.0, 1.0, -1.0, -1.0)  # wxyz
# What becomes of the real harmonics (of degrees 0 to 3, in the order of splatseg.ops.reference.rasterize.sh_basis)
# under (x, y, z) -> (x, -y, -z): each is even or odd.
_HARMONICS = (1.0, -1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0, 1.0)


def half_turn(gaussians: Gaussians) -> Gaussians:
    """``gaussians`` and their offset, turned by 180 degrees about x; twice is the identity."""
    x, y, z = gaussians.offset
    device = gaussians.device
    harmonics = torch.tensor(_HARMONICS[: gaussians.sh.shape[1]], device=device)
    return replace(
        gaussians,
        means=gaussians.means * torch.tensor(_POSITION, device=device),
        quats=gaussians.quats * torch.tensor(_QUATERNION, device=device),
        sh=gaussians.sh * harmonics[None, :, None],
        offset=(x, 0.0 - y, 0.0 - z),
    )
