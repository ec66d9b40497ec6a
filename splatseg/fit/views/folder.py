"""Planned views on disk: a capture like any other, a COLMAP model and its images, and ``views.json``, which says that
they are renders of a splat, of which one and by which plan.

All of it appears at once: half of the views are no plan, and all of them are rendered in less time than a person would
wait for the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from splatseg.core.atomic import remove_leftovers, write_together
from splatseg.core.camera import Camera
from splatseg.core.errors import DAMAGED, SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import SILENT, Reporter
from splatseg.core.reading import read_json
from splatseg.core.scene import Points
from splatseg.fit.views.config import ViewPlanConfig
from splatseg.fit.views.plan import ENOUGH, ViewPlan, plan_views
from splatseg.io.colmap_write import write_colmap_text
from splatseg.render import render

VIEWS = "views.json"
IMAGES, MODEL = "images", "sparse"
POINTS = 20_000  # of the splat in the model, at most
_QUALITY = 95  # of the JPEGs


def is_planned(folder: Path) -> bool:
    """Whether the capture in ``folder`` is one of planned views: no photos, and nothing to measure a splat by."""
    return (folder / VIEWS).is_file()


def check_place(folder: Path, splat: Path | None = None) -> None:
    """Raise :class:`SplatsegError` unless ``folder`` can be written to: it is not there, empty, or of planned views,
    and the file ``splat`` is not among what is replaced.

    Where a call was killed when it had moved some of its files there, the others follow first.
    """
    if folder.exists() and not folder.is_dir():
        raise SplatsegError(f"{folder}: expected a folder for the views, found a file")
    if folder.is_dir():
        remove_leftovers(folder)
    if folder.is_dir() and not is_planned(folder) and any(entry.name[0] != "." for entry in folder.iterdir()):
        raise SplatsegError(
            f"{folder}: expected a new or empty folder, or one of planned views ({VIEWS}), found other files"
        )
    if splat is not None and any(
        (folder / name).resolve() in (splat.resolve(), *splat.resolve().parents) for name in (IMAGES, MODEL, VIEWS)
    ):
        raise SplatsegError(f"{folder}: expected a folder whose views may be replaced, found the splat {splat} there")


def planned(folder: Path, key: str) -> dict[str, Any] | None:
    """What ``views.json`` of ``folder`` says, where it is of the plan ``key`` and all of its files are there."""
    try:
        told = read_json(folder / VIEWS)
        whole = all((folder / name).stat().st_size == size for name, size in told["files"].items())
        return dict(told) if told["key"] == key and whole else None
    except DAMAGED:
        return None


def write_views(
    folder: Path, gaussians: Gaussians, config: ViewPlanConfig, key: str, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Plan views of ``gaussians``, render them and write ``images/view_###.jpg``, ``sparse/0`` and ``views.json``.

    Args:
        folder: where to; see :func:`check_place`. Files of other names in it stay.
        gaussians: on the device that draws.
        key: what the views are made from, for :func:`planned`.
        reporter: hears of planning and rendering, a view at a time.

    Returns:
        What ``views.json`` holds.

    Raises:
        SplatsegError: the folder holds something else, the splat has nothing to look at, or there is no room.
    """
    check_place(folder)
    plan = plan_views(gaussians, config, reporter)
    digits = max(3, len(str(len(plan.cameras) - 1)))
    names = [f"view_{number:0{digits}}.jpg" for number in range(len(plan.cameras))]
    with write_together(folder) as stage:
        (stage / IMAGES).mkdir()
        with reporter.count(len(names), "rendering", unit="view") as progress:
            for name, camera in zip(names, plan.cameras, strict=True):
                _write_render(stage / IMAGES / name, gaussians, camera)
                progress.advance()
        write_colmap_text(stage / MODEL / "0", plan.cameras, names, _points(gaussians), gaussians.offset)
        files = {f.relative_to(stage).as_posix(): f.stat().st_size for f in sorted(stage.rglob("*")) if f.is_file()}
        told = {**_told(plan, config, gaussians, key), "files": files}
        (stage / VIEWS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def summary(told: Mapping[str, Any]) -> str:
    """A line for people of what :func:`write_views` returns."""
    visible, once, enough = (100 * told["coverage"][name] for name in ("visible", "once", "enough"))
    dropped = f", {told['dropped']} dropped" if told["dropped"] else ""
    return (
        f"{told['views']} views from {told['kind']}{dropped}; {100 - visible:.1f} % of the surface cannot be seen from "
        f"{ENOUGH} places (under, behind or inside of things), of the rest {once:.1f} % is in at least one view, "
        f"{enough:.1f} % in {ENOUGH} or more"
    )


def _told(plan: ViewPlan, config: ViewPlanConfig, gaussians: Gaussians, key: str) -> dict[str, Any]:
    return {
        "key": key,
        "splat": gaussians.fingerprint(),
        "settings": asdict(config),
        "views": len(plan.cameras),
        "kind": plan.kind,
        "up": [round(value, 6) for value in plan.up],
        "dropped": plan.dropped,
        "coverage": {name: round(value, 5) for name, value in asdict(plan.coverage).items()},
    }


@torch.no_grad()
def _write_render(path: Path, gaussians: Gaussians, camera: Camera) -> None:
    color = render(gaussians, camera.to(gaussians.device)).color.clamp(0, 1)
    pixels = (color * 255).round().to(torch.uint8).cpu().numpy()
    Image.fromarray(pixels).save(path, quality=_QUALITY, subsampling=0)


def _points(gaussians: Gaussians) -> Points:
    """The most opaque Gaussians as sparse points, evenly taken from the file's order."""
    solid = (gaussians.opacities > 0.5).nonzero()[:, 0]
    solid = solid if len(solid) else torch.arange(len(gaussians), device=gaussians.device)
    chosen = solid[:: -(-len(solid) // POINTS)]
    colors = (gaussians.base_colors[chosen] * 255).round().to(torch.uint8)
    return Points(gaussians.means[chosen].detach().cpu(), colors.detach().cpu())
