"""Peak memory and time of everything-mode on one 1920x1080 image: ours beside the library's generator.

    python benchmarks/masks.py [--model vit_b] [--checkpoint PATH] [--photo PATH] [--points-per-side 8] [--threads N]
    python benchmarks/masks.py --model vit_h --side ours        (vit_t and sam2.1_hiera_* with their packages installed)

Each side runs in a process of its own and its masks are compared before any figure is printed. Without a checkpoint the
weights are random (seeded) and nothing is filtered: every point keeps its three masks to the end, the worst case for
memory. 8x8 points are one full batch of 64, where the library's memory peaks; more points take longer, not more. Random
masks are noise whose every pixel lies near the threshold, the worst case for rounding as well: on more than one thread
matrix products of other shapes may round differently, so a share of ``MAX_MOVED`` pixels may differ.

A run of both sides goes to ``benchmarks/results/masks.json``, one entry a model. Exit code 1: the masks differ, or ours
needs more than ``--limit-gb`` above the weights.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image

from splatseg.core.atomic import write_text
from splatseg.masks.rle import decode_mask
from splatseg.masks.sam.config import SamConfig
from splatseg.masks.sam.everything import everything_masks
from splatseg.masks.sam.model import PromptModel, import_with_standins, load_weights
from splatseg.masks.sam.sam2 import CONFIGS, Sam2, import_sam2
from splatseg.masks.sam.segment_anything import SegmentAnything, import_mobile_sam, import_segment_anything

RESULT = Path(__file__).parent / "results" / "masks.json"
WIDTH, HEIGHT = 1920, 1080
# float32 logits of size 0.1 after some hundred sums are off by about 1e-6; one pixel in 10^5 is that close to zero.
MAX_MOVED = 1e-4


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        model: any that ``scripts/masks.py`` takes.
        checkpoint: real weights; then the paper's score thresholds apply.
        filters: whether they do; without, nothing is filtered in spite of a checkpoint.
        photo: resized to 1920x1080; without one a synthetic picture.
        points_per_side: of the point grid.
        threads: of torch; by default one for each core that this process may use.
        limit_gb: what ours may need above the weights.
        side: run one side in this process and print its figures as JSON.
        runs: with one side, where its run lengths go (npz).
    """

    model: str = "vit_b"
    checkpoint: Path | None = None
    filters: bool = True
    photo: Path | None = None
    points_per_side: int = 8
    threads: int = len(os.sched_getaffinity(0))
    limit_gb: float = 1.5
    side: Literal["both", "ours", "library"] = "both"
    runs: Path | None = None


def config_of(options: Options) -> SamConfig:
    config = SamConfig(model=options.model, points_per_side=options.points_per_side, min_mask_region_area=0)
    if options.checkpoint is None or not options.filters:
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


@dataclass(frozen=True)
class Package:
    """A model as its own package builds it.

    Attributes:
        network: with random weights.
        ours: makes it the model that splatseg uses.
        generator: the package's own mask generator.
        key: where its checkpoints keep the weights.
    """

    network: Any
    ours: Callable[[Any], PromptModel]
    generator: Any
    key: str | None = None


def package_of(model: str) -> Package:
    if model.startswith("sam2"):
        build, predictor = import_sam2()
        network = build.build_sam2(CONFIGS[model], ckpt_path=None, device="cpu", apply_postprocessing=False)
        generator = import_with_standins("sam2.automatic_mask_generator", "sam2").SAM2AutomaticMaskGenerator
        return Package(network, lambda sam: Sam2(predictor.SAM2ImagePredictor(sam)), generator, "model")
    library = import_mobile_sam() if model == "vit_t" else import_segment_anything()
    network = library.sam_model_registry[model]().eval()
    return Package(network, lambda sam: SegmentAnything(sam, library.SamPredictor), library.SamAutomaticMaskGenerator)


