"""The doors through which files come in, as scripts and the viewer use them, and what a right answer of each is.

A door takes the folder of a case, in which one file is damaged. It raises :class:`SplatsegError`, or returns after
checking that what it was given can be worked with: finite values, sizes that agree.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from campaign_bases import TINY, TINY_ARGUMENTS, VIEW

from splatseg.core.camera import Camera
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree
from splatseg.core.reading import read_text
from splatseg.core.scene import Scene, View
from splatseg.evaluate.hierarchical import load_hierarchical
from splatseg.fit.pipeline import Fit
from splatseg.fit.settings import FitInputs
from splatseg.fit.splat_transform import read_splat_transform, transformed
from splatseg.io.colmap import load_colmap
from splatseg.io.labels import load_labels
from splatseg.io.ply import load_gaussians
from splatseg.io.run import Run
from splatseg.io.run_scene import load_run_scene
from splatseg.io.test_cameras import load_test_views
from splatseg.masks.cache import MaskCache
from splatseg.masks.files import FileMasks
from splatseg.masks.hierarchy import PatchHierarchy, build_hierarchy
from splatseg.masks.stored import stored_masks
from splatseg.render import render
from splatseg.session import Session, Workspace

Open = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Door:
    """A kind of input.

    Attributes:
        base: folder of :func:`campaign_bases.build_bases` that is copied for a case.
        files: what may be damaged in it, as patterns.
        open: reads a case's copy; the second path is that of all bases.
        weight: share of the cases.
        writes: folders in the copy that may be written to.
        script: the command line that reads a case's copy, given the folder of all bases.
    """

    base: str
    files: tuple[str, ...]
    open: Open
    weight: float
    writes: tuple[str, ...] = ()
    script: Callable[[Path, Path], list[str]] | None = None


def check(right: bool, what: str) -> None:
    """An answer that cannot be right is a failure of the campaign."""
    if not right:
        raise AssertionError(what)


# Captures --------------------------------------------------------------------------------------------------------


def check_camera(camera: Camera) -> None:
    turn = camera.cam_from_world[:3, :3]
    check(bool(torch.isfinite(camera.K).all() and torch.isfinite(camera.cam_from_world).all()), "camera: not finite")
    check(bool((turn @ turn.T - torch.eye(3)).abs().max() < 1e-2), "camera: no rotation")
    check(camera.fx > 0 and camera.fy > 0, f"camera: focal lengths {camera.fx} {camera.fy}")
    check(type(camera.width) is int and type(camera.height) is int, "camera: size of another type")
    check(0 < camera.width * camera.height < 2**31, "camera: size")
    check(np.isfinite(camera.near) and camera.near > 0, f"camera: near {camera.near}")


def check_scene(scene: Scene) -> None:
    for view in scene.views:
        check_camera(view.camera)
        pixels, fitted = view.photo()
        check(pixels.shape == (view.camera.height, view.camera.width, 3), "photo: size")
        check(fitted is None or fitted.shape == pixels.shape[:2], "mask: size")
    check(np.isfinite(scene.extent) and scene.extent > 0, f"scene: extent {scene.extent}")
    check(len(scene.points.xyz) == len(scene.points.rgb), "points: sizes")
    check(all(np.isfinite(scene.offset)), "scene: offset")


def open_capture(case: Path, bases: Path) -> None:
    check_scene(load_colmap(case / "scene", cache=case / "cache"))


def open_smaller_capture(case: Path, bases: Path) -> None:
    check_scene(load_colmap(case / "scene", downscale=2, cache=case / "cache"))


def open_test_views(case: Path, bases: Path) -> None:
    for view in load_test_views(case, load_colmap(case, cache=case / "cache")):
        check_camera(view.camera)
        view.photo()


def open_ground_truth(case: Path, bases: Path) -> None:
    truth = load_hierarchical(case)
    for name in truth.by_view:
        check(truth.levels(name).ndim == 3, "levels: shape")


def fit_capture(case: Path, bases: Path) -> list[str]:
    return ["fit.py", str(case / "scene"), "--out", str(case / "cache"), *TINY_ARGUMENTS]


def fit_test_views(case: Path, bases: Path) -> list[str]:
    return ["fit.py", str(case), "--out", str(case / "cache"), *TINY_ARGUMENTS]


# Masks -----------------------------------------------------------------------------------------------------------


def views_of(bases: Path) -> Sequence[View]:
    return load_colmap(bases / "capture", no_masks=bases / "capture/masks_2d").views[:2]


def open_masks(case: Path, bases: Path) -> None:
    views = views_of(bases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = FileMasks(case / "masks", views)
    source.settings()
    for view in views:
        masks = source.masks(view)
        check((masks.height, masks.width) == (view.camera.height, view.camera.width), "masks: size")
        check(all(masks.dense(number).shape == (48, 64) for number in range(len(masks))), "mask: size")
        check(build_hierarchy(masks).patch_ids.shape == (48, 64), "patches: size")


def find_masks(case: Path, bases: Path) -> list[str]:
    capture = ["masks.py", str(bases / "capture"), "--source", str(case / "masks")]
    return [*capture, "--out", str(case / "cache"), "--quiet"]


# Splats ----------------------------------------------------------------------------------------------------------


def check_gaussians(gaussians: Gaussians) -> None:
    gaussians.check_finite()
    check(bool(gaussians.quats.any(dim=1).all()), "quats: zero")
    check(all(np.isfinite(gaussians.offset)), "offset")
    K = torch.tensor([[20.0, 0, 8], [0, 20.0, 6], [0, 0, 1]])
    pose = torch.eye(4)
    pose[2, 3] = 3
    with torch.no_grad():
        drawn = render(gaussians, Camera(K, pose, 16, 12))
    check(drawn.color.shape == (12, 16, 3), "picture: size")
    check(bool(torch.isfinite(drawn.alpha).all()), "picture: alpha is not finite")


def open_splat(case: Path, bases: Path) -> None:
    check_gaussians(load_gaussians(case / "splat.ply"))


def give_splat(case: Path, bases: Path) -> list[str]:
    capture = ["fit.py", str(bases / "capture"), "--splat", str(case / "splat.ply")]
    return [*capture, "--out", str(case / "cache"), *TINY_ARGUMENTS]


def open_transform(case: Path, bases: Path) -> None:
    gaussians = load_gaussians(bases / "ply_binary/splat.ply")
    for path in sorted(case.iterdir()):
        moved = transformed(gaussians, read_splat_transform(path), (0.0, 0.0, 0.0))
        check(bool(torch.isfinite(moved.quats).all() and torch.isfinite(moved.sh).all()), "transform: not finite")


# Runs ------------------------------------------------------------------------------------------------------------


def open_run(case: Path, bases: Path) -> None:
    """Everything of a run that is read one by one."""
    run = Run.existing(case / "run")
    run.scene_settings()
    run.read_log()
    stored_masks(run.masks)
    for stage in ("geometry", "features", "labels", "hierarchy"):
        run.is_done(stage, "0123")
        run.made_from(stage)
    check_scene(load_run_scene(run))


def open_parts(case: Path, bases: Path) -> None:
    """The results, each with what it belongs to; a hierarchy and stored masks are the same or none."""
    run = Run.existing(case / "run")
    gaussians = load_gaussians(run.geometry)
    check_gaussians(gaussians)
    field = FeatureField.load(run.features, gaussians)
    check(bool(torch.isfinite(field.unit).all()), "features: not finite")
    for path in (run.labels, run.exports / "plain.ply"):
        check_tree(load_labels(path, gaussians), len(gaussians))


def check_tree(tree: LabelTree, count: int) -> None:
    check(len(tree) == count, "labels: size")
    for level in range(tree.levels):
        check(tree.colors(level).shape == (count, 3), "labels: colors")
        tree.at_level(level)


def open_hierarchy(case: Path, bases: Path) -> None:
    hierarchy = PatchHierarchy.load(case / f"run/hierarchy/{VIEW}.npz")
    check(hierarchy.patch_ids.ndim == 2 and len(hierarchy.areas()) == len(hierarchy), "hierarchy: sizes")
    check(hierarchy.votes().shape == (len(hierarchy), len(hierarchy)), "hierarchy: votes")


def open_kept_masks(case: Path, bases: Path) -> None:
    """Stored masks are those that were stored, or none."""
    views, source = views_of(bases), FileMasks(bases / "capture/masks_2d")
    cache = MaskCache(case / "run/masks", source)
    for view in views:
        found = cache.load(view)
        if found is not None:
            check(found.height == view.camera.height, "kept masks: size")
            check(len(found) == 0 or build_hierarchy(found).patch_ids.shape == (48, 64), "kept masks: patches")


def open_checkpoint(case: Path, bases: Path) -> None:
    """A checkpoint is taken up as it was saved, or not at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for stage in ("geometry", "features"):
            found = Run(case / "run").load_checkpoint(stage)
            true = Run(bases / "run/run").load_checkpoint(stage)
            if found is not None and true is not None and found.get("digest") == true["digest"]:
                check(same(found, true), f"checkpoint of {stage}: another one is taken up")


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def open_workspace(case: Path, bases: Path) -> None:
    """The viewer's start on the run, and some work on what it took up."""
    workspace = Workspace.open(case / "run")
    workspace.start_autosave()
    try:
        session = Session(workspace)
        if (step := workspace.take_restored_step()) is not None:
            session.resume(step)
        work(session)
    finally:
        workspace.close()


