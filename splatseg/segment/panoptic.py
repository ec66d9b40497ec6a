"""Labels as seen in the photos, in the form of COCO's panoptic task (Kirillov et al., "Panoptic Segmentation", 2019): a
PNG per view whose pixels are ids (red + 256 green + 65536 blue, 0 for none), and one JSON for all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from splatseg.core.atomic import write_together
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelNode, LabelTree
from splatseg.core.palette import hue_color
from splatseg.core.progress import SILENT, Report
from splatseg.core.scene import View
from splatseg.io.labels import check_tree
from splatseg.render import render
from splatseg.segment.mask_images import mask_paths

TABLE = "panoptic.json"
UNCLASSIFIED = "unclassified"


def label_image(gaussians: Gaussians, view: View, labels: Tensor, count: int) -> np.ndarray:
    """(h, w) int64 label of every pixel: the one with the largest share of the blending weights, 0 below half opacity.

    Args:
        gaussians: n Gaussians.
        view: the view to draw.
        labels: (n,) int64 in 0..count-1.
        count: number of labels.
    """
    camera = view.camera.to(gaussians.device)
    best = torch.full((camera.height, camera.width), 0.0, device=gaussians.device)
    winner = torch.zeros(camera.height, camera.width, dtype=torch.int64, device=gaussians.device)
    present = labels.unique().tolist()
    for start in range(0, len(present), 16):  # 16 indicator channels at a time bound the memory
        chunk = torch.tensor(present[start : start + 16], device=gaussians.device)
        indicator = (labels[:, None] == chunk).float()
        shares = render(gaussians, camera, features=indicator).features
        assert shares is not None
        top, index = shares.max(dim=-1)
        better = top > best
        best = torch.where(better, top, best)
        winner = torch.where(better, chunk[index], winner)
    alpha = render(gaussians, camera).alpha
    return torch.where(alpha >= 0.5, winner, 0).cpu().numpy()


def save_panoptic(
    folder: Path,
    gaussians: Gaussians,
    tree: LabelTree,
    level: int,
    views: Sequence[View],
    report: Report = SILENT.report,
) -> Path:
    """Write what each of ``views`` shows of the labels at ``level`` to ``folder``: all files or none.

    Segments have the ids of the tree's nodes, whose names stand beside the categories: classes, in the order of their
    first label, and ``unclassified`` for labels without one.

    Returns:
        The JSON.

    Raises:
        SplatsegError: a tree of another splat, no room, or photos where the files are to be.
    """
    check_tree(gaussians, tree)
    nodes = {node.id: node for node in tree.at_level(level)}
    classes = list(dict.fromkeys(node.category or UNCLASSIFIED for node in nodes.values()))
    labels = torch.from_numpy(tree.labels[:, level].astype(np.int64)).to(gaussians.device)
    files = mask_paths(folder, views)
    images, annotations = [], []
    with write_together(folder) as stage:
        for number, view in enumerate(views):
            report(view.name, number / len(views))
            ids = label_image(gaussians, view, labels, max(nodes, default=0) + 1)
            path = files[view.name].relative_to(folder)
            (stage / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.stack([ids >> shift & 255 for shift in (0, 8, 16)], 2).astype(np.uint8)).save(
                stage / path
            )
            images.append({"id": number, "file_name": view.name, "width": ids.shape[1], "height": ids.shape[0]})
            segments = [_segment(ids == i, nodes[i], classes) for i in np.unique(ids).tolist() if i]
            annotations.append({"image_id": number, "file_name": path.as_posix(), "segments_info": segments})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [_category(i, name) for i, name in enumerate(classes, 1)],
            "labels": [node.to_json() for node in nodes.values()],
        }
        (stage / TABLE).write_text(json.dumps(content) + "\n", encoding="utf-8")
    return folder / TABLE


def _category(number: int, name: str) -> dict[str, Any]:
    """A class; labels are instances of it, so that it is one of things."""
    return {"id": number, "name": name, "supercategory": name, "isthing": 1, "color": list(hue_color(number))}


def _segment(inside: NDArray[np.bool_], node: LabelNode, classes: list[str]) -> dict[str, Any]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "id": node.id,
        "category_id": classes.index(node.category or UNCLASSIFIED) + 1,
        "area": int(inside.sum()),
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        "iscrowd": 0,
    }
