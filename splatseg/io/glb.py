"""Splats as GLB: glTF 2.0 with Khronos' ``KHR_gaussian_splatting`` (ratified), labels as feature ids of Cesium's
``EXT_mesh_features``. Readers that know neither see a cloud of colored points."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from splatseg.core.atomic import atomic_write
from splatseg.core.errors import SplatsegError, naming
from splatseg.core.gaussians import Gaussians
from splatseg.io.axes import half_turn

_SPLAT = "KHR_gaussian_splatting"
_FEATURES = "EXT_mesh_features"
FLOAT, _UNSIGNED_BYTE, ARRAY_BUFFER, _POINTS = 5126, 5121, 34962, 0  # glTF 2.0, section 5
_KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_LARGEST_ID = 2**24  # of the whole numbers that float32 counts; glTF has no 32-bit integers for attributes
_SRGB = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display", "sortingMethod": "cameraDistance"}


class _Buffer:
    """Attributes one after the other, and the glTF entries that describe them."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, values: NDArray[Any], bounds: bool = False) -> int:
        """Append (n,) or (n, c) float32 or normalized uint8 values; the number of their accessor."""
        data = np.ascontiguousarray(values).tobytes()
        data += bytes(-len(data) % 4)
        self.views.append(
            {"buffer": 0, "byteOffset": self.size, "byteLength": len(data), "target": ARRAY_BUFFER},
        )
        accessor = {
            "bufferView": len(self.views) - 1,
            "componentType": _UNSIGNED_BYTE if values.dtype == np.uint8 else FLOAT,
            "count": len(values),
            "type": _KINDS[values[0].size],
        }
        if values.dtype == np.uint8:
            accessor["normalized"] = True
        if bounds:  # which glTF asks for with positions
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        self.accessors.append(accessor)
        self.parts.append(data)
        self.size += len(data)
        return len(self.accessors) - 1


def save_glb(path: str | Path, gaussians: Gaussians, extra: Mapping[str, NDArray[Any]] | None = None) -> None:
    """Write a splat to ``path``, whole or not at all, turned to glTF's axes (y up); an offset moves its node.

    Args:
        path: the file.
        gaussians: n Gaussians; their own further properties become float32 attributes, ``_NAME`` each, as glTF has it
            for what is an application's own.
        extra: (n,) integers from -1 (none) each, such as ``label``: one set of feature ids each, labeled by its name;
            in the place of a further property of that name.

    Raises:
        SplatsegError: no Gaussians, non-finite values, ids that glTF cannot hold, or no room to write.
    """
    path = Path(path)
    if len(gaussians) == 0:
        raise SplatsegError(f"{path}: expected at least one Gaussian to write, found none")
    with naming(path):
        gaussians.check_finite()
    g = half_turn(gaussians.detach().to("cpu"))
    buffer = _Buffer()
    attributes = _attributes(buffer, g)
    features = []
    for number, (name, values) in enumerate((extra or {}).items()):
        ids, described = _feature_ids(path, name, np.asarray(values), len(g))
        attributes[f"_FEATURE_ID_{number}"] = buffer.add(ids)
        features.append({**described, "attribute": number, "label": name})
    for name, kept in g.extra.items():
        if name not in (extra or {}) and f"_{name}" not in attributes:
            attributes[f"_{name}"] = buffer.add(kept.numpy().astype(np.float32))
    extensions: dict[str, Any] = {_SPLAT: {**_SRGB, "projection": "perspective"}}
    if features:
        extensions[_FEATURES] = {"featureIds": features}
    node = {"mesh": 0, "translation": list(g.offset)} if any(g.offset) else {"mesh": 0}
    content = {
        "asset": {"version": "2.0", "generator": "splatseg"},
        "extensionsUsed": list(extensions),
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [node],
        "meshes": [{"primitives": [{"attributes": attributes, "mode": _POINTS, "extensions": extensions}]}],
        "buffers": [{"byteLength": buffer.size}],
        "bufferViews": buffer.views,
        "accessors": buffer.accessors,
    }
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(frame(content, buffer.size))
        file.writelines(buffer.parts)


def _attributes(buffer: _Buffer, g: Gaussians) -> dict[str, int]:
    """Everything that the extension stores, activated: attribute -> accessor."""
    color = np.concatenate([g.base_colors.numpy(), g.opacities[:, None].numpy()], axis=1)
    attributes = {
        "POSITION": buffer.add(g.means.numpy(), bounds=True),
        "COLOR_0": buffer.add((255 * color).round().astype(np.uint8)),
        f"{_SPLAT}:ROTATION": buffer.add(F.normalize(g.quats, dim=1)[:, [1, 2, 3, 0]].numpy()),
        f"{_SPLAT}:SCALE": buffer.add(g.scales.numpy()),
        f"{_SPLAT}:OPACITY": buffer.add(g.opacities.numpy()),
    }
    for k in range(g.sh.shape[1]):
        degree = int(k**0.5)
        attributes[f"{_SPLAT}:SH_DEGREE_{degree}_COEF_{k - degree**2}"] = buffer.add(g.sh[:, k].numpy())
    return attributes


def _feature_ids(path: Path, name: str, values: NDArray[Any], count: int) -> tuple[NDArray[np.float32], dict[str, int]]:
    """Ids as glTF holds them, and how many there are; what has none (-1) gets one that is declared to be none."""
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise SplatsegError(f"{path}: {name}: expected ({count},) integers, found {values.dtype} {values.shape}")
    if values.min() < -1 or values.max() >= _LARGEST_ID:
        raise SplatsegError(f"{path}: {name}: expected ids in -1..2^24-1, found {values.min()}..{values.max()}")
    none = int(values.max()) + 1
    described = {"featureCount": len(np.unique(values[values >= 0]))}
    if (values < 0).any():
        described["nullFeatureId"] = none
    return np.where(values < 0, none, values).astype(np.float32), described


def frame(tree: Mapping[str, Any], size: int) -> bytes:
    """What stands before the ``size`` bytes of its buffer, a multiple of 4, in a GLB (glTF 2.0, section 4.4)."""
    head = json.dumps(tree, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 4)
    start = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(head) + 8 + size)
    return start + struct.pack("<I4s", len(head), b"JSON") + head + struct.pack("<I4s", size, b"BIN\0")