def open_session(case: Path, bases: Path) -> None:
    """A saved session opened again in a run that is whole."""
    session = Session(Workspace.open(case / "run"))
    session.reopen("mine")
    work(session)


def work(session: Session) -> None:
    count = len(session.workspace)
    check(len(session.selection.mask) == count, "selection: size")
    for entry in session.objects:
        check(len(entry.selection(count)) == len(entry), "object: size")
        session.show(entry.id, not entry.visible)
    if session.tree is not None:
        check_tree(session.tree, count)
        check(0 <= session.label_level < session.tree.levels, "label level")
    session.invert()
    session.click_gaussian(7, "add")
    session.keep("another")
    session.undo()


def fit_again(case: Path, bases: Path) -> None:
    """The fit's own command on the run: what is damaged is made again, what is not stays."""
    capture = bases / "capture"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Fit(FitInputs(capture, case / "run", str(capture / "masks_2d"), device="cpu"), TINY).execute()
    open_parts(case, bases)


def fit_again_command(case: Path, bases: Path) -> list[str]:
    capture = bases / "capture"
    return ["fit.py", str(capture), "--out", str(case / "run"), "--masks", str(capture / "masks_2d"), *TINY_ARGUMENTS]


def export_again(case: Path, bases: Path) -> list[str]:
    return ["export.py", str(case / "run"), "--out", str(case / "run/exports/labels.ply"), "--quiet"]


