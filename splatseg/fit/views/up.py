"""Which way is up in a splat that comes without photos: where a floor is, and else what tools agree on."""

from __future__ import annotations

import torch
from torch import Tensor

from splatseg.fit.views.config import Up

_CANDIDATES = 400  # normals that are tried as the up direction
_CONE = 0.985  # cosine of 10 degrees: what counts as parallel
_MODES, _APART = 12, 0.9  # directions that are compared, and the cosine below which they are different ones
_CELLS = 24  # of a scene's plan along each side, in which a floor is looked for
_LOW, _LEVEL = 0.2, 0.9  # share of the height that a floor may lie in, and the cosine of its slope
_FLOOR = 0.65  # share of the plan that a floor covers: an object that lies on its back covers less
_ALIKE = 0.1  # by which what the two ends cover may differ for both to be a floor or a ceiling
_CLEAR = 2.0  # times what the usual direction has, from which a floor elsewhere is believed
_FLAT = 0.1  # share of all surface that faces +z where files of tools have z up
_USUAL = 0.77  # cosine of 40 degrees: how far the usual direction may be off, as photos are taken
_SURE = 2.0  # times the surface that faces the usual direction exactly, from which it is corrected


def axis_of(up: Up) -> Tensor:
    """(3,) float64 the axis that an option names."""
    axis = torch.zeros(3, dtype=torch.float64)
    axis["xyz".index(up[1])] = 1.0 if up[0] == "+" else -1.0
    return axis


def up_direction(normals: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    """(3,) float64 unit vector.

    A floor tells: a level surface below everything, under most of the scene's plan, across which the scene is small.
    Without one nothing in the shape does (a statue, a facade): then it is -y, up in COLMAP's frames, in what viewers
    show and in what editors write, corrected by the surfaces near to it; or +z, as nerfstudio and Blender have it,
    where that is what most surfaces face.

    Args:
        normals: (m, 3) float64 unit vectors, of any sign.
        weights: (m,) float64, how much each says; they sum to 1.
        means: (m, 3) float64, where they are.
    """
    modes = _modes(normals, weights)
    found = _across_a_floor(modes, normals, weights, means)
    return _by_convention(modes, normals, weights) if found is None else found


def _across_a_floor(modes: list[Tensor], normals: Tensor, weights: Tensor, means: Tensor) -> Tensor | None:
    """Of ``modes`` the one that has a floor and along which the scene is smallest for how much faces it."""
    usual = axis_of("-y")
    best, most = None, 0.0
    for mode in modes:
        up, floor = _upright(_refined(mode, normals, weights), normals, weights, means)
        score = _votes(mode, normals, weights) / _extent(means @ up)
        if score <= most or floor < _FLOOR:
            continue
        rival = _votes(usual, normals, weights) / _extent(means @ usual)
        if float(up @ usual) >= _USUAL or score >= _CLEAR * rival:
            best, most = up, score
    return best


def _by_convention(modes: list[Tensor], normals: Tensor, weights: Tensor) -> Tensor:
    """The direction that is up in the files of most tools, corrected by the surfaces that are about across it."""
    usual, other = axis_of("-y"), axis_of("+z")
    most = max(modes, key=lambda mode: _votes(mode, normals, weights))
    if float((most @ other).abs()) >= _CONE and _votes(most, normals, weights) >= _FLAT:
        up = _refined(most, normals, weights)
        return up * (up @ other).sign()
    near = [mode for mode in modes if float((mode @ usual).abs()) >= _USUAL]
    nearest = max(near, key=lambda mode: _votes(mode, normals, weights), default=usual)
    if _votes(nearest, normals, weights) < _SURE * _votes(usual, normals, weights):
        return usual
    up = _refined(nearest, normals, weights)
    return up * (up @ usual).sign()


def along_walls(normals: Tensor, weights: Tensor, z: Tensor) -> Tensor:
    """A direction across ``z`` that upright surfaces face, or that they face turned by right angles."""
    helper = normals[int(((normals @ z).abs() < 0.7).double().argmax())]
    a = torch.nn.functional.normalize(helper - (helper @ z) * z, dim=0)
    b = torch.linalg.cross(z, a)
    upright = (normals @ z).abs() < 0.3
    if not bool(upright.any()):
        return a
    angles = torch.atan2(normals[upright] @ b, normals[upright] @ a)
    w = weights[upright]
    angle = torch.atan2((w * (4 * angles).sin()).sum(), (w * (4 * angles).cos()).sum()) / 4
    return angle.cos() * a + angle.sin() * b


def quantiles(values: Tensor, levels: list[float]) -> Tensor:
    """(l, k) of ``values`` (n, k), n > 0, of any number: those that are there, none between."""
    picks = (torch.tensor(levels, dtype=torch.float64) * (len(values) - 1)).round().long()
    return values.sort(dim=0).values[picks]


def _modes(normals: Tensor, weights: Tensor) -> list[Tensor]:
    """Directions (3,) that many surfaces face, different ones, the most first."""
    candidates = normals[:: max(1, len(normals) // _CANDIDATES)]
    votes = ((candidates @ normals.T).abs() > _CONE).double() @ weights
    found: list[Tensor] = []
    while len(found) < _MODES and float(votes.max()) >= 0:
        found.append(candidates[int(votes.argmax())])
        votes = votes.masked_fill((candidates @ found[-1]).abs() > _APART, -1.0)
    return found


def _votes(direction: Tensor, normals: Tensor, weights: Tensor) -> float:
    """Share of the surface that faces ``direction``."""
    return float(weights[(normals @ direction).abs() > _CONE].sum())


def _refined(direction: Tensor, normals: Tensor, weights: Tensor) -> Tensor:
    """The mean of the normals about ``direction``."""
    for _ in range(3):
        near = (normals @ direction).abs() > _CONE
        aligned = normals[near] * (normals[near] @ direction).sign()[:, None]
        direction = torch.nn.functional.normalize(weights[near] @ aligned, dim=0)
    return direction


def _extent(heights: Tensor) -> float:
    low, high = quantiles(heights[:, None], [0.02, 0.98])
    return max(float(high - low), 1e-12)


def _upright(axis: Tensor, normals: Tensor, weights: Tensor, means: Tensor) -> tuple[Tensor, float]:
    """``axis`` or its opposite, and the share of the plan that has a floor: the side with more of it is below; where
    both ends are alike (a room has a ceiling), that which has more of the scene below the middle of its height."""
    along = along_walls(normals, weights, axis)
    plan = torch.stack([means @ along, means @ torch.linalg.cross(axis, along)], dim=1)
    low, high = quantiles(plan, [0.02, 0.98])
    cell = ((plan - low) / (high - low).clamp_min(1e-12) * _CELLS).floor().long()
    level = ((cell >= 0) & (cell < _CELLS)).all(dim=1) & ((normals @ axis).abs() > _LEVEL)
    heights = means @ axis
    bottom, top = (float(end) for end in quantiles(heights[:, None], [0.02, 0.98])[:, 0])
    reach = _LOW * (top - bottom)
    ends = [level & (heights <= bottom + reach), level & (heights >= top - reach)]
    below, above = (len((cell[end] @ torch.tensor([_CELLS, 1])).unique()) / _CELLS**2 for end in ends)
    upright = below > above if abs(below - above) >= _ALIKE else float(heights.median()) <= (bottom + top) / 2
    return (axis, below) if upright else (-axis, above)
