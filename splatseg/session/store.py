"""Sessions as files: one ``.npz`` that holds the objects, the label tree and the selection of one splat.

Entries: ``meta`` (JSON in UTF-8 bytes), ``ids`` (all objects' Gaussians after one another), ``labels`` (n, K),
``fixed`` (bits of the fixed part of the selection), and ``positive_i`` / ``negative_i`` (features of the i-th pick).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatseg.core.atomic import atomic_write
from splatseg.core.errors import DAMAGED, SplatsegError, check_dims, check_finite, naming
from splatseg.core.field import FeatureField
from splatseg.core.label_tree import LabelTree, TreeOutline
from splatseg.core.palette import color_from_json
from splatseg.core.reading import read_npz
from splatseg.core.selection import Selection
from splatseg.segment.clicks import Query
from splatseg.session.copies import Placement
from splatseg.session.shared import Change, Color, Content, SceneObject, check_color, clean_name
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
        "objects": [_object_json(entry) for entry in objects],
    }
    if content.tree is not None:
        arrays["labels"] = content.tree.labels
        meta["tree"] = content.tree.outline().to_json()
    if step is not None:
        arrays["fixed"] = np.packbits(step.fixed.mask.cpu().numpy())
        meta["picks"] = [{"threshold": pick.threshold} for pick in step.picks]
        for i, pick in enumerate(step.picks):
            arrays[f"positive_{i}"] = pick.query.positive.cpu().numpy()
            arrays[f"negative_{i}"] = pick.query.negative.cpu().numpy()
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _object_json(entry: SceneObject) -> dict[str, Any]:
    fields = {"id": entry.id, "name": entry.name, "color": entry.color, "count": len(entry), "visible": entry.visible}
    return fields if entry.placement is None else fields | {"placement": entry.placement.to_json()}


def load(path: Path, field: FeatureField, weights: Tensor) -> Saved:
    """Read what :func:`save` wrote for the splat of ``field``; ``weights`` (n,) are its shares of the surface.

    Raises:
        SplatsegError: the file is missing, damaged, or of another splat.
    """
    if not path.is_file():
        raise SplatsegError(f"{path}: expected a saved session, found none")
    try:
        written = _read(path)
    except DAMAGED as error:
        raise SplatsegError(
            f"{path}: expected a whole session of this splat, found: unreadable content "
            f"({type(error).__name__}: {error})"
        ) from None
    with naming(f"{path}: expected a whole session of this splat, found"):
        if written.format != FORMAT:
            raise SplatsegError(f"format: expected '{FORMAT}', found {written.format!r}")
        if written.fingerprint != field.fingerprint:
            raise SplatsegError(
                f"fingerprint: expected a session of splat {field.fingerprint}, found {written.fingerprint}"
            )
        tree = _tree(written, len(weights))
        step = _step(written, field, weights)
        return Saved(written.when, _objects(written, len(weights)), tree, written.level, step)


@dataclass(frozen=True, eq=False)
class _Written:
    """What the file says, converted: objects without their Gaussians, which are ``ids`` after one another."""

    format: str
    fingerprint: str
    when: str
    level: int
    objects: list[_WrittenObject]
    ids: NDArray[np.int32]
    outline: TreeOutline | None
    labels: NDArray[np.int32]
    fixed: NDArray[np.uint8] | None
    picks: list[tuple[float, NDArray[np.float32], NDArray[np.float32]]]


@dataclass(frozen=True)
class _WrittenObject:
    id: int
    name: str
    color: Color
    count: int
    visible: bool
    placement: Placement | None


def _read(path: Path) -> _Written:
    """The fields of the file, of the right types; raises what :data:`DAMAGED` lists."""
    arrays = read_npz(path)
    meta = json.loads(arrays["meta"].tobytes().decode())
    tree, none = meta.get("tree"), np.zeros((0, 0), np.int32)
    picks = []
    for i, entry in enumerate(meta["picks"] if "fixed" in arrays else ()):
        positive, negative = (arrays[f"{sign}_{i}"].astype(np.float32) for sign in ("positive", "negative"))
        picks.append((float(entry["threshold"]), positive, negative))
    return _Written(
        str(meta["format"]),
        str(meta["fingerprint"]),
        str(meta["when"]),
        int(meta["level"]),
        [
            _WrittenObject(
                int(e["id"]),
                str(e["name"]),
                color_from_json(e["color"]),
                int(e["count"]),
                bool(e["visible"]),
                Placement.from_json(e["placement"]) if "placement" in e else None,
            )
            for e in meta["objects"]
        ],
        arrays["ids"].astype(np.int32),
        None if tree is None else TreeOutline.from_json(tree),
        none if tree is None else arrays["labels"].astype(np.int32),
        arrays["fixed"].astype(np.uint8) if "fixed" in arrays else None,
        picks,
    )


def _objects(written: _Written, n: int) -> tuple[SceneObject, ...]:
    counts, ids = [entry.count for entry in written.objects], torch.from_numpy(written.ids)
    shaped = ids.ndim == 1 and min(counts, default=0) >= 0 and sum(counts) == len(ids)
    if not shaped or (len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < n)):
        raise SplatsegError(f"ids: expected {sum(counts)} Gaussians in 0..{n - 1}, found {tuple(ids.shape)} of others")
    if any(len(part.unique()) != len(part) for part in ids.split(counts)):
        raise SplatsegError("ids: expected each Gaussian of an object once, found one twice")
    if not all(0 < entry.id < 2**31 for entry in written.objects):
        raise SplatsegError("id: expected those of objects in 1..2^31 - 1, found another")
    return tuple(
        SceneObject(e.id, clean_name(e.name), check_color(e.color), part.clone(), e.visible, e.placement)
        for e, part in zip(written.objects, ids.split(counts), strict=True)
    )


def _tree(written: _Written, n: int) -> LabelTree | None:
    if written.outline is None:
        return None
    nodes = tuple(replace(node, name=clean_name(node.name)) for node in written.outline.nodes)
    tree = LabelTree(written.labels, nodes, written.outline.default_level)
    if len(tree) != n or not 0 <= written.level < tree.levels:
        raise SplatsegError(
            f"labels: expected {n} Gaussians and a level of the tree, found {len(tree)} and {written.level}"
        )
    return tree


def _step(written: _Written, field: FeatureField, weights: Tensor) -> Step | None:
    if written.fixed is None:
        return None
    n = len(weights)
    if written.fixed.shape != ((n + 7) // 8,):
        raise SplatsegError(f"fixed: expected the bits of {n} Gaussians, found shape {written.fixed.shape}")
    fixed = Selection(torch.from_numpy(np.unpackbits(written.fixed, count=n).astype(bool)))
    picks = []
    for i, (threshold, positive, negative) in enumerate(written.picks):
        query = Query(_features(f"positive_{i}", positive, field, 1), _features(f"negative_{i}", negative, field, 0))
        pick = Pick.of(field, weights, query, 0)
        level = next((k for k, proposed in enumerate(pick.levels) if proposed.threshold == threshold), None)
        picks.append(pick.at_threshold(threshold) if level is None else pick.at_level(level))
    return gather("reopened", fixed, picks, None)


def _features(name: str, values: NDArray[np.float32], field: FeatureField, least: int) -> Tensor:
    """(p, d) features of a pick, p at least ``least``."""
    features = torch.from_numpy(values)
    check_dims(name, features, ("p", field.dim))
    check_finite(name, features)
    if len(features) < least:
        raise SplatsegError(f"{name}: expected the features of a click, found none")
    return features
