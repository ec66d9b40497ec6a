"""Meshes as binary glTF 2.0 files, for viser's GLB nodes: its only ones that may be invisible and leave no depth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splatseg.io.glb import ARRAY_BUFFER, FLOAT, frame

UNSIGNED_INT, ELEMENT_ARRAY_BUFFER = 5125, 34963  # glTF 2.0, section 5
UNLIT = "KHR_materials_unlit"


def invisible_mesh(positions: NDArray[np.float32], faces: NDArray[np.uint32]) -> bytes:
    """A file of one mesh: nothing of it is drawn and it leaves no depth, but a pointer finds it from both sides.

    Args:
        positions: (v, 3), finite.
        faces: (f, 3) corners, counterclockwise as seen from the front.
    """
    indices, corners = faces.astype("<u4").tobytes(), positions.astype("<f4").tobytes()
    size = len(indices) + len(corners)
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
            {"bufferView": 0, "componentType": UNSIGNED_INT, "count": 3 * len(faces), "type": "SCALAR"},
            {"bufferView": 1, "componentType": FLOAT, "count": len(positions), "type": "VEC3", "min": low, "max": high},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": len(indices), "target": ELEMENT_ARRAY_BUFFER},
            {"buffer": 0, "byteOffset": len(indices), "byteLength": len(corners), "target": ARRAY_BUFFER},
        ],
        "buffers": [{"byteLength": size}],
    }
    return frame(tree, size) + indices + corners