def segment_again(case: Path, bases: Path) -> list[str]:
    where = ["--view", VIEW, "--pixel", "32", "24", "--threshold", "0.5"]
    return ["segment.py", str(case / "run"), *where, "--quiet"]


# Command lines ---------------------------------------------------------------------------------------------------


def open_arguments(case: Path, bases: Path) -> None:
    """``arguments.json``: a command line of scripts/fit.py, parsed as the script parses it."""
    from splatseg.cli.endings import parse
    from splatseg.cli.fit import Arguments

    try:
        words = json.loads(read_text(case / "arguments.json", errors="replace"))
    except (ValueError, RecursionError, OSError):
        return  # the list of words is ours
    words = words if isinstance(words, list) else [words]
    before, sys.argv = sys.argv, ["fit.py", *map(str, words)]
    try:
        parse(Arguments, description="")
    finally:
        sys.argv = before


RUN_FILES = ("run/scene.json", "run/config.yaml", "run/stages/*.json", "run/metrics.json", "run/masks/*/source.json")
MODEL = ("cameras", "images", "points3D", "rigs", "frames")
LAYOUTS = ("json", "json", "sa1b", "png", "png16", "npz", "npy", "amg")
DOORS: dict[str, Door] = {
    "COLMAP binary": Door(
        "binary", tuple(f"scene/sparse/0/{m}.bin" for m in MODEL), open_capture, 1500, ("cache",), fit_capture
    ),
    "COLMAP text": Door(
        "text", tuple(f"scene/sparse/0/{m}.txt" for m in MODEL[:3]), open_capture, 1200, ("cache",), fit_capture
    ),
    "COLMAP, undistorted": Door(
        "distorted",
        ("scene/sparse/0/cameras.bin", "scene/sparse/0/images.bin", "scene/images/sub/*.png"),
        open_capture,
        120,
        ("cache",),
        fit_capture,
    ),
    "transforms.json": Door(
        "transforms", ("scene/transforms.json", "scene/points.ply"), open_capture, 900, ("cache",), fit_capture
    ),
    "photos and their masks": Door(
        "photos",
        ("scene/images/sub/*.png", "scene/masks/sub/*.png"),
        open_smaller_capture,
        600,
        ("cache",),
        fit_capture,
    ),
    **{
        f"masks, {layout}": Door(
            f"masks/{layout}", ("masks/**/*.*",), open_masks, 220 if layout != "json" else 500, (), find_masks
        )
        for layout in dict.fromkeys(LAYOUTS)
    },
    "PLY binary": Door("ply_binary", ("splat.ply",), open_splat, 900, (), give_splat),
    "PLY ASCII": Door("ply_ascii", ("splat.ply",), open_splat, 500, (), give_splat),
    "splat transform": Door("transform", ("*",), open_transform, 250),
    "session": Door("run", ("run/sessions/mine.npz",), open_session, 700),
    "viewer's run": Door(
        "run",
        (
            "run/sessions/autosave.npz",
            "run/labels.json",
            "run/scene.json",
            "run/config.yaml",
            "run/features.safetensors",
        ),
        open_workspace,
        400,
        ("run",),
        segment_again,
    ),
    "checkpoints": Door("run", ("run/checkpoints/*.pt",), open_checkpoint, 700, (), fit_again_command),
    "run's settings": Door("run", RUN_FILES, open_run, 500, ("run",), fit_again_command),
    "run's results": Door(
        "run",
        ("run/geometry.ply", "run/features.safetensors", "run/labels.ply", "run/labels.json", "run/exports/plain.*"),
        open_parts,
        600,
        (),
        export_again,
    ),
    "hierarchies": Door("run", (f"run/hierarchy/{VIEW}.npz",), open_hierarchy, 250),
    "kept masks": Door("run", ("run/masks/*/train_000.jpg.npz",), open_kept_masks, 150),
    "fit again": Door(
        "run",
        (*RUN_FILES, "run/hierarchy/*.npz", "run/masks/*/*.npz", "run/features.safetensors", "run/labels.*"),
        fit_again,
        200,
        ("run",),
        fit_again_command,
    ),
    "test_cameras.json": Door("truth", ("test_cameras.json",), open_test_views, 250, ("cache",), fit_test_views),
    "ground truth": Door(
        "truth", ("queries.json", "gt/tree.json", "gt/*.npz", "test_cameras.json"), open_ground_truth, 150
    ),
    "command line": Door("arguments", ("arguments.json",), open_arguments, 100),
}
