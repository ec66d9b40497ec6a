"""What a scene is measured with: point queries on held-out views."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from splatseg.synthetic.mask_simulation import visible_masks
from splatseg.synthetic.world import World

_MIN_QUERY = 1 / 1500  # smallest mask asked for, as a part of the image


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
    visible = visible_masks(nodes, levels, _MIN_QUERY)
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
