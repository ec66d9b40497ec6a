"""What a 2D segmenter makes of a view whose exact labels are known, with a knob for each thing that goes wrong.

It works on label images alone, so that it serves rendered scenes with a ``gt`` folder as well as our own ray-cast ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from splatseg.core.errors import SplatsegError
from splatseg.core.truth import TruthNode
from splatseg.masks import MaskSet

Mask = NDArray[np.bool_]
Shown = Literal["all", "parts", "wholes", "center"]

SMALLEST = 1 / 2500  # smallest simulated mask, as a share of the image
_SHARES = ("keep_parts", "keep_objects", "keep_groups", "keep_stuff", "merges", "splits")
_MOST_ERROR = 20.0  # pixels; above, the lattice of the moved borders is as large as the objects
# Mean size of a field interpolated bilinearly between normal numbers: sqrt(2/pi) * (mean of sqrt(t^2 + (1-t)^2))^2.
_FIELD_SIZE = 0.5255


@dataclass(frozen=True)
class MaskSimulation:
    """How good the masks are. Equal settings give equal masks, and a change of one knob leaves the draws of the others.

    Attributes:
        keep_parts: share of the visible parts (depth 2 and deeper) that have a mask in a view, 0..1.
        keep_objects: of the objects (depth 1).
        keep_groups: of the groups (depth 0).
        keep_stuff: of floor, walls and the like, at any depth.
        border_error: mean distance in pixels by which a mask's border lies off, 0..20; what is thinner than that may be
            lost. Where a mask ends at the image's edge it stays there.
        merges: share of the masks that are one with a sibling, where a visible one touches them, 0..1.
        splits: share of the masks that come in two pieces, 0..1.
        clutter: regions of texture or shading in each view that are no object.
        show: ``all`` nodes; ``parts`` only (and what has none, such as a plain object or a wall); ``wholes`` only
            (objects, groups and undivided stuff); ``center``: one mask per view, the object nearest to the image's
            middle, whatever the shares and ``clutter`` say.
        every: one view in so many has masks, counted in the order of their names.
        seed: of everything random.
    """

    keep_parts: float = 0.8
    keep_objects: float = 0.85
    keep_groups: float = 0.5
    keep_stuff: float = 0.8
    border_error: float = 0.75
    merges: float = 0.08
    splits: float = 0.08
    clutter: int = 3
    show: Shown = "all"
    every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise SplatsegError(f"masks.{name}: expected a share in 0..1, found {getattr(self, name)}")
        if not 0 <= self.border_error <= _MOST_ERROR:
            raise SplatsegError(f"masks.border_error: expected 0..{_MOST_ERROR:.0f} pixels, found {self.border_error}")
        for name, least in (("clutter", 0), ("every", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise SplatsegError(f"masks.{name}: expected at least {least}, found {getattr(self, name)}")
        if self.show not in get_args(Shown):
            raise SplatsegError(f"masks.show: expected one of {', '.join(get_args(Shown))}, found '{self.show}'")

    @classmethod
    def perfect(cls, **knobs: Any) -> MaskSimulation:
        """Every node, exact and whole, but for the ``knobs`` named."""
        nothing = dict.fromkeys(("border_error", "merges", "splits", "clutter"), 0)
        return cls(**({field.name: 1.0 for field in fields(cls) if field.name.startswith("keep_")} | nothing | knobs))

    def views(self, names: Sequence[str]) -> list[str]:
        """Those of the views that have masks."""
        return sorted(names)[:: self.every]


@dataclass(frozen=True, eq=False)
class SimulatedMask:
    """One mask and where it comes from.

    Attributes:
        mask: (h, w) bool, at least :data:`SMALLEST` of the image.
        nodes: the node it shows, two where it is merged, none of clutter.
        piece: it shows a piece of its nodes.
    """

    mask: Mask
    nodes: tuple[int, ...]
    piece: bool = False

    @property
    def node(self) -> int | None:
        """The node that it shows, alone and whole; None if it shows none so."""
        return self.nodes[0] if len(self.nodes) == 1 and not self.piece else None


def simulate_masks(
    tree: Sequence[TruthNode], levels: NDArray[Any], view: str, config: MaskSimulation
) -> list[SimulatedMask]:
    """The masks of one view; ``config.every`` is the caller's business (:meth:`MaskSimulation.views`).

    Args:
        tree: all nodes.
        levels: (K, h, w) node ids of the view; a node's mask is where any level holds its id.
        view: its name, part of the seed of all choices.
    """
    nodes = {node.id: node for node in tree}
    visible = visible_masks(nodes, levels, SMALLEST)
    if config.show == "center":
        made = _center(nodes, visible, levels.shape[1:], config, view)
    else:
        made = [*_nodes(nodes, visible, config, view), *_clutter(levels.shape[1:], config, view)]
    limit = SMALLEST * levels[0].size
    return [one for one in made if one.mask.sum() >= limit]


def visible_masks(nodes: Mapping[int, TruthNode], levels: NDArray[Any], smallest: float) -> dict[int, Mask]:
    """Exact masks (h, w) of the nodes that cover at least ``smallest`` of the image, by id."""
    limit = smallest * levels[0].size
    masks = {number: (levels == number).any(0) for number in np.unique(levels).tolist() if number in nodes}
    return {number: mask for number, mask in masks.items() if mask.sum() >= limit}


def encode_masks(masks: Sequence[SimulatedMask], view: str, seed: int = 0) -> list[dict[str, Any]]:
    """One view's masks as segment-anything's ``amg.py --convert-to-rle`` writes them; scores and points are drawn."""
    if not masks:
        return []
    rng = _rng(seed, view, "scores")
    encoded = MaskSet.from_dense(np.stack([one.mask for one in masks])).to_coco()
    return [_annotation(one.mask, segmentation, rng) for one, segmentation in zip(masks, encoded, strict=True)]


def _rng(seed: int, view: str, *what: int | str) -> np.random.Generator:
    """One generator per view and thing that is drawn: the others do not depend on how much a thing draws."""
    key = hashlib.sha256("\0".join(map(str, (seed, view, *what))).encode()).digest()
    return np.random.default_rng(np.frombuffer(key, np.uint32))


def _kept(node: TruthNode, config: MaskSimulation) -> float:
    if node.stuff:
        return config.keep_stuff
    return (config.keep_groups, config.keep_objects, config.keep_parts)[min(node.depth, 2)]


def _is_shown(node: TruthNode, parents: set[int], show: Shown) -> bool:
    if show == "parts":
        return node.depth >= 2 or node.id not in parents
    return show == "all" or node.depth <= 1


def _nodes(
    nodes: Mapping[int, TruthNode], visible: Mapping[int, Mask], config: MaskSimulation, view: str
) -> Iterator[SimulatedMask]:
    parents = {node.parent for node in nodes.values()}
    shown = [number for number in visible if _is_shown(nodes[number], parents, config.show)]
    for number in shown:
        rng = _rng(config.seed, view, number)
        keep, merge, split = rng.uniform(size=3)
        if keep >= _kept(nodes[number], config):
            continue
        mask, members = visible[number], [number]
        if merge < config.merges:
            siblings = [n for n in shown if n != number and nodes[n].parent == nodes[number].parent]
            members += _touching(mask, siblings, visible, rng)
            mask = np.any([visible[n] for n in members], axis=0)
        pieces = _halves(mask, rng) if split < config.splits else [mask]
        for piece in pieces:
            if piece.any():
                yield SimulatedMask(move_border(piece, config.border_error, rng), tuple(members), len(pieces) > 1)


def _touching(mask: Mask, others: Sequence[int], visible: Mapping[int, Mask], rng: np.random.Generator) -> list[int]:
    """One of ``others`` that lies within two pixels of ``mask``, or none."""
    near = ndimage.binary_dilation(mask, iterations=2)
    return next(([others[k]] for k in rng.permutation(len(others)) if (near & visible[others[k]]).any()), [])


def _halves(mask: Mask, rng: np.random.Generator) -> list[Mask]:
    """``mask`` cut by a random line through its middle."""
    rows, columns = np.nonzero(mask)
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]]
    side = (x - columns.mean()) * np.cos(angle) + (y - rows.mean()) * np.sin(angle) > 0
    return [mask & side, mask & ~side]


def _clutter(shape: tuple[int, ...], config: MaskSimulation, view: str) -> Iterator[SimulatedMask]:
    """Blobs of 4 to 16 % of the image's width, anywhere."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    for number in range(config.clutter):
        rng = _rng(config.seed, view, "clutter", number)
        radii = rng.uniform(0.02, 0.08, 2) * shape[1]
        middle = rng.uniform(0, 1, 2) * (shape[1], shape[0])
        blob = ((x - middle[0]) / radii[0]) ** 2 + ((y - middle[1]) / radii[1]) ** 2 < 1
        yield SimulatedMask(move_border(blob, config.border_error, rng), ())


