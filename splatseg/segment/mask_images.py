"""What a selection covers in the photos, as images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from splatseg.core.atomic import atomic_write
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import Report
from splatseg.core.scene import View
from splatseg.core.selection import Selection
from splatseg.io.names import by_stem
from splatseg.segment.scores import project_selection


def mask_paths(folder: Path | str, views: Iterable[View]) -> dict[str, Path]:
    """View name -> PNG in ``folder``: the view's name with the suffix replaced, or added where two would collide.

    Names that are no plain paths (absolute, with ``..``) stay inside, too: :mod:`splatseg.io.names`.

    Raises:
        SplatsegError: one of them is a photo, or a mask of a photo, of ``views``.
    """
    views = tuple(views)
    paths = by_stem(folder, [view.name for view in views], ".png")
    taken = {file.resolve() for view in views for file in view.files}
    for path in paths.values():
        if path.resolve() in taken:
            raise SplatsegError(f"{folder}: expected a folder without the photos, found {path}")
    return paths


def save_masks(
    folder: Path | str,
    gaussians: Gaussians,
    selection: Selection,
    views: Sequence[View],
    report: Report | None = None,
) -> dict[str, Path]:
    """Write what the selection covers in every view as PNGs: 255 inside, 0 outside, one byte per pixel.

    Args:
        report: called with a view's name and the share done; it may raise to stop between two views.

    Returns:
        View name -> file.

    Raises:
        SplatsegError: the selection is of another splat, or a file cannot be written or is a photo.
    """
    paths = mask_paths(folder, views)
    for number, view in enumerate(views, 1):
        mask = project_selection(gaussians, selection, view.camera.to(gaussians.device))
        with atomic_write(paths[view.name]) as partial:
            Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255).save(partial, format="PNG")
        if report is not None:
            report(view.name, number / len(views))
    return paths
