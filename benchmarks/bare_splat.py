"""A splat without its photos and with them: ``python -m benchmarks.bare_splat SCENE SPLAT --out DIR``.

SCENE has nested ground truth (``../shared/data/dev_kitchen``), SPLAT is fitted to its photos. Every Gaussian takes the
truth's label by the photos' label images; views are planned from the splat alone, labels are rendered in them, and
masks simulated from those as for a synthetic capture. Features are then fitted to the planned views and, for
comparison, to the photos' masks, and both answer the scene's held-out queries.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatseg.core.atomic import write_text
from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import terminal
from splatseg.evaluate.ceiling import node_weights, truth_labels
from splatseg.evaluate.hierarchical import HierarchicalScene, evaluate_scene, load_hierarchical
from splatseg.fit.pipeline import Fit
from splatseg.fit.settings import FitConfig, FitInputs
from splatseg.fit.views.config import ViewPlanConfig
from splatseg.fit.views.folder import write_views
from splatseg.io.colmap import load_colmap
from splatseg.io.splats import load_splat
from splatseg.render import trace
from splatseg.segment.splat import SegmentableSplat
from splatseg.synthetic.mask_simulation import MaskSimulation, encode_masks, simulate_masks

STRIPE = 32  # rows of a picture whose labels are found at once
SOLID = 0.5  # weight of a pixel's Gaussians from which it shows something


def ancestors(gt: HierarchicalScene) -> NDArray[np.uint16]:
    """(depths, nodes + 1) the node of every depth that each node lies in, 0 where there is none."""
    depths = max(node.depth for node in gt.nodes.values()) + 1
    table = np.zeros((depths, max(gt.nodes) + 1), np.uint16)
    for node in gt.nodes.values():
        above = node
        while above is not None:
            table[above.depth, node.id] = above.id
            above = gt.nodes.get(above.parent)  # type: ignore[assignment]
    return table


def label_image(gaussians: Gaussians, labels: Tensor, camera: Camera) -> NDArray[np.int64]:
    """(h, w) the label (n,) whose Gaussians weigh most in each pixel; 0 where little is drawn."""
    image = np.zeros((camera.height, camera.width), np.int64)
    columns = int(labels.max()) + 1
    for top in range(0, camera.height, STRIPE):
        rows, cols = np.mgrid[top : min(top + STRIPE, camera.height), 0 : camera.width]
        pixels = torch.from_numpy(np.stack([cols.ravel(), rows.ravel()], 1).astype(np.int32))
        found = trace(gaussians, camera, pixels)
        pixel = found.order.repeat_interleave(found.offsets.diff())
        weights = torch.zeros(len(pixels) * columns)
        weights.index_add_(0, pixel * columns + labels[found.ids.long()], found.weights)
        shares = weights.view(len(pixels), columns)
        best = torch.where(shares.sum(dim=1) >= SOLID, shares.argmax(dim=1), 0)
        image[top : top + STRIPE] = best.view(rows.shape).numpy()
    return image


def write_masks(scene: Path, gaussians: Gaussians, views: Path, out: Path) -> float:
    """Simulated masks of the planned ``views``, a JSON each in ``out``; how many a view has."""
    gt = load_hierarchical(scene)
    photos = load_colmap(scene).in_frame(gaussians.offset).views
    labels = truth_labels(node_weights(gaussians, gt.in_frame_of(gaussians), photos, 2), gt)
    table, settings, count = ancestors(gt), MaskSimulation(), 0
    planned = load_colmap(views).in_frame(gaussians.offset).views
    for view in planned:
        name = Path(view.name).stem
        levels = table[:, label_image(gaussians, labels, view.camera)]
        masks = simulate_masks(list(gt.nodes.values()), levels, name, settings)
        write_text(out / f"{name}.json", json.dumps(encode_masks(masks, name, settings.seed)))
        count += len(masks)
    return count / len(planned)


def core_mean(scene: Path, capture: Path, masks: Path, splat: Path, out: Path) -> dict[str, float]:
    """Averages over the core queries of a run with the features of ``masks``."""
    fit = Fit(FitInputs(capture, out, str(masks), splat), FitConfig(hold_out_every=0), terminal(quiet=False))
    fit.execute()
    fitted = SegmentableSplat.load(fit.run.geometry, fit.run.features)
    return evaluate_scene(fitted, load_hierarchical(scene), proposals=False).averages()


def planning_cost(gaussians: Gaussians, folder: Path, config: ViewPlanConfig) -> dict[str, Any]:
    """What planning and rendering takes of one core, and the plan's figures."""
    start = time.process_time()
    told = write_views(folder, gaussians, config, "benchmark")
    return {
        "cpu_seconds": round(time.process_time() - start, 1),
        **{k: told[k] for k in ("kind", "coverage", "dropped")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("splat", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--views", type=int, default=ViewPlanConfig().views)
    parser.add_argument(
        "--photos",
        action="store_true",
        help="also fit to masks of the photos: the scene's, and such as are simulated here",
    )
    arguments = parser.parse_args()
    out, config = arguments.out, ViewPlanConfig(views=arguments.views)
    gaussians = load_splat(arguments.splat).gaussians
    found: dict[str, Any] = {"scene": arguments.scene.name, "settings": asdict(config), "gaussians": len(gaussians)}
    found["plan"] = planning_cost(gaussians, out / "views", config)
    print(json.dumps(found["plan"]), flush=True)
    found["masks_per_view"] = write_masks(arguments.scene, gaussians, out / "views", out / "masks")
    found["bare"] = core_mean(arguments.scene, out / "views", out / "masks", arguments.splat, out / "bare")
    print(json.dumps(found["bare"]), flush=True)
    if arguments.photos:
        scene, splat = arguments.scene, arguments.splat
        found["photos"] = core_mean(scene, scene, scene / "masks_2d", splat, out / "photos")
        # The same simulation in the photos' views: what remains of the difference is that of the views.
        write_masks(scene, gaussians, scene, out / "photo_masks")
        found["photos_same_masks"] = core_mean(scene, scene, out / "photo_masks", splat, out / "photos_same_masks")
    write_text(out / "bare_splat.json", json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
