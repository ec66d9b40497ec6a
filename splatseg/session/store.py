"""Sessions as files: one ``.npz`` that holds the objects, the label tree and the selection of one splat.

Entries: ``meta`` (JSON in UTF-8 bytes), ``ids`` (all objects' Gaussians after one another), ``labels`` (n, K),
``fixed`` (bits of the fixed part of the selection), and ``positive_i`` / ``negative_i`` (features of the i-th pick).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splatseg.core.atomic import atomic_write
from splatseg.core.errors import DAMAGED, SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.label_tree import LabelNode, LabelTree
from splatseg.core.reading import regular
from splatseg.core.selection import Selection
from splatseg.segment.clicks import Query
from splatseg.session.shared import Change, Content, SceneObject, check_color, clean_name
from splatseg.session.state import Pick, Step, gather

FORMAT = "splatseg-session-1"


@dataclass(frozen=True, eq=False)
class Saved:
    """What a session file holds. ``when`` is the local time of saving; ``step`` is None where nothing was selected."""

    when: str
    objects: tuple[SceneObject, ...]
    tree: LabelTree | None
    level: int
    step: Step | None

    def change(self, content: Content) -> Change:
        """What turns ``content`` into this."""
        after: dict[int, SceneObject | None] = dict.fromkeys(content.objects)
        after.update({entry.id: entry for entry in self.objects})
        before = {key: content.objects.get(key) for key in after}
        return Change(before, after, ((content.tree, content.level), (self.tree, self.level)))


def save(path: Path, content: Content, fingerprint: str, step: Step | None) -> None:
    """Write ``content`` of the splat with that fingerprint and the selection ``step``; whole or not at all.

    Raises:
        SplatsegError: the folder cannot be written to, or the disk is full.
    """
    objects = list(content.objects.values())
    arrays: dict[str, np.ndarray] = {
        "ids": np.concatenate([np.zeros(0, np.int32), *(o.ids.numpy().astype(np.int32) for o in objects)])
    }
    meta: dict[str, Any] = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        "level": content.level,
        "objects": [
            {"id": o.id, "name": o.name, "color": o.color, "count": len(o), "visible": o.visible} for o in objects
        ],
    }
    if content.tree is not None:
        arrays["labels"] = content.tree.labels
        meta["tree"] = {
            "default_level": content.tree.default_level,
            "nodes": [asdict(node) for node in content.tree.nodes],
        }
    if step is not None:
        arrays["fixed"] = np.packbits(step.fixed.mask.cpu().numpy())
        meta["picks"] = [{"threshold": pick.threshold} for pick in step.picks]
        for i, pick in enumerate(step.picks):
            arrays[f"positive_{i}"] = pick.query.positive.cpu().numpy()
            arrays[f"negative_{i}"] = pick.query.negative.cpu().numpy()
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load(path: Path, field: FeatureField, weights: Tensor) -> Saved:
    """Read what :func:`save` wrote for the splat of ``field``; ``weights`` (n,) are its shares of the surface.

    Raises:
        SplatsegError: the file is missing, damaged, or of another splat.
    """
    if not path.is_file():
        raise SplatsegError(f"{path}: expected a saved session, found none")
    try:
        with np.load(regular(path), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays["meta"].tobytes().decode())
        if meta["format"] != FORMAT:
            raise SplatsegError(f"format: expected '{FORMAT}', found {meta['format']!r}")
        if meta["fingerprint"] != field.fingerprint:
            raise SplatsegError(
                f"fingerprint: expected a session of splat {field.fingerprint}, found {meta['fingerprint']}"
            )
        tree = _tree(meta, arrays, len(weights))
        return Saved(
            str(meta["when"]),
            _objects(meta, arrays, len(weights)),
            tree,
            int(meta["level"]),
            _step(meta, arrays, field, weights),
        )
    except DAMAGED as error:
        reason = (
            str(error) if isinstance(error, SplatsegError) else f"unreadable content ({type(error).__name__}: {error})"
        )
        raise SplatsegError(f"{path}: expected a whole session of this splat, found: {reason}") from None


def _objects(meta: dict[str, Any], arrays: dict[str, np.ndarray], n: int) -> tuple[SceneObject, ...]:
    counts = [int(entry["count"]) for entry in meta["objects"]]
    ids = torch.from_numpy(arrays["ids"].astype(np.int32))
    if sum(counts) != len(ids) or (len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < n)):
        raise SplatsegError(f"ids: expected {sum(counts)} Gaussians in 0..{n - 1}, found {len(ids)}")
    for entry in meta["objects"]:
        if not 0 < int(entry["id"]) < 2**31:
            raise SplatsegError("id: expected those of objects in 1..2^31 - 1, found another")
    return tuple(
        SceneObject(
            int(e["id"]), clean_name(e["name"]), check_color(tuple(e["color"])), part.clone(), bool(e["visible"])
        )
        for e, part in zip(meta["objects"], ids.split(counts), strict=True)
    )


def _tree(meta: dict[str, Any], arrays: dict[str, np.ndarray], n: int) -> LabelTree | None:
    if "tree" not in meta:
        return None
    nodes = tuple(
        LabelNode(
            int(e["id"]), int(e["parent"]), int(e["level"]), int(e["count"]), clean_name(e["name"]), tuple(e["color"])
        )
        for e in meta["tree"]["nodes"]
    )
    tree = LabelTree(arrays["labels"].astype(np.int32), nodes, int(meta["tree"]["default_level"]))
    if len(tree) != n or not 0 <= int(meta["level"]) < tree.levels:
        raise SplatsegError(
            f"labels: expected {n} Gaussians and a level of the tree, found {len(tree)} and {meta['level']}"
        )
    return tree


def _step(meta: dict[str, Any], arrays: dict[str, np.ndarray], field: FeatureField, weights: Tensor) -> Step | None:
    if "fixed" not in arrays:
        return None
    n = len(weights)
    fixed = Selection(torch.from_numpy(np.unpackbits(arrays["fixed"], count=n).astype(bool)))
    picks = []
    for i, entry in enumerate(meta["picks"]):
        query = Query(torch.from_numpy(arrays[f"positive_{i}"]), torch.from_numpy(arrays[f"negative_{i}"]))
        if query.positive.shape[1] != field.dim:
            raise SplatsegError(f"positive_{i}: expected {field.dim} channels, found {query.positive.shape[1]}")
        pick = Pick.of(field, weights, query, 0)
        threshold = float(entry["threshold"])
        level = next((k for k, proposed in enumerate(pick.levels) if proposed.threshold == threshold), None)
        picks.append(pick.at_threshold(threshold) if level is None else pick.at_level(level))
    return gather("reopened", fixed, picks, None)
