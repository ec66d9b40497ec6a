"""A splat as one file per label."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from splatseg.core.atomic import write_together
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import LabelTree
from splatseg.io.labels import check_tree, without_labels
from splatseg.io.names import by_stem
from splatseg.io.splats import SUFFIXES, SplatFormat, save_splat

TABLE = "labels.json"


def save_by_label(
    folder: Path, gaussians: Gaussians, tree: LabelTree, level: int, kind: SplatFormat = "ply"
) -> list[Path]:
    """Write the Gaussians of every label of ``tree`` at ``level`` to a file of its own in ``folder``, named as the tree
    names it, and a table of them (``labels.json``): all of them or none. What has no label goes to ``unlabeled``.

    Returns:
        The files, the table last.

    Raises:
        SplatsegError: a tree of another splat, values that the format cannot hold, or no room.
    """
    check_tree(gaussians, tree)
    gaussians = without_labels(gaussians)
    labels = torch.from_numpy(tree.labels[:, level])
    nodes = tree.at_level(level)
    titles = [f"{node.name or 'label'}" for node in nodes]
    titles = [t if titles.count(t) == 1 else f"{t} ({node.id})" for t, node in zip(titles, nodes, strict=True)]
    # A name may hold anything: the suffix keeps by_stem from taking a dot of it for one of a photo's.
    files = by_stem(folder, [f"{title}.splat" for title in [*titles, "unlabeled"]], SUFFIXES[kind])
    table = []
    with write_together(folder) as stage:
        for title, number in [*zip(titles, [node.id for node in nodes], strict=True), ("unlabeled", 0)]:
            chosen = gaussians.select(labels == number)
            if len(chosen) == 0:
                continue
            path = files[f"{title}.splat"].relative_to(folder)
            (stage / path).parent.mkdir(parents=True, exist_ok=True)
            save_splat(stage / path, chosen, kind)
            table.append({"file": path.as_posix(), "id": number, "name": title, "count": len(chosen)})
        (stage / TABLE).write_text(json.dumps({"level": level, "files": table}, indent=1) + "\n", encoding="utf-8")
    return [*(folder / str(entry["file"]) for entry in table), folder / TABLE]
