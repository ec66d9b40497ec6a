"""What a session hands out: files in the run's ``exports``, named after what they hold."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from splatseg.core.atomic import atomic_write, write_together
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelNode, LabelTree
from splatseg.core.progress import SILENT, Report, Reporter
from splatseg.core.selection import Selection
from splatseg.io.labels import save_labels, save_selection, save_without
from splatseg.io.ply import save_gaussians
from splatseg.render import render
from splatseg.segment.mask_images import save_masks
from splatseg.session.colors import Look, painted, with_copies
from splatseg.session.copies import placed
from splatseg.session.session import Session
from splatseg.session.workspace import without


def export_selection(
    session: Session, name: str = "selection", what: int | str | None = None, job: Reporter = SILENT
) -> Path:
    """The selection, or the kept object ``what`` (a copy where it stands), as a plain INRIA PLY.

    Raises:
        SplatsegError: nothing is selected, no such object, or the file cannot be written.
        Cancelled: ``job`` was cancelled; the file is as it was before.
    """
    path = session.workspace.export_path(name, ".ply")
    entry = None if what is None else session.workspace.shared.content.find(what)
    if entry is not None and entry.placement is not None:
        source = session.workspace.gaussians
        copied = placed(source.select(entry.ids.long().to(source.device)), entry.placement)
        save_gaussians(path, copied, report=job.report)
        return path
    save_selection(path, session.workspace.gaussians, _chosen(session, what), job.report)
    return path


def export_scene(session: Session, name: str = "scene", job: Reporter = SILENT) -> Path:
    """The scene as it is edited, as a plain INRIA PLY: what is shown, and the copies where they stand.

    Raises:
        SplatsegError: nothing is shown, or the file cannot be written.
        Cancelled: ``job`` was cancelled; the file is as it was before.
    """
    path, space, hidden = session.workspace.export_path(name, ".ply"), session.workspace, session.hidden()
    left = space.gaussians if hidden is None else space.gaussians.select(~hidden.to(space.gaussians.device))
    job.report(path.name, 0)
    scene = with_copies(session, left)
    if not len(scene):
        raise SplatsegError(f"{path.name}: expected something that is shown, found all hidden")
    save_gaussians(path, scene, report=job.report)
    return path


def export_without(
    session: Session, name: str = "scene_without_selection", what: int | str | None = None, job: Reporter = SILENT
) -> Path:
    """What is shown of the scene without the selection (or the object ``what``), as a plain INRIA PLY.

    Raises:
        SplatsegError: nothing would be left out, or nothing left, or the file cannot be written.
        Cancelled: ``job`` was cancelled; the file is as it was before.
    """
    path = session.workspace.export_path(name, ".ply")
    hidden, out = session.hidden(), _chosen(session, what)
    if hidden is not None:
        out = Selection(out.mask | hidden)
    if not len(out):
        raise SplatsegError(f"{path.name}: expected something selected or hidden to leave out, found nothing")
    save_without(path, session.workspace.gaussians, out, job.report)
    return path


def export_labels(session: Session, name: str = "labels", source: str = "labels", job: Reporter = SILENT) -> list[Path]:
    """Labels of the whole scene: a labeled PLY and its tree as JSON, and a plain PLY with an ``.npz`` beside it.

    Args:
        source: ``labels``, the label tree; ``objects``, the kept objects as one level (where two overlap, the newer).

    Returns:
        The files, the labeled PLY first.

    Raises:
        SplatsegError: no labels, no objects, or a file cannot be written.
        Cancelled: ``job`` was cancelled; all files are as they were before.
    """
    exports, tree = session.workspace.run.exports, _label_tree(session, source)
    with write_together(exports) as stage:
        written = _write_labels(session, tree, stage, name, job.report)
    return [exports / path.name for path in written]


def export_labels_zip(session: Session, name: str = "labels", source: str = "labels", job: Reporter = SILENT) -> Path:
    """What :func:`export_labels` writes, and ``NAME.zip`` with all of it; returns the zip file. Errors are the same."""
    path, tree = session.workspace.export_path(name, ".zip"), _label_tree(session, source)
    with write_together(path.parent) as stage:
        written = _write_labels(session, tree, stage, name, job.part(0, 0.9))
        with atomic_write(stage / path.name) as zipped, zipfile.ZipFile(zipped, "w") as archive:  # PLYs hardly shrink
            for number, file in enumerate(written):
                job.report(path.name, 0.9 + 0.1 * number / len(written))
                archive.write(file, file.name)
        job.report(path.name, 1)
    return path


def _label_tree(session: Session, source: str) -> LabelTree:
    if source == "objects":
        return objects_tree(session)
    if source != "labels":
        raise SplatsegError(f"source: expected 'labels' or 'objects', found {source!r}")
    if session.tree is None:
        raise SplatsegError("labels: expected the scene divided into labels, found none; divide it first")
    return session.tree


def _write_labels(session: Session, tree: LabelTree, folder: Path, name: str, report: Report) -> list[Path]:
    space = session.workspace
    first, second = (folder / space.export_path(stem, ".ply").name for stem in (name, f"{name}_plain"))
    written = save_labels(first, space.gaussians, tree, report=lambda step, share: report(step, share / 2))
    return written + save_labels(
        second, space.gaussians, tree, sidecar=True, report=lambda step, share: report(step, (1 + share) / 2)
    )


def export_masks(
    session: Session, name: str = "selection", what: int | str | None = None, job: Reporter = SILENT
) -> Path:
    """Masks of the selection (or the object ``what``) in every photo: a folder of PNGs and the same as a zip file.

    Returns:
        The zip file.

    Raises:
        SplatsegError: nothing is selected, no photos at hand, or a file cannot be written.
        Cancelled: ``job`` was cancelled; folder and zip file are as they were before.
    """
    views = session.workspace.views
    if not views:
        raise SplatsegError("masks: expected the photos of the run, found none at hand")
    chosen = _chosen(session, what)
    if not len(chosen):
        raise SplatsegError("masks: expected something selected, found nothing")
    path = session.workspace.export_path(f"{name}_masks", ".zip")
    gaussians = _shown_with(session, chosen)
    with write_together(path.parent) as stage:
        folder = stage / path.stem
        with torch.no_grad():
            paths = save_masks(folder, gaussians, chosen, views, job.part(0, 0.95))
        with atomic_write(stage / path.name) as zipped, zipfile.ZipFile(zipped, "w") as archive:  # PNGs are compressed
            for number, file in enumerate(paths.values()):
                job.report(path.name, 0.95 + 0.05 * number / len(paths))
                archive.write(file, file.relative_to(folder))
        job.report(path.name, 1)
    return path


def export_image(
    session: Session, camera: Camera, name: str = "view", look: Look | None = None, job: Reporter = SILENT
) -> Path:
    """What ``camera`` sees, all Gaussians drawn, on white, as a PNG.

    Raises:
        SplatsegError: the look needs a click and there is none, or the file cannot be written.
        Cancelled: ``job`` was cancelled; the file is as it was before.
    """
    path = session.workspace.export_path(name, ".png")
    image = draw(session, camera, look or Look(), job)
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
        job.report(path.name, 1)
    return path


def draw(session: Session, camera: Camera, look: Look, job: Reporter = SILENT) -> np.ndarray:
    """(height, width, 3) uint8 picture of the session as ``look`` shows it.

    Raises:
        SplatsegError: the look needs a click and there is none.
        Cancelled: ``job`` was cancelled.
    """
    job.report("colors", 0.0)
    gaussians = painted(session, look, camera)
    job.report("drawing", 0.3)
    with torch.no_grad():
        drawn = render(gaussians, camera.to(gaussians.device))
        color = drawn.color + (1 - drawn.alpha)[..., None]  # the default background is black: put white behind it
    job.report("writing", 0.8)
    return (color.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def objects_tree(session: Session) -> LabelTree:
    """The kept objects, without copies, as a label tree of one level; label = id of the object.

    Raises:
        SplatsegError: there are none.
    """
    objects = [entry for entry in session.objects if entry.placement is None]  # once: they may change meanwhile
    if not objects:
        raise SplatsegError("labels: expected at least one kept object, found none")
    labels = np.zeros((len(session.workspace), 1), np.int32)
    for entry in objects:
        labels[entry.ids.numpy(), 0] = entry.id
    counts = np.bincount(labels[:, 0], minlength=max(o.id for o in objects) + 1)
    nodes = tuple(LabelNode(o.id, 0, 0, int(counts[o.id]), o.name, o.color) for o in objects)
    return LabelTree(labels, nodes)


def _shown_with(session: Session, chosen: Selection) -> Gaussians:
    """The splat as the session shows it, and ``chosen`` (an object may be exported while it is hidden)."""
    space, hidden = session.workspace, session.hidden()
    if hidden is None or not bool((hidden & chosen.mask.cpu()).any()):
        return space.visible_gaussians(session.isolated)
    return without(space.gaussians, hidden & ~chosen.mask.cpu())


def _chosen(session: Session, what: int | str | None) -> Selection:
    if what is None:
        return session.selection
    return session.workspace.shared.content.find(what).selection(len(session.workspace))
