"""Labels and other tools: attach, import, name.

    splatseg labels attach FILE SIDECAR    FILE as a PLY with its labels
    splatseg labels import RUN FILE        labels made elsewhere, in a run
    splatseg labels name RUN 1.2 --name "my chair" --class chair

attach finds the rows of a splat again that another tool re-ordered, quantized,
cropped or converted, by position, size, color and opacity; SIDECAR is the .npz
that was exported beside it. import takes integers per Gaussian (properties of
a PLY, an .npz, or an .npy such as LichtFeld Studio's selection mask) as the
labels of a run; rows of a PLY and of a sidecar are found the same way, arrays
without them are taken in the splat's order. name gives a label of a run another
name, or the class of thing that it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from splatseg.cli.endings import parse
from splatseg.cli.options import PathOrNone, TextOrNone
from splatseg.core.errors import SplatsegError, naming
from splatseg.core.label_tree import tree_from_columns
from splatseg.io.labels import labels_beside, load_labels, save_labels, save_tree, without_labels
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.io.run import Run
from splatseg.io.sidecar import Attached, Sidecar, attach, load_sidecar, row_keys
from splatseg.io.splats import load_splat

LEAST_FOUND = 0.5  # of the rows; below it is another splat


@dataclass(frozen=True)
class Attach:
    """Put the labels of a sidecar back onto a splat."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The splat, of any format that is read."""
    sidecar: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SIDECAR")]
    """The .npz that was exported beside it."""
    out: PathOrNone = None
    """PLY to write; FILE's name with .labels.ply if not given."""


@dataclass(frozen=True)
class Import:
    """Take labels that were made elsewhere as the labels of a run."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, made by 'splatseg fit'."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A splat's PLY with integer properties, or an .npz or .npy of integers per Gaussian."""
    column: tuple[str, ...] = ()
    """The integers to take, coarse to fine; label_0, label_1 ... or else the only one there is if not given."""
    out: PathOrNone = None
    """PLY to write; RUN/labels.ply, which must not be there yet, if not given."""


@dataclass(frozen=True)
class Name:
    """Give a label of a run another name, or say what class of thing it is."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, made by 'splatseg fit'."""
    label: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LABEL")]
    """Name or id of the label."""
    name: TextOrNone = None
    """Its new name."""
    category: Annotated[TextOrNone, tyro.conf.arg(name="class")] = None
    """What it is, such as chair; '' takes its class away."""


Arguments = (
    Annotated[Attach, tyro.conf.subcommand("attach")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Name, tyro.conf.subcommand("name")]
)


def main() -> None:
    arguments: Attach | Import | Name = parse(Arguments, description=__doc__)  # type: ignore[arg-type]
    if isinstance(arguments, Attach):
        attach_labels(arguments)
    elif isinstance(arguments, Import):
        import_labels(arguments)
    else:
        name_label(arguments)


def attach_labels(arguments: Attach) -> None:
    out = arguments.out or arguments.file.with_name(f"{arguments.file.name.partition('.')[0]}.labels.ply")
    _check_new(out, arguments.file, arguments.sidecar)
    gaussians = load_splat(arguments.file).gaussians
    sidecar = load_sidecar(arguments.sidecar)
    found = _attached(attach(gaussians, sidecar, arguments.sidecar), len(sidecar), arguments.sidecar)
    save_gaussians(out, without_labels(gaussians), found.columns)
    print(f"written  {out}")


def import_labels(arguments: Import) -> None:
    run = Run.existing(arguments.run)
    out = arguments.out or run.labels
    _check_new(out, arguments.file)
    if out.resolve() != run.labels.resolve():
        with naming("--out"):
            run.check_output(out, *labels_beside(out))
    if out.exists():
        raise SplatsegError(f"{out}: expected no labels yet, found some; give --out, or move them away first")
    gaussians = load_gaussians(run.geometry)
    columns = _columns(arguments)
    found = _attached(attach(gaussians, columns, arguments.file), len(columns), arguments.file)
    names = _chosen(arguments, columns)
    tree = tree_from_columns([found.columns[name] for name in names])
    written = save_labels(out, gaussians, tree)
    for level in range(tree.levels):
        print(f"label_{level}  {len(tree.at_level(level))} labels from '{names[level]}'")
    for path in written:
        print(f"written  {path}")


def name_label(arguments: Name) -> None:
    run = Run.existing(arguments.run)
    if arguments.name is None and arguments.category is None:
        raise SplatsegError("--name, --class: expected one of them, found none")
    with run.lock():
        gaussians = load_gaussians(run.geometry)
        tree = load_labels(run.labels, gaussians)
        node = tree.named(arguments.label)
        if arguments.name is not None:
            tree = tree.renamed(node.id, arguments.name)
        if arguments.category is not None:
            tree = tree.classified(node.id, arguments.category)
        save_tree(run.labels, gaussians, tree)
    node = tree.node(node.id)
    print(f"label    {node.id}, '{node.name}'{f', {node.category}' if node.category else ''}")
    print(f"written  {run.labels_json}")


def _columns(arguments: Import) -> Sidecar:
    """The file as a sidecar: a splat's PLY has the keys of its rows in itself."""
    if arguments.file.suffix.lower() in (".npz", ".npy"):
        return load_sidecar(arguments.file)
    gaussians = load_splat(arguments.file).gaussians
    columns = {k: v.numpy() for k, v in gaussians.extra.items() if not v.is_floating_point()}
    if not columns:
        raise SplatsegError(f"{arguments.file}: expected integer properties beside a splat's own, found none")
    return Sidecar(columns, row_keys(gaussians), gaussians.fingerprint(), gaussians.offset)


def _chosen(arguments: Import, sidecar: Sidecar) -> list[str]:
    """The columns to take, coarse to fine."""
    there = list(sidecar.columns)
    if arguments.column:
        for name in arguments.column:
            if name not in there:
                raise SplatsegError(f"--column: expected one of {', '.join(there)}, found '{name}'")
        return list(arguments.column)
    levels = sorted((n for n in there if n.startswith("label_") and n[6:].isdigit()), key=lambda name: int(name[6:]))
    if levels or len(there) == 1:
        return levels or there
    if "label" in there:
        return ["label"]
    raise SplatsegError(f"--column: expected the name of one of {len(there)} columns ({', '.join(there)}), found none")


def _attached(attached: Attached, rows: int, where: Path) -> Attached:
    """``attached``, after a line on how many Gaussians were found among the ``rows`` of ``where``.

    Raises:
        SplatsegError: most were not.
    """
    count, total = int(attached.found.sum()), len(attached.found)
    if count < LEAST_FOUND * min(total, rows):
        raise SplatsegError(
            f"{where}: expected labels of this splat, found rows for {count} of {total} Gaussians; was it moved, "
            "turned or scaled since?"
        )
    print(f"found    {count} of {total} Gaussians ({100 * np.floor(1000 * count / total) / 1000:.1f} %)")
    return attached


def _check_new(out: Path, *inputs: Path) -> None:
    """Refuse to write over what is read."""
    if out.suffix.lower() != ".ply":
        raise SplatsegError(f"--out: expected a name that ends in .ply, found {out}")
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            raise SplatsegError(f"--out: expected another file than the input, found {out}")
