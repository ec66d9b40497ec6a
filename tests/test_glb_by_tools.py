"""GLBs of ours held against splat-transform's, which writes KHR_gaussian_splatting too: the same accessors with the
same values, up to where each puts its front."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_transform import needs_splat_transform, splat_transform

from splatseg.core.gaussians import Gaussians
from splatseg.io.ply import save_gaussians
from splatseg.io.splats import save_splat

SPLAT = "KHR_gaussian_splatting"
ABOUT_Y = np.array([-1, 1, -1], np.float32)  # half a turn: splat-transform turns a PLY about z, we about x


def read_glb(path: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Attributes, (n, c) float each, and the extensions of a GLB's one primitive."""
    content = path.read_bytes()
    (head,) = struct.unpack("<I", content[12:16])
    document, binary = json.loads(content[20 : 20 + head]), content[28 + head :]
    (mesh,) = document["meshes"]
    (primitive,) = mesh["primitives"]
    assert primitive["mode"] == 0 and document["asset"]["version"] == "2.0"
    attributes = {}
    for name, number in primitive["attributes"].items():
        accessor = document["accessors"][number]
        view = document["bufferViews"][accessor["bufferView"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        kind = {5126: np.dtype("<f4"), 5121: np.dtype("u1")}[accessor["componentType"]]
        assert view.get("byteStride", width * kind.itemsize) == width * kind.itemsize
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        values = np.frombuffer(binary, kind, accessor["count"] * width, start).reshape(-1, width).astype(np.float32)
        attributes[name] = values / 255 if accessor.get("normalized") else values
    return attributes, primitive["extensions"]


def a_splat(degree: int) -> Gaussians:
    g = torch.Generator().manual_seed(degree)
    return Gaussians(
        means=torch.randn(50, 3, generator=g),
        quats=torch.nn.functional.normalize(torch.randn(50, 4, generator=g), dim=1),  # theirs are written as they are
        log_scales=torch.randn(50, 3, generator=g) - 3,
        opacity_logits=torch.randn(50, generator=g),
        sh=0.3 * torch.randn(50, (degree + 1) ** 2, 3, generator=g),
    )


def covariances(attributes: dict[str, np.ndarray]) -> np.ndarray:
    """(n, 3, 3), as the extension composes them."""
    x, y, z, w = attributes[f"{SPLAT}:ROTATION"].astype(np.float64).T
    turns = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    scaled = turns * attributes[f"{SPLAT}:SCALE"][:, None]
    return scaled @ scaled.transpose(0, 2, 1)


@needs_splat_transform
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_values_are_those_of_another_writer(tmp_path: Path, degree: int) -> None:
    splat = a_splat(degree)
    save_gaussians(tmp_path / "a.ply", splat)
    labels = {"label": np.arange(50, dtype=np.int32) % 4}
    save_splat(tmp_path / "ours.glb", splat, "glb", labels)
    ours, extensions = read_glb(tmp_path / "ours.glb")
    theirs, wanted = read_glb(splat_transform(tmp_path / "a.ply", tmp_path / "theirs.glb"))
    assert {**extensions, "EXT_mesh_features": None} == {**wanted, "EXT_mesh_features": None}
    assert set(ours) - {"_FEATURE_ID_0"} == set(theirs)
    np.testing.assert_allclose(ours["POSITION"] * ABOUT_Y, theirs["POSITION"], rtol=1e-6)
    np.testing.assert_allclose(ours["COLOR_0"], theirs["COLOR_0"], atol=1.01 / 255)
    for name in (f"{SPLAT}:SCALE", f"{SPLAT}:OPACITY", f"{SPLAT}:SH_DEGREE_0_COEF_0"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-7)
    turn = np.diag(ABOUT_Y.astype(np.float64))
    np.testing.assert_allclose(turn @ covariances(ours) @ turn, covariances(theirs), rtol=1e-4, atol=1e-8)
    for name in ours:
        if "SH_DEGREE_" in name:  # a half turn about an axis gives a coefficient its sign, alike for all Gaussians
            sign = np.sign(ours[name][:, 0] * theirs[name][:, 0])
            assert (sign == sign[0]).all()
            np.testing.assert_allclose(ours[name] * sign[:, None], theirs[name], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(ours["_FEATURE_ID_0"][:, 0], labels["label"])
