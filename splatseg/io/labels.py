"""Labels and selections as PLY, each file whole or not there at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from splatseg.core.atomic import write_text
from splatseg.core.errors import DAMAGED, SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree, TreeOutline
from splatseg.core.progress import Report
from splatseg.core.reading import read_json, read_npz
from splatseg.core.selection import Selection
from splatseg.io.ply import load_extra, save_gaussians
from splatseg.io.sidecar import save_sidecar
from splatseg.io.splats import LABEL, beside, format_by_name, save_splat

FORMAT = "splatseg-labels-1"


def label_columns(tree: LabelTree) -> dict[str, NDArray[np.int32]]:
    """``label`` (at the tree's default level) and ``label_0`` .. ``label_{K-1}``, coarse to fine: (n,) int32 each."""
    columns = {"label": np.ascontiguousarray(tree.labels[:, tree.default_level])}
    columns |= {f"label_{level}": np.ascontiguousarray(tree.labels[:, level]) for level in range(tree.levels)}
    return columns


def save_labels(
    path: Path | str,
    gaussians: Gaussians,
    tree: LabelTree,
    sidecar: bool = False,
    report: Report | None = None,
    confidence: Tensor | None = None,
) -> list[Path]:
    """Write the splat with its labels, and the tree as JSON beside it (same name, ``.json``).

    The format is what the name of ``path`` asks for (:func:`splatseg.io.splats.format_by_name`). In a PLY the labels
    are integer properties after the standard ones, in a GLB feature ids. With ``sidecar``, and in formats that hold no
    labels, the file holds the standard properties alone and the labels go to an ``.npz`` of the same name, which finds
    its rows again (:mod:`splatseg.io.sidecar`). ``report`` is called with a file's name and the share of it written; it
    may raise to stop. ``confidence`` (n,) in [0, 1] goes beside the labels as an integer property, in percent.

    Returns:
        The files written.

    Raises:
        SplatsegError: the tree has another number of Gaussians, or a file cannot be written.
    """
    path = Path(path)
    kind = format_by_name(path)
    check_tree(gaussians, tree)
    columns = label_columns(tree)
    if confidence is not None:
        columns["confidence"] = (100 * confidence).round().int().cpu().numpy()
    written = [path, *labels_beside(path, sidecar)]
    sidecar = len(written) > 2
    if sidecar:
        if report is not None:
            report(written[-1].name, 0.0)
        save_sidecar(written[-1], gaussians, columns)
    gaussians = without_labels(gaussians)
    if kind == "ply":
        save_gaussians(path, gaussians, {} if sidecar else columns, report)
    else:
        save_splat(path, gaussians, kind, {} if sidecar else columns)
    save_tree(path, gaussians, tree)
    return written


def labels_beside(path: Path, sidecar: bool = False) -> list[Path]:
    """What :func:`save_labels` writes beside ``path``: the tree's JSON, and the NPZ where the file holds no labels."""
    sidecar = sidecar or format_by_name(path) not in ("ply", "glb")
    return [beside(path, ".json"), *([beside(path, ".npz")] if sidecar else [])]


def save_tree(path: Path, gaussians: Gaussians, tree: LabelTree) -> None:
    """Write the tree of the labels in ``path`` to the JSON beside it: names, colors and classes may be new.

    Raises:
        SplatsegError: no room to write.
    """
    write_text(beside(path, ".json"), json.dumps(_described(tree, gaussians), indent=1) + "\n")


def without_labels(gaussians: Gaussians) -> Gaussians:
    """``gaussians`` without the label columns of a file they came from: those are another tree's."""
    kept = {name: values for name, values in gaussians.extra.items() if not LABEL.fullmatch(name)}
    return replace(gaussians, extra=kept)


def _described(tree: LabelTree, gaussians: Gaussians) -> dict[str, object]:
    """The tree as JSON holds it; with the ``offset`` of a splat in a local frame (add it to positions)."""
    about = {"format": FORMAT, "fingerprint": gaussians.fingerprint(), "gaussians": len(tree)}
    offset = {"offset": list(gaussians.offset)} if any(gaussians.offset) else {}
    return {**about, **tree.outline().to_json(), **offset}


def check_tree(gaussians: Gaussians, tree: LabelTree) -> None:
    """Raise :class:`SplatsegError` unless ``tree`` labels as many Gaussians as there are."""
    if len(tree) != len(gaussians):
        raise SplatsegError(f"labels: expected one for each of {len(gaussians)} Gaussians, found {len(tree)}")


def load_labels(path: Path | str, gaussians: Gaussians | None = None) -> LabelTree:
    """Read back what :func:`save_labels` wrote: the PLY at ``path``, its JSON, and its NPZ where the PLY has no labels.

    Raises:
        SplatsegError: a file is missing or broken, the labels and the tree disagree, or belong to another splat.
    """
    path = Path(path)
    json_path = path.with_suffix(".json")
    try:
        content = read_json(json_path)
        if content["format"] != FORMAT:
            raise SplatsegError(f"{json_path}: format: expected '{FORMAT}', found {content['format']!r}")
        outline, fingerprint = TreeOutline.from_json(content), content["fingerprint"]
        if outline.levels < 1:
            raise SplatsegError(f"{json_path}: levels: expected at least 1, found {outline.levels}")
    except SplatsegError:
        raise
    except FileNotFoundError:
        raise SplatsegError(f"{json_path}: label tree not found") from None
    except DAMAGED as error:
        raise SplatsegError(f"{json_path}: expected a label tree, found {error!r}") from None
    if gaussians is not None and fingerprint != gaussians.fingerprint():
        raise SplatsegError(
            f"{json_path}: expected labels of the splat with fingerprint {gaussians.fingerprint()}, found {fingerprint}"
        )
    columns = _label_arrays(path, outline.levels)
    try:
        tree = LabelTree(np.stack(columns, axis=1).astype(np.int32), outline.nodes, outline.default_level)
    except DAMAGED as error:
        raise SplatsegError(f"{path}: {error}") from None
    if gaussians is not None and len(tree) != len(gaussians):
        raise SplatsegError(f"{path}: expected labels of {len(gaussians)} Gaussians, found {len(tree)}")
    return tree


def _label_arrays(path: Path, levels: int) -> list[NDArray[np.integer]]:
    """The columns ``label_0`` .. of a labeled PLY, or of the NPZ beside a plain one."""
    names = [f"label_{level}" for level in range(levels)]
    found: dict[str, NDArray[np.integer]] = load_extra(path)
    source = path
    if names[0] not in found and path.with_suffix(".npz").is_file():
        source = path.with_suffix(".npz")
        try:
            found = read_npz(source)
        except DAMAGED as error:
            raise SplatsegError(f"{source}: expected an npz of labels, found {error}") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise SplatsegError(f"{source}: expected the labels {', '.join(names)}, found no {missing[0]}")
    return [found[name] for name in names]


def save_selection(path: Path | str, gaussians: Gaussians, selection: Selection, report: Report | None = None) -> None:
    """Write the selected Gaussians, in the format that the name of ``path`` asks for
    (:func:`splatseg.io.splats.format_by_name`). ``report`` is called as by :func:`save_gaussians`.

    Raises:
        SplatsegError: nothing is selected, the selection is of another splat, or the file cannot be written.
    """
    if selection.mask.shape[0] != len(gaussians):
        raise SplatsegError(
            f"{path}: expected a selection of {len(gaussians)} Gaussians, found one of {selection.mask.shape[0]}"
        )
    if len(selection) == 0:
        raise SplatsegError(f"{path}: expected something selected, found an empty selection")
    chosen = gaussians.select(selection.mask.to(gaussians.device))
    if format_by_name(path) == "ply":
        save_gaussians(path, chosen, report=report)
    else:
        save_splat(path, chosen, format_by_name(path))


def save_without(path: Path | str, gaussians: Gaussians, selection: Selection, report: Report | None = None) -> None:
    """Write the scene without the selected Gaussians. Format and ``report`` as in :func:`save_selection`.

    Raises:
        SplatsegError: everything is selected, the selection is of another splat, or the file cannot be written.
    """
    if bool(selection.mask.all()):
        raise SplatsegError(f"{path}: expected something left of the scene, found all Gaussians selected")
    save_selection(path, gaussians, selection.invert(), report)