def run_side(options: Options) -> dict[str, Any]:
    """Masks of one side, with time and memory above what was resident once the weights were loaded."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config, package = config_of(options), package_of(options.model)
    if options.checkpoint is not None:
        load_weights(package.network, options.checkpoint, options.model, package.key)
    image = picture(options.photo)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in package.network.parameters())
    base = resident("VmRSS")
    reset_peak()
    start = time.perf_counter()
    counts = masks_of(options.side, package, image, config)
    seconds = time.perf_counter() - start
    if options.runs is not None:
        np.savez(options.runs, counts=np.concatenate(counts), lengths=[len(one) for one in counts])
    return {"weights": weights, "above": resident("VmHWM") - base, "seconds": seconds, "masks": len(counts)}


def masks_of(side: str, package: Package, image: np.ndarray, config: SamConfig) -> list[np.ndarray]:
    """Run lengths of all masks."""
    if side == "ours":
        return list(everything_masks(package.ours(package.network), image, config).counts)
    how = ("model", "autocast", "checkpoint", "device")
    settings = {name: value for name, value in asdict(config).items() if name not in how}
    generator = package.generator(package.network, output_mode="uncompressed_rle", **settings)
    return [np.array(record["segmentation"]["counts"]) for record in generator.generate(image)]


def in_process(options: Options, side: Literal["ours", "library"], runs: Path) -> dict[str, Any]:
    """:func:`run_side` in a process of its own."""
    arguments = [sys.executable, __file__, "--side", side, "--runs", str(runs)]
    for name in ("model", "checkpoint", "photo", "points_per_side", "threads"):
        value = getattr(options, name)
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    arguments.append("--filters" if options.filters else "--no-filters")
    result = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        return {"failed": f"ended with code {result.returncode}" + (" (killed)" if result.returncode < 0 else "")}
    return json.loads(result.stdout)


def moved_pixels(ours: Path, library: Path) -> tuple[int, int] | None:
    """How many masks differ and in how many pixels in all, mask by mask in the order given; None where their numbers
    differ."""
    runs = []
    for path in (ours, library):
        with np.load(path) as file:
            runs.append(np.split(file["counts"], np.cumsum(file["lengths"])[:-1]))
    if len(runs[0]) != len(runs[1]):
        return None
    pairs = [(a, b) for a, b in zip(*runs, strict=True) if not np.array_equal(a, b)]
    return len(pairs), sum(int((decode_mask(a, HEIGHT, WIDTH) ^ decode_mask(b, HEIGHT, WIDTH)).sum()) for a, b in pairs)


def report(options: Options, found: dict[str, dict[str, Any]], moved: tuple[int, int] | None) -> int:
    """Print and store the comparison of two whole runs; the exit code."""
    ours, library = found["ours"], found["library"]
    if moved is None:
        print("masks: DIFFERENT numbers")
        return 1
    share = moved[1] / (HEIGHT * WIDTH * max(1, ours["masks"]))
    verdict = "identical" if moved == (0, 0) else f"{moved[0]} differ, in {moved[1]} pixels ({share:.1e} of all)"
    print(f"masks: {verdict}{'' if share <= MAX_MOVED else ': DIFFERENT'}")
    print(f"peak above the weights: library {library['above'] / ours['above']:.1f} times ours")
    entry = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "image": [WIDTH, HEIGHT],
        "points": options.points_per_side**2,
        "threads": options.threads,
        "weights": "random" if options.checkpoint is None else options.checkpoint.name,
        "limit_gb": options.limit_gb,
        **found,
        "masks_that_differ": moved[0],
        "pixels_that_differ": moved[1],
    }
    RESULT.parent.mkdir(exist_ok=True)
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    write_text(RESULT, json.dumps({**before, options.model: entry}, indent=1) + "\n")
    print(f"wrote {RESULT}")
    return int(share > MAX_MOVED)


def main(options: Options) -> int:
    if options.side != "both":
        print(json.dumps(run_side(options)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        runs = {side: Path(folder) / f"{side}.npz" for side in ("ours", "library")}
        found = {
            "ours": in_process(options, "ours", runs["ours"]),
            "library": in_process(options, "library", runs["library"]),
        }
        whole = not any("failed" in figures for figures in found.values())
        moved = moved_pixels(runs["ours"], runs["library"]) if whole else None
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
    if "failed" in found["ours"]:
        return 1
    within = found["ours"]["above"] <= options.limit_gb * 1e9
    print(f"bound: {'within' if within else 'ABOVE'} {options.limit_gb} GB")
    code = report(options, found, moved) if whole else 0
    return int(not within or code != 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
