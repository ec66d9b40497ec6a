"""Pictures for people: feature PCA, label colors, depth maps and the contact sheet of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from splatseg.core.atomic import atomic_write
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import View
from splatseg.draw.layout import Cell, contact_sheet, stacked
from splatseg.render import render
from splatseg.segment.panoptic import label_image


@dataclass(frozen=True, eq=False)
class PcaBasis:
    """Affine map of features to RGB: ``mean`` (d,), ``axes`` (d, 3), ``low`` and ``high`` (3,) of the shown range."""

    mean: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def fit(cls, features: Tensor, sample: int = 50_000) -> PcaBasis:
        """The three main directions of ``features`` (n, d), shown from the 2nd to the 98th percentile."""
        picked = features[torch.linspace(0, len(features) - 1, min(sample, len(features))).long()]
        mean = picked.mean(dim=0)
        _, _, vectors = torch.linalg.svd(picked - mean, full_matrices=False)
        axes = torch.zeros(features.shape[1], 3, dtype=features.dtype, device=features.device)
        axes[:, : min(3, len(vectors))] = vectors[:3].T
        # The sign of a principal direction is arbitrary: make its largest entry positive, so that colors repeat.
        axes *= axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
        shown = (picked - mean) @ axes
        return cls(mean, axes, shown.quantile(0.02, dim=0), shown.quantile(0.98, dim=0))

    def colors(self, features: Tensor) -> Tensor:
        """(..., 3) uint8 of features (..., d)."""
        shown = (features - self.mean) @ self.axes
        scaled = (shown - self.low) / (self.high - self.low).clamp_min(1e-12)
        return (scaled.clamp(0, 1) * 255).round().to(torch.uint8)


def run_sheet(
    path: Path,
    gaussians: Gaussians,
    features: Tensor,
    labels: Tensor,
    palette: np.ndarray,
    views: Sequence[View],
    below: Sequence[Image.Image] = (),
    caption: str = "photo",
) -> None:
    """Write a PNG with one row per view: photo, render, feature PCA, labels.

    Args:
        path: where to write, atomically.
        gaussians: n Gaussians.
        features: (n, d) unit features.
        labels: (n,) int64 labels, 0 = none.
        palette: (count, 3) uint8 color of each label.
        views: the views to show.
        below: further pictures, each drawn as wide as the sheet under the rows.
        caption: what the views' own pictures are.
    """
    basis = PcaBasis.fit(features)
    cells = []
    with torch.no_grad():
        for view in views:
            drawn = render(gaussians, view.camera.to(gaussians.device), features=features)
            assert drawn.features is not None
            unit = torch.nn.functional.normalize(drawn.features, dim=-1)
            pca = basis.colors(unit).cpu().numpy()
            pca[(drawn.alpha < 0.5).cpu().numpy()] = 40
            pictures = {
                caption: view.image().numpy(),
                "render": (drawn.color.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy(),
                "features (PCA)": pca,
                "labels": palette[label_image(gaussians, view, labels, len(palette))],
            }
            cells += [Cell(pixels, f"{view.name}: {shown}") for shown, pixels in pictures.items()]
    sheet = stacked([contact_sheet(cells, columns=4), *below])
    with atomic_write(path) as temporary:
        # Level 6, the usual one, takes more than twice the time for 6 % fewer bytes.
        sheet.save(temporary, format="PNG", compress_level=4)
