"""What a scene is fitted from and measured with: simulated everything-mode masks, queries on held-out views."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from splatseg.masks import MaskSet
from splatseg.synthetic.world import Node, World

_MIN_QUERY = 1 / 1500  # smallest mask asked for, as a part of the image
_MIN_MASK = 1 / 2500  # smallest simulated mask
_KEEP = {"part": 0.8, "object": 0.85, "group": 0.5, "stuff": 0.8}  # chance that a visible node has a mask in a view
_SPLIT, _MERGE = 0.08, 0.08  # chance that a mask comes in two pieces, or joined with a sibling
_FALSE_REGIONS = 3  # texture regions a view that are no object


def _visible(world: World, levels: NDArray[np.uint16], smallest: float) -> dict[int, NDArray[np.bool_]]:
    """Masks (h, w) of the nodes that cover at least ``smallest`` of the image."""
    masks = {node.id: (levels == node.id).any(0) for node in world.nodes}
    limit = smallest * levels[0].size
    return {number: mask for number, mask in masks.items() if mask.sum() >= limit}


def _inner_pixel(mask: NDArray[np.bool_], rng: np.random.Generator) -> list[int]:
    """[column, row] of a random pixel well inside ``mask``: of the half that is farthest from its border."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(distance >= np.quantile(distance[mask], 0.5))
    pick = rng.integers(len(rows))
    return [int(columns[pick]), int(rows[pick])]


def queries_of_view(
    world: World, view: str, levels: NDArray[np.uint16], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Queries of one held-out view: every visible part in its object, and every object in a group of several.

    ``l1`` is a strict subset of ``l2`` in the view; ``core`` is false where ``l2`` is a group.
    """
    nodes = {node.id: node for node in world.nodes}
    visible = _visible(world, levels, _MIN_QUERY)
    queries = []
    for number, mask in visible.items():
        node = nodes[number]
        if node.stuff or node.parent not in visible:
            continue
        parent, whole = nodes[node.parent], visible[node.parent]
        if whole.sum() == mask.sum():
            continue
        leaf = node.depth == world.depth - 1
        queries.append(
            {
                "view": view,
                "pixel": _inner_pixel(mask, rng),
                "l1": node.id,
                "l2": parent.id,
                "l1_name": node.name,
                "l2_name": parent.name,
                "l1_area": int(mask.sum()),
                "l2_area": int(whole.sum()),
                "l1_depth": node.depth,
                "l2_depth": parent.depth,
                "kind": "part<object" if leaf else "object<group",
                "core": leaf,
            }
        )
    return queries


def _kind(world: World, node: Node) -> str:
    if node.stuff:
        return "stuff"
    return ("group", "object", "part")[min(node.depth, 2)]


def _jitter(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A non-empty ``mask`` with its border moved by a pixel or two, irregularly."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (slice(max(rows[0] - 3, 0), rows[-1] + 4), slice(max(columns[0] - 3, 0), columns[-1] + 4))
    part = mask[box]
    coarse = rng.standard_normal((part.shape[0] // 6 + 2, part.shape[1] // 6 + 2))
    y, x = np.mgrid[0 : part.shape[0], 0 : part.shape[1]] / 6
    field = ndimage.map_coordinates(coarse, [y, x], order=1)
    field = np.clip(0.9 * field, -2, 2)  # below the 2.5 of pixels far from the border: no holes, no specks
    # Signed distance to the border, clipped to 3 pixels by counting dilations and erosions.
    signed = np.where(part, 0.5, -0.5)
    for step in (1, 2):
        signed += ndimage.binary_erosion(part, iterations=step, border_value=1)
        signed -= ~ndimage.binary_dilation(part, iterations=step)
    moved = np.zeros_like(mask)
    moved[box] = signed + field > 0
    return moved


def _halves(mask: NDArray[np.bool_], rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """``mask`` cut by a random line through its middle."""
    rows, columns = np.nonzero(mask)
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]]
    side = (x - columns.mean()) * np.cos(angle) + (y - rows.mean()) * np.sin(angle) > 0
    return [mask & side, mask & ~side]


def _false_region(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A blob somewhere in the image, as a segmenter finds in texture and shading."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    radii = rng.uniform(0.02, 0.08, 2) * shape[1]
    blob = ((x - rng.uniform(0, shape[1])) / radii[0]) ** 2 + ((y - rng.uniform(0, shape[0])) / radii[1]) ** 2 < 1
    return _jitter(blob, rng) if blob.any() else blob


def simulate_masks(world: World, levels: NDArray[np.uint16], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Simulated everything-mode masks of one view, as segment-anything's ``amg.py --convert-to-rle`` writes them.

    A random part of the tree's masks with moved borders, some split or joined with a sibling, plus regions that are no
    object: what a 2D segmenter gives, inconsistent from view to view.

    Args:
        world: the tree.
        levels: (K, h, w) node ids of the view.
        rng: source of all choices.
    """
    height, width = levels.shape[1:]
    nodes = {node.id: node for node in world.nodes}
    visible = _visible(world, levels, _MIN_MASK)
    masks: list[NDArray[np.bool_]] = []
    for number, mask in visible.items():
        if rng.uniform() > _KEEP[_kind(world, nodes[number])]:
            continue
        siblings = [n for n in visible if n != number and nodes[n].parent == nodes[number].parent]
        if siblings and rng.uniform() < _MERGE:
            mask = mask | visible[siblings[rng.integers(len(siblings))]]
        pieces = _halves(mask, rng) if rng.uniform() < _SPLIT else [mask]
        masks.extend(_jitter(piece, rng) for piece in pieces if piece.any())
    masks.extend(_false_region((height, width), rng) for _ in range(_FALSE_REGIONS))
    masks = [mask for mask in masks if mask.sum() >= _MIN_MASK * mask.size]
    if not masks:
        return []
    encoded = MaskSet.from_dense(np.stack(masks)).to_coco()
    return [_annotation(mask, segmentation, rng) for mask, segmentation in zip(masks, encoded, strict=True)]


def _annotation(mask: NDArray[np.bool_], segmentation: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
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
