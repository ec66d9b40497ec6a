"""``python tests/sam_vit_b.py OUT [PHOTO]``: vit_b on one 1920x1080 image, ours and the library: masks, peak memory.

The image encoder takes most of a minute on one core: here it has its first layers, up to the first that attends to the
whole image. The others are four times the same, one after the other, and each frees what it took: the peak is that of
one (``benchmarks/masks.py`` measures all). Each side's runs once, in a process of its own, where memory
is what this made; what it gave serves both the figures and the comparison. OUT is pickled: by side the bytes above what
was resident before, by side how many masks there were with nothing filtered, and of a PHOTO the masks of both with
real filters.
"""

from __future__ import annotations

import pickle
import sys
from ctypes import CDLL
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from test_sam_everything import LOOSE, Blobs, library_masks

from benchmarks.masks import Options, Package, config_of, masks_of, package_of, picture, reset_peak, resident
from splatseg.masks.sam.everything import ScoredMasks, everything_masks
from splatseg.masks.sam.segment_anything import import_segment_anything

COMPARED = replace(LOOSE, points_per_side=6)
"""Points and filters of the masks that are compared: eight points at a time of ours, batches of 24 and 12 of theirs."""


class Remembering(torch.nn.Module):
    """An image encoder that runs once for one image."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.img_size = encoder.img_size  # what others ask an encoder
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None
        self.passes = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self._last is None or not torch.equal(self._last[0], image):
            self._last = image, self.encoder(image)
            self.passes += 1
        return self._last[1]


def seeded() -> Package:
    """The model with seeded random weights."""
    torch.manual_seed(0)
    package = package_of("vit_b")
    encoder = package.network.image_encoder
    whole = next(number for number, block in enumerate(encoder.blocks) if block.window_size == 0)
    encoder.blocks = encoder.blocks[: whole + 1]
    package.network.image_encoder = Remembering(package.network.image_encoder)
    return package


def main(out: Path, photo: Path | None) -> None:
    # One thread: how a matrix product is split over threads, and so rounded, depends on its shape, and one head at a
    # time has another shape than all heads together. A mask's border pixel may then fall on either side of zero.
    torch.set_num_threads(1)
    packages = {"ours": seeded(), "library": seeded()}  # ours bounds its encoder's attention, for good
    image = picture(photo)
    above, masks = {}, {}
    # 16 points reach our peak: two full decoder passes of eight, three masks at image size at a time; the rest is the
    # encoder's attention, which no number of points changes. More points only add run lengths. One is enough for the
    # library's: its encoder.
    for side, points in (("ours", 4), ("library", 1)):
        config = config_of(Options(points_per_side=points))
        CDLL(None).malloc_trim(0)  # what was freed before and is still resident would be taken again, uncounted
        before = resident("VmRSS")
        reset_peak()
        masks[side] = len(masks_of(side, packages[side], image, config))
        above[side] = resident("VmHWM") - before
    ours, library = compared(packages, image) if photo is not None else (None, None)
    out.write_bytes(pickle.dumps((above, masks, ours, library)))


def compared(packages: dict[str, Package], image: np.ndarray) -> tuple[ScoredMasks, list[dict[str, Any]]]:
    """The masks of both with real filters."""
    for package in packages.values():
        package.network.mask_decoder = Blobs(package.network.mask_decoder)
    ours = everything_masks(packages["ours"].ours(packages["ours"].network), image, COMPARED)
    library = library_masks(import_segment_anything(), packages["library"].network, image, COMPARED)
    assert [package.network.image_encoder.passes for package in packages.values()] == [1, 1]
    return ours, library


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
