"""Meshes as binary glTF 2.0 files, for viser's GLB nodes: its only ones that may be invisible and leave no depth."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

FLOAT, UINT32 = 5126, 5125  # component types
ARRAY, ELEMENTS = 34962, 34963  # targets
UNLIT = "KHR_materials_unlit"
MAGIC, JSON_CHUNK, BIN_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942


def invisible_mesh(positions: NDArray[np.float32], faces: NDArray[np.uint32]) -> bytes:
    """A file of one mesh: nothing of it is drawn and it leaves no depth, but a pointer finds it from both sides.

    Args:
        positions: (v, 3), finite.
        faces: (f, 3) corners, counterclockwise as seen from the front.
    """
    data = [np.ascontiguousarray(faces, np.uint32), *(np.ascontiguousarray(a, np.float32) for a in (positions,))]
    offsets = np.cumsum([0, *(a.nbytes for a in data)]).tolist()
    views = [
        {"buffer": 0, "byteOffset": offset, "byteLength": a.nbytes, "target": ELEMENTS if number == 0 else ARRAY}
        for number, (offset, a) in enumerate(zip(offsets, data, strict=False))
    ]
    low, high = positions.min(0).tolist(), positions.max(0).tolist()
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 1}, "indices": 0, "material": 0}]}],
        # Below the cutoff every pixel is discarded, depth and all; a transparent one would hide what is behind it.
        "materials": [
            {
                "alphaMode": "MASK",
                "doubleSided": True,
                "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 0]},
                "extensions": {UNLIT: {}},
            }
        ],
        "extensionsUsed": [UNLIT],
        "accessors": [
            {"bufferView": 0, "componentType": UINT32, "count": 3 * len(faces), "type": "SCALAR"},
            {"bufferView": 1, "componentType": FLOAT, "count": len(positions), "type": "VEC3", "min": low, "max": high},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": offsets[-1]}],
    }
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body = b"".join(a.tobytes() for a in data)
    parts = [np.array([MAGIC, 2, 12 + 8 + len(text) + 8 + len(body)], "<u4").tobytes()]
    parts += [np.array([len(text), JSON_CHUNK], "<u4").tobytes(), text]
    parts += [np.array([len(body), BIN_CHUNK], "<u4").tobytes(), body]
    return b"".join(parts)
