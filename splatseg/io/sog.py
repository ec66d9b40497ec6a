"""Splats as SOG, version 2, by PlayCanvas' specification: lossless WebP images of quantized values in a ZIP file.

Written here because GaussForge takes minutes for its tables (above ten for 164,000 Gaussians of degree 2) and
splat-transform is not a Python library; both read what this writes (tests/test_splats.py). The palette of spherical
harmonics is found in two levels of k-means, which costs n (256 + 256) distances instead of n 65536.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from splatseg.core.atomic import atomic_write
from splatseg.core.gaussians import Gaussians
from splatseg.core.morton import morton_order

_TABLE = 256  # values of a codebook
_PALETTE = 65_536  # labels are 16 bits
_ROW = 64  # palette entries in a row of the image of centroids
_SAMPLE = 100_000  # values or Gaussians that tables are found on
_ROUNDS = 8  # of Lloyd's algorithm
_LARGEST_SIDE = 16_383  # pixels of a WebP


def save_sog(path: Path, gaussians: Gaussians) -> None:
    """Write finite ``gaussians`` (n of them, at least one) to ``path``, whole or not at all, in Morton order.

    Raises:
        SplatsegError: no room to write.
    """
    gaussians = gaussians.detach().to("cpu")
    g = gaussians.select(morton_order(gaussians.means))
    images: dict[str, Image.Image] = {}
    meta: dict[str, Any] = {"version": 2, "asset": {"generator": "splatseg"}, "count": len(g)}
    meta["means"] = _means(g, images)
    table, codes = _codes(g.log_scales)
    meta["scales"] = {"codebook": table, "files": [_put(images, "scales.webp", codes)]}
    meta["quats"] = {"files": [_put(images, "quats.webp", _packed_quats(g.quats))]}
    table, codes = _codes(g.sh[:, 0])
    opacity = (255 * g.opacities[:, None]).round().to(torch.uint8)
    meta["sh0"] = {"codebook": table, "files": [_put(images, "sh0.webp", torch.cat([codes, opacity], dim=1))]}
    if g.sh_degree:
        meta["shN"] = _harmonics(g, images)
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as bundle:
        bundle.writestr("meta.json", json.dumps(meta))
        for name, image in images.items():
            packed = io.BytesIO()
            image.save(packed, "WEBP", lossless=True, exact=True, method=4)
            bundle.writestr(name, packed.getvalue())


def _put(images: dict[str, Image.Image], name: str, values: Tensor) -> str:
    """(n, 2 to 4) bytes as an image, a Gaussian per pixel by rows; RGBA with an alpha of 255 where there is none."""
    count, channels = values.shape
    width = min(-(-int(np.ceil(count**0.5)) // 4) * 4, _LARGEST_SIDE)
    height = -(-count // width)
    pixels = np.zeros((height * width, 4), np.uint8)
    pixels[:, 3] = 255
    pixels[:count, :channels] = values.numpy()
    images[name] = Image.fromarray(pixels.reshape(height, width, 4), "RGBA")
    return name


def _means(g: Gaussians, images: dict[str, Image.Image]) -> dict[str, Any]:
    """Positions on a logarithmic scale, 16 bits of the box that holds them all."""
    values = g.means.double().sign() * g.means.double().abs().log1p()
    low, high = values.min(dim=0).values, values.max(dim=0).values
    steps = ((values - low) / (high - low).clamp_min(1e-12) * 65_535).round().long()
    files = [
        _put(images, "means_l.webp", (steps & 255).to(torch.uint8)),
        _put(images, "means_u.webp", (steps >> 8).to(torch.uint8)),
    ]
    return {"mins": low.tolist(), "maxs": high.tolist(), "files": files}


def _packed_quats(quats: Tensor) -> Tensor:
    """(n, 4) bytes: the three smaller components of wxyz, the largest made positive, and which that is."""
    unit = F.normalize(quats, dim=1)
    largest = unit.abs().argmax(dim=1, keepdim=True)
    unit = unit * torch.where(unit.gather(1, largest) < 0, -1.0, 1.0)
    others = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest[:, 0]]
    small = (unit.gather(1, others) * 2**0.5 / 2 + 0.5).mul(255).round().clamp(0, 255)
    return torch.cat([small, 252 + largest], dim=1).to(torch.uint8)


def _codes(values: Tensor) -> tuple[list[float], Tensor]:
    """A table of 256 ascending numbers for ``values`` of any shape, and the nearest entry of each as bytes."""
    table = _table(values.flatten())
    borders = (table[1:] + table[:-1]) / 2
    return table.tolist(), torch.bucketize(values.contiguous(), borders).to(torch.uint8)


def _table(values: Tensor) -> Tensor:
    """Lloyd's algorithm on a line, started half from quantiles and half from the range."""
    sample = values[torch.linspace(0, len(values) - 1, min(len(values), _SAMPLE)).long()].sort().values
    ends = torch.stack([values.min(), values.max()])
    shares = torch.linspace(0, 1, _TABLE // 2)
    quantiles = sample[(shares * (len(sample) - 1)).long()]
    table = torch.cat([quantiles, ends[0] + shares * (ends[1] - ends[0])]).sort().values
    for _ in range(_ROUNDS):
        nearest = torch.bucketize(sample, (table[1:] + table[:-1]) / 2)
        count = torch.bincount(nearest, minlength=_TABLE)
        total = torch.zeros(_TABLE, dtype=torch.float64).index_add_(0, nearest, sample.double())
        table = torch.where(count > 0, (total / count.clamp_min(1)).float(), table).sort().values
    return table


def _harmonics(g: Gaussians, images: dict[str, Image.Image]) -> dict[str, Any]:
    """Coefficients above degree 0 as a palette, whose entries are codes of one table."""
    values = g.sh[:, 1:].flatten(1)
    centroids, labels = _palette(values, min(_PALETTE, max(1, len(g) // 4)))
    table, codes = _codes(centroids)
    per_entry = g.sh.shape[1] - 1
    rows = -(-len(centroids) // _ROW)
    pixels = np.zeros((rows * _ROW, per_entry, 3), np.uint8)
    pixels[: len(centroids)] = codes.reshape(-1, per_entry, 3).numpy()
    images["shN_centroids.webp"] = Image.fromarray(pixels.reshape(rows, _ROW * per_entry, 3), "RGB")
    _put(images, "shN_labels.webp", torch.stack([labels & 255, labels >> 8], dim=1).to(torch.uint8))
    files = ["shN_centroids.webp", "shN_labels.webp"]
    return {"count": len(centroids), "bands": g.sh_degree, "codebook": table, "files": files}


def _palette(values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """About ``size`` centroids (k, c) of ``values`` (n, c), and the one of each (n,): k-means in groups of k-means."""
    groups = max(1, round(size**0.5))
    coarse = _k_means(values, groups)
    group = _nearest(values, coarse)
    order = group.argsort(stable=True)
    counts = torch.bincount(group, minlength=len(coarse))
    centroids: list[Tensor] = []
    labels = torch.zeros(len(values), dtype=torch.int64)
    taken = 0
    for rows in order.split(counts.tolist()):
        if len(rows) == 0:
            continue
        share = max(1, min(len(rows), size * len(rows) // len(values)))
        fine = _k_means(values[rows], share)
        labels[rows] = taken + _nearest(values[rows], fine)
        centroids.append(fine)
        taken += len(fine)
    return torch.cat(centroids), labels


def _k_means(values: Tensor, k: int) -> Tensor:
    """(k, c) centroids of ``values`` (n, c), n >= k, by Lloyd's algorithm from rows that are evenly far apart."""
    sample = values[torch.linspace(0, len(values) - 1, min(len(values), _SAMPLE)).long()]
    centroids = sample[torch.linspace(0, len(sample) - 1, k).long()].clone()
    for _ in range(_ROUNDS if len(sample) > k else 0):
        nearest = _nearest(sample, centroids)
        count = torch.bincount(nearest, minlength=k)[:, None]
        total = torch.zeros_like(centroids).index_add_(0, nearest, sample)
        centroids = torch.where(count > 0, total / count.clamp_min(1), centroids)
    return centroids


def _nearest(values: Tensor, centroids: Tensor) -> Tensor:
    """(n,) the centroid (k, c) nearest to each of ``values`` (n, c)."""
    squares = centroids.square().sum(dim=1)
    return torch.cat([(squares - 2 * part @ centroids.T).argmin(dim=1) for part in values.split(8192)])
