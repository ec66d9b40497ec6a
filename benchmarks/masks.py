"""Peak memory and time of everything-mode on one 1920x1080 image: ours beside the library's generator.

    python benchmarks/masks.py [--model vit_b] [--checkpoint PATH] [--photo PATH] [--points-per-side 8]

Each side runs in a process of its own and its masks are compared before any figure is printed. Without a checkpoint the
weights are random (seeded) and nothing is filtered: every point keeps its three masks to the end, the worst case for
memory. 8x8 points are one full batch of 64, where the library's memory peaks; more points take longer, not
more. Exit code 1: the masks differ, or ours needs more than ``--limit-gb`` above the weights.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image

from splatseg.masks.sam_config import SamConfig
from splatseg.masks.sam_everything import everything_masks
from splatseg.masks.sam_models import SegmentAnything, import_segment_anything, load_weights

WIDTH, HEIGHT = 1920, 1080


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        model: vit_b, vit_l or vit_h.
        checkpoint: real weights; then the paper's score thresholds apply.
        photo: resized to 1920x1080; without one a synthetic picture.
        points_per_side: of the point grid.
        threads: of torch.
        limit_gb: what ours may need above the weights.
        side: run one side in this process and print its figures as JSON.
    """

    model: Literal["vit_b", "vit_l", "vit_h"] = "vit_b"
    checkpoint: Path | None = None
    photo: Path | None = None
    points_per_side: int = 8
    threads: int = 2
    limit_gb: float = 1.5
    side: Literal["both", "ours", "library"] = "both"


def config_of(options: Options) -> SamConfig:
    config = SamConfig(model=options.model, points_per_side=options.points_per_side, min_mask_region_area=0)
    if options.checkpoint is None:
        config = replace(config, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0)
    return config


def picture(photo: Path | None) -> np.ndarray:
    """(1080, 1920, 3) uint8 RGB."""
    if photo is not None:
        with Image.open(photo) as file:
            return np.array(file.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = 127 + 60 * np.sin(x / 91)[..., None] * np.cos(y / 67)[..., None] * rng.uniform(0.5, 1, 3)
    for _ in range(80):
        cx, cy, radius = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT), rng.uniform(10, 200)
        image[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = rng.uniform(0, 255, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def resident(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Bytes of this process: resident now, or at its peak since :func:`reset_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def run_side(options: Options) -> dict[str, Any]:
    """Masks of one side, with time and memory above what was resident once the weights were loaded."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    library, config = import_segment_anything(), config_of(options)
    sam = library.sam_model_registry[options.model]().eval()
    if options.checkpoint is not None:
        load_weights(sam, options.checkpoint, options.model)
    image = picture(options.photo)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in sam.parameters())
    base = resident("VmRSS")
    reset_peak()
    start = time.perf_counter()
    counts = masks_of(options.side, sam, library, image, config)
    seconds = time.perf_counter() - start
    digest = hashlib.sha256(b"".join(sorted(one.astype(np.uint32).tobytes() for one in counts))).hexdigest()
    figures = {"weights": weights, "above": resident("VmHWM") - base, "seconds": seconds}
    return {**figures, "masks": len(counts), "digest": digest}


def masks_of(side: str, sam: Any, library: Any, image: np.ndarray, config: SamConfig) -> list[np.ndarray]:
    """Run lengths of all masks."""
    if side == "ours":
        return list(everything_masks(SegmentAnything(sam, library.SamPredictor), image, config).counts)
    how = ("model", "autocast", "checkpoint", "device")
    settings = {name: value for name, value in asdict(config).items() if name not in how}
    generator = library.SamAutomaticMaskGenerator(sam, output_mode="uncompressed_rle", **settings)
    return [np.array(record["segmentation"]["counts"]) for record in generator.generate(image)]


def in_process(options: Options, side: Literal["ours", "library"]) -> dict[str, Any]:
    """:func:`run_side` in a process of its own."""
    arguments = [sys.executable, __file__, "--side", side]
    for name in ("model", "checkpoint", "photo", "points_per_side", "threads"):
        value = getattr(options, name)
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    result = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        return {"failed": f"ended with code {result.returncode}" + (" (killed)" if result.returncode < 0 else "")}
    return json.loads(result.stdout)


def main(options: Options) -> int:
    if options.side != "both":
        print(json.dumps(run_side(options)))
        return 0
    found = {"ours": in_process(options, "ours"), "library": in_process(options, "library")}
    points = options.points_per_side
    print(f"{options.model}, {WIDTH}x{HEIGHT}, {points}x{points} points, {options.threads} threads, CPU float32")
    for side, figures in found.items():
        if "failed" in figures:
            print(f"{side:>8}: {figures['failed']}")
            continue
        print(
            f"{side:>8}: {figures['above'] / 1e9:6.2f} GB above the weights ({figures['weights'] / 1e9:.2f} GB), "
            f"{figures['seconds']:6.1f} s, {figures['masks']} masks"
        )
    ours, library = found["ours"], found["library"]
    if "failed" in ours:
        return 1
    same = ours["digest"] == library.get("digest")
    print(f"masks: {'identical' if same else 'DIFFERENT' if 'digest' in library else 'not compared'}")
    within = ours["above"] <= options.limit_gb * 1e9
    print(f"bound: {'within' if within else 'ABOVE'} {options.limit_gb} GB")
    return int(not within or ("digest" in library and not same))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
