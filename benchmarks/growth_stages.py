"""The stages that growth.py measures, each in a process of its own: ``python -m benchmarks.growth_stages CELL``.

CELL is JSON with the keys of :class:`Cell`. Prints a line of JSON: of each step wall and processor seconds (of all
threads and child processes), bytes held before it and the peak while it ran.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from benchmarks import growth_scene as scene
from splatseg.core.camera import Camera
from splatseg.core.field import FeatureField
from splatseg.core.scene import View
from splatseg.core.splat import FeatureSplat
from splatseg.fit import features as feature_fit
from splatseg.fit import mask_clustering
from splatseg.fit.features import fit_features
from splatseg.fit.geometry.config import GeometryConfig
from splatseg.fit.geometry.fit import train_step
from splatseg.fit.geometry.photos import PhotoCache
from splatseg.fit.geometry.state import FitState
from splatseg.io.colmap import load_colmap
from splatseg.io.labels import save_labels
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.io.run import Run
from splatseg.masks.hierarchy import HierarchyFolder, build_hierarchy
from splatseg.segment.discretize import discretize
from splatseg.session import Session, Workspace
from splatseg.session.colors import Look, Painter
from splatseg.session.exports import export_labels
from splatseg.viewer.splats import SplatTemplate

MEASURED = 1.2288  # megapixels of 1280x960, where no other size is asked for
HIERARCHIES = 8  # views whose hierarchies are built and timed
ITERATIONS = 3
CLICKS = 12


@dataclass(frozen=True)
class Cell:
    """What is measured, and at which size."""

    stage: str
    gaussians: int
    views: int
    masks: int
    megapixels: float
    work: str
    threads: int = 1

    @property
    def folder(self) -> Path:
        return Path(self.work)

    @property
    def run(self) -> Path:
        """Splat, features and labels of these Gaussians, views and masks."""
        return self.folder / f"run_{self.gaussians}_{self.views}_{self.masks}"


def status(name: str) -> int:
    """Bytes of a line of ``/proc/self/status``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024


def clock() -> tuple[float, float]:
    """Wall and processor seconds, those of ended children included."""
    times = os.times()
    return time.perf_counter(), times.user + times.system + times.children_user + times.children_system