def _center(
    nodes: Mapping[int, TruthNode],
    visible: Mapping[int, Mask],
    shape: tuple[int, ...],
    config: MaskSimulation,
    view: str,
) -> list[SimulatedMask]:
    """The object that a click in the middle of the image takes; none where no object is visible."""
    objects = [n for n in visible if nodes[n].depth == 1 and not nodes[n].stuff]
    if not objects:
        return []
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    away = (x + 0.5 - shape[1] / 2) ** 2 + (y + 0.5 - shape[0] / 2) ** 2
    number = min(objects, key=lambda n: float(away[visible[n]].min()))
    moved = move_border(visible[number], config.border_error, _rng(config.seed, view, number))
    return [SimulatedMask(moved if moved.any() else visible[number], (number,))]


def move_border(mask: Mask, error: float, rng: np.random.Generator) -> Mask:
    """``mask`` with its border moved in and out smoothly, by ``error`` pixels in the mean and at most three times that.

    The signed distance to the border is offset by a field that is interpolated between normal numbers, so that the
    moved border leaves neither holes nor specks far from the first one.
    """
    if error == 0 or not mask.any() or mask.all():
        return mask
    reach = int(np.ceil(3 * error)) + 2
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = tuple(slice(max(line[0] - reach, 0), line[-1] + 1 + reach) for line in (rows, columns))
    part = mask[box]
    if part.all():
        return mask
    spacing = max(6.0, 6 * error)  # of the lattice: the border's slope stays well below one
    lattice = rng.standard_normal([int(side / spacing) + 2 for side in part.shape])
    places = np.mgrid[0 : part.shape[0], 0 : part.shape[1]] / spacing
    field = ndimage.map_coordinates(lattice, places, order=1) * (error / _FIELD_SIZE)
    inside, outside = ndimage.distance_transform_edt(part), ndimage.distance_transform_edt(~part)
    signed = np.where(part, inside - 0.5, 0.5 - outside)
    moved = np.zeros_like(mask)
    moved[box] = signed + field.clip(-3 * error, 3 * error) > 0
    return moved


def _annotation(mask: Mask, segmentation: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """One entry of ``amg.py``'s JSON."""
    rows, columns = np.nonzero(mask)
    x, y = int(columns.min()), int(rows.min())
    pick = rng.integers(len(rows))
    return {
        "segmentation": segmentation,
        "area": len(rows),
        "bbox": [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1],
        "predicted_iou": round(float(rng.uniform(0.88, 1.0)), 4),
        "point_coords": [[float(columns[pick]), float(rows[pick])]],
        "stability_score": round(float(rng.uniform(0.92, 1.0)), 4),
        "crop_box": [0, 0, mask.shape[1], mask.shape[0]],
    }