class Meter:
    """Steps one after the other: seconds of each, and the peak of memory while it ran."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, float]] = {}
        self._name: str | None = None
        self._before, self._started = 0, (0.0, 0.0)

    def mark(self, name: str | None) -> None:
        """The step that runs until now ends, ``name`` begins."""
        if self._name is not None:
            wall, processor = clock()
            children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
            self.steps[self._name] = {
                "seconds": round(wall - self._started[0], 4),
                "processor_seconds": round(processor - self._started[1], 4),
                "before_mb": round(self._before / 2**20),
                "peak_mb": round(max(status("VmHWM"), children) / 2**20),
            }
        self._name = name
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        self._before, self._started = status("VmRSS"), clock()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.mark(name)
        yield
        self.mark(None)

    def per(self, name: str, count: int, unit: str) -> None:
        """Seconds of step ``name`` for one of ``count``."""
        step = self.steps[name]
        step.update({key: round(step[key] / count, 5) for key in ("seconds", "processor_seconds")}, per=unit)  # type: ignore[call-overload]


def hierarchies(cell: Cell, views: list[View]) -> HierarchyFolder:
    """Of all views, made where they are not there yet."""
    folder = HierarchyFolder(cell.folder / f"hierarchy_{cell.views}_{cell.masks}")
    for number, view in enumerate(views):
        if view.name not in folder:
            build_hierarchy(scene.masks(view.camera, cell.masks, number)).save(folder.path(view.name))
    return folder


def undistortion(cell: Cell, meter: Meter) -> None:
    """Photos of a camera with distortion to pinhole photos, per photo."""
    capture = cell.folder / f"capture_{cell.views}_{cell.megapixels:g}"
    views = scene.views(cell.views, cell.megapixels)
    scene.linked_photos(cell.folder, capture / "images", [view.name for view in views], cell.megapixels)
    write_model(capture / "sparse/0", [view.camera for view in views], [view.name for view in views])
    with meter.step("undistortion"):
        load_colmap(capture, 1, cell.folder / f"cache_{os.getpid()}")
    meter.per("undistortion", cell.views, "photo")


def write_model(folder: Path, cameras: list[Camera], names: list[str], distortion: float | None = 0.05) -> None:
    """COLMAP's text files of a SIMPLE_RADIAL camera (SIMPLE_PINHOLE without ``distortion``) and the poses; points all
    over the walls."""
    folder.mkdir(parents=True, exist_ok=True)
    first = cameras[0]
    model, last = ("SIMPLE_PINHOLE", "") if distortion is None else ("SIMPLE_RADIAL", f" {distortion}")
    (folder / "cameras.txt").write_text(
        f"1 {model} {first.width} {first.height} {float(first.fx)} {first.width / 2} {first.height / 2}{last}\n"
    )
    lines = []
    for number, (camera, name) in enumerate(zip(cameras, names, strict=True), 1):
        pose = camera.cam_from_world.double().numpy()
        lines += [" ".join(map(str, (number, *quaternion(pose[:3, :3]), *pose[:3, 3], 1, name))), "1.0 1.0 -1"]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    points = scene.splat(2000).means.tolist()
    rows = [f"{number} {x} {y} {z} 128 128 128 0.5 1 0" for number, (x, y, z) in enumerate(points, 1)]
    (folder / "points3D.txt").write_text("\n".join(rows) + "\n")


def quaternion(rotation: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    """(w, x, y, z) of a rotation matrix."""
    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return [float(w), float(x), float(y), float(z)]


def geometry(cell: Cell, meter: Meter) -> None:
    """An iteration of the fit at the end of it, and all photos once through the cache."""
    views = scene.views(cell.views, cell.megapixels, cell.folder)
    config = replace(GeometryConfig.preset("quality"), max_gaussians=cell.gaussians)
    meter.mark("geometry")
    state = FitState(scene.splat(cell.gaussians), 1.0, config)
    step = config.steps // cell.views * cell.views - cell.views
    with PhotoCache(views) as photos:
        train_step(state, photos, step)  # the optimizer's state is made here
        begun = clock()
        for number in range(1, ITERATIONS + 1):
            train_step(state, photos, step + number)
        seconds = [round((now - then) / ITERATIONS, 5) for now, then in zip(clock(), begun, strict=True)]
        for number in range(cell.views):
            photos.get(number, False)
            photos.ahead((number + 1) % cell.views, False)
        meter.mark(None)
    meter.steps["geometry"].update(seconds=seconds[0], processor_seconds=seconds[1], per="iteration")  # type: ignore[call-overload]


def hierarchy(cell: Cell, meter: Meter) -> None:
    """Masks of a view to its hierarchy, with the file written, per view."""
    views = scene.views(HIERARCHIES, cell.megapixels)
    found = [scene.masks(view.camera, cell.masks, number) for number, view in enumerate(views)]
    folder = HierarchyFolder(cell.folder / f"timed_{os.getpid()}")
    with meter.step("hierarchy"):
        for view, masks in zip(views, found, strict=True):
            build_hierarchy(masks).save(folder.path(view.name))
    meter.per("hierarchy", HIERARCHIES, "view")
    meter.steps["hierarchy"]["masks_found"] = float(np.mean([len(masks) for masks in found]))


@contextlib.contextmanager
def marked(meter: Meter, module: ModuleType, name: str, step: str, after: str | None = None) -> Iterator[None]:
    """Within, a call of ``module.name`` begins ``step``, and its end the step ``after``."""
    original: Callable[..., Any] = getattr(module, name)

    def call(*arguments: Any, **options: Any) -> Any:
        meter.mark(step)
        result = original(*arguments, **options)
        if after is not None:
            meter.mark(after)
        return result

    with mock.patch.object(module, name, call):
        yield


def features(cell: Cell, meter: Meter) -> None:
    """The feature fit and its steps; the run is kept for the stages behind it."""
    gaussians, views = scene.splat(cell.gaussians), scene.views(cell.views, MEASURED)
    folder = hierarchies(cell, views)
    with contextlib.ExitStack() as stack:
        for patch in (
            marked(meter, mask_clustering, "gather", "evidence", "clustering"),
            marked(meter, feature_fit, "complete", "regions"),
            marked(meter, feature_fit, "segment_features", "codes", "steps"),
            marked(meter, feature_fit.FeatureTrainer, "fill", "fill"),  # type: ignore[arg-type]
        ):
            stack.enter_context(patch)
        field = fit_features(gaussians, views, lambda view: folder[view.name])
        meter.mark(None)
    run = Run.open(cell.run, {"scene": str(cell.folder), "downscale": 1})
    save_gaussians(run.geometry, gaussians)
    field.save(run.features)
    segments = field.segments
    meter.steps["clustering"]["segments"] = 0 if segments is None else int((segments.views > 0).sum())


def opened(cell: Cell) -> FeatureSplat:
    run = Run.existing(cell.run)
    gaussians = load_gaussians(run.geometry)
    return FeatureSplat(gaussians, FeatureField.load(run.features, gaussians))


def labels(cell: Cell, meter: Meter) -> None:
    """The label tree of the whole scene, and its files."""
    splat = opened(cell)
    with meter.step("labels"):
        tree = discretize(splat)
    with meter.step("labels: files"):
        save_labels(Run.existing(cell.run).labels, splat.gaussians, tree)


def viewer(cell: Cell, meter: Meter) -> None:
    """A run opened by the viewer, without browsers, and clicks; a click to the colors of what is drawn."""
    with meter.step("viewer open"):
        workspace = Workspace.open(cell.run, None)
        workspace.prepare()
        template = SplatTemplate(workspace, 300_000)
    session = Session(workspace)
    painter = Painter(session, template.ids)
    painter.paint(Look())
    view = scene.cameras(8, 640, 480)[3]
    places = np.random.default_rng(0).integers((40, 40), (600, 440), (CLICKS + 2, 2)).tolist()
    for number, (u, v) in enumerate(places):
        if number == 2:  # the first warm up
            meter.mark("click")
        session.click(view, u, v)
        painter.paint(Look())
    meter.mark(None)
    meter.per("click", CLICKS, "click")


def export(cell: Cell, meter: Meter) -> None:
    """The labels of the scene as files."""
    splat = opened(cell)
    run = Run.existing(cell.run)
    workspace = Workspace(run, splat)
    workspace.adopt_labels()
    with meter.step("export"):
        export_labels(Session(workspace), f"labels_{os.getpid()}")


STAGES: dict[str, Callable[[Cell, Meter], None]] = {
    "undistortion": undistortion,
    "geometry": geometry,
    "hierarchy": hierarchy,
    "features": features,
    "labels": labels,
    "viewer": viewer,
    "export": export,
}


def main() -> None:
    cell = Cell(**json.loads(sys.argv[1]))
    torch.set_num_threads(cell.threads)
    meter = Meter()
    STAGES[cell.stage](cell, meter)
    print(json.dumps(meter.steps))


if __name__ == "__main__":
    main()
