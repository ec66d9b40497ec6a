"""PLY in and out: bitwise round trip, the layout viewers rely on, foreign exports, and precise errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement
from tiny_splat import random_gaussians

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.io.ply import load_extra, load_gaussians, save_gaussians


def write_ply(
    path: Path,
    columns: dict[str, np.ndarray],
    text: bool = False,
    byte_order: str = "<",
    comments: tuple[str, ...] = (),
) -> Path:
    records = np.empty(len(next(iter(columns.values()))), [(name, c.dtype.str) for name, c in columns.items()])
    for name, column in columns.items():
        records[name] = column
    element = PlyElement.describe(records, "vertex")
    PlyData([element], text=text, byte_order=byte_order, comments=list(comments)).write(str(path))
    return path


def columns_of(path: Path) -> dict[str, np.ndarray]:
    data = PlyData.read(str(path))["vertex"].data
    return {name: data[name].copy() for name in data.dtype.names}


def assert_equal(a: Gaussians, b: Gaussians) -> None:
    for name, tensor in a.tensors().items():
        other = b.tensors()[name]
        assert tensor.shape == other.shape and tensor.dtype == other.dtype, name
        assert np.array_equal(tensor.numpy().view(np.uint32), other.numpy().view(np.uint32)), name


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_save_then_load_is_the_identity_bit_by_bit(tmp_path: Path, coefficients: int) -> None:
    # 10,001 rows: more than one block of the blockwise copy, and not a multiple of it; -0.0 and a denormal survive.
    g = random_gaussians(10_001, coefficients)
    g.means[0] = torch.tensor([-0.0, 1e-42, 3e38])
    save_gaussians(tmp_path / "a.ply", g)
    loaded = load_gaussians(tmp_path / "a.ply")
    assert_equal(g, loaded)
    assert g.fingerprint() == loaded.fingerprint()


def test_layout_is_inria_order_channel_major_with_extras_last(tmp_path: Path) -> None:
    g = random_gaussians(5)
    extra = {"label": np.arange(5, dtype=np.int64) - 1, "label_0": np.arange(5, dtype=np.uint16)}
    save_gaussians(tmp_path / "a.ply", g, extra)
    header = (tmp_path / "a.ply").read_bytes().split(b"end_header")[0].decode()
    assert "format binary_little_endian 1.0" in header
    columns = columns_of(tmp_path / "a.ply")
    expected = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    expected += [f"f_rest_{i}" for i in range(45)]
    expected += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3", "label", "label_0"]
    assert list(columns) == expected
    assert all(columns[name].dtype == np.float32 for name in expected[:62])
    assert np.array_equal(
        columns["f_rest_15"], g.sh[:, 1, 1].numpy()
    )  # the first green coefficient follows 15 red ones
    assert np.array_equal(columns["rot_0"], g.quats[:, 0].numpy())
    assert columns["label"].dtype == np.int32 and columns["label_0"].dtype == np.uint16
    assert {k: v.tolist() for k, v in load_extra(tmp_path / "a.ply").items()} == {
        "label": [-1, 0, 1, 2, 3],
        "label_0": [0, 1, 2, 3, 4],
    }
    assert_equal(g, load_gaussians(tmp_path / "a.ply"))


@pytest.mark.parametrize("variant", ["shuffled", "double", "ascii", "big endian", "no normals, uchar rgb"])
def test_other_writers_files_load_to_the_same_values(tmp_path: Path, variant: str) -> None:
    g = random_gaussians(7, coefficients=4)
    save_gaussians(tmp_path / "a.ply", g)
    columns = columns_of(tmp_path / "a.ply")
    if variant == "shuffled":
        columns = {name: columns[name] for name in np.random.default_rng(0).permutation(list(columns))}
    if variant == "double":
        columns = {name: column.astype(np.float64) for name, column in columns.items()}
    if variant == "no normals, uchar rgb":
        columns = {name: c for name, c in columns.items() if name not in ("nx", "ny", "nz")}
        columns["red"] = np.zeros(7, np.uint8)
    order = ">" if variant == "big endian" else "<"
    path = write_ply(tmp_path / "b.ply", columns, text=variant == "ascii", byte_order=order)
    loaded = load_gaussians(path)
    if variant == "ascii":  # plyfile prints 9 significant digits or fewer: equal to a relative 1e-6
        assert torch.allclose(loaded.sh, g.sh, rtol=1e-6)
    else:
        assert_equal(g, loaded)


PLACE, NORMAL, BASE = ["x", "y", "z"], ["nx", "ny", "nz"], ["f_dc_0", "f_dc_1", "f_dc_2"]
REST, SIZE, TURN = [f"f_rest_{i}" for i in range(45)], ["scale_0", "scale_1", "scale_2"], [f"rot_{i}" for i in range(4)]
# As the tools' exporters write them: properties in order, comments. Brush sorts its properties as words.
TOOLS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "INRIA, LichtFeld": ([*PLACE, *NORMAL, *BASE, *REST, "opacity", *SIZE, *TURN], ()),
    "nerfstudio": (
        [*PLACE, *NORMAL, *BASE, *REST, "opacity", *SIZE, *TURN],
        ("Generated by Nerstudio 1.1.5", "Vertical Axis: z"),
    ),
    "Brush": (
        [*BASE, *sorted(REST), "opacity", *TURN, *SIZE, *PLACE],
        ("Exported from Brush", "Vertical axis: y", "SH degree: 3", "SplatRenderMode: default"),
    ),
    "SuperSplat": ([*PLACE, *BASE, "opacity", *SIZE, *TURN, *REST], ("Generated by SuperSplat 2.7.1",)),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_exports_of_the_tools_are_read(tmp_path: Path, tool: str) -> None:
    g = random_gaussians(11)
    save_gaussians(tmp_path / "a.ply", g)
    columns, (order, comments) = columns_of(tmp_path / "a.ply"), TOOLS[tool]
    path = write_ply(tmp_path / "b.ply", {name: columns[name] for name in order}, comments=comments)
    loaded = load_gaussians(path)
    assert_equal(g, loaded)
    save_gaussians(tmp_path / "c.ply", loaded)
    assert_equal(g, load_gaussians(tmp_path / "c.ply"))


def test_gsplats_own_exporter_is_read_back(tmp_path: Path) -> None:
    gsplat = pytest.importorskip("gsplat")
    g = random_gaussians(20)
    gsplat.export_splats(
        means=g.means, scales=g.log_scales, quats=g.quats, opacities=g.opacity_logits,
        sh0=g.sh[:, :1], shN=g.sh[:, 1:], format="ply", save_to=str(tmp_path / "g.ply"),
    )  # fmt: skip
    assert_equal(g, load_gaussians(tmp_path / "g.ply"))


def test_an_older_file_is_kept_when_saving_fails(tmp_path: Path) -> None:
    save_gaussians(tmp_path / "a.ply", random_gaussians(3))
    before = (tmp_path / "a.ply").read_bytes()
    bad = random_gaussians(3)
    bad.log_scales[1, 2] = float("nan")
    with pytest.raises(SplatsegError, match=r"a\.ply: log_scales: .* nan at index \(1, 2\)"):
        save_gaussians(tmp_path / "a.ply", bad)
    assert (tmp_path / "a.ply").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


@pytest.mark.parametrize("name", ["y", "f_dc_1", "opacity", "scale_2", "rot_3", "f_rest_4"])
def test_missing_property_is_named(tmp_path: Path, name: str) -> None:
    save_gaussians(tmp_path / "a.ply", random_gaussians(4))
    columns = columns_of(tmp_path / "a.ply")
    del columns[name]
    with pytest.raises(SplatsegError, match=rf"b\.ply: property {name}: expected, found missing"):
        load_gaussians(write_ply(tmp_path / "b.ply", columns))


@pytest.mark.parametrize(("name", "value"), [("z", np.nan), ("opacity", np.nan), ("f_rest_44", -np.inf)])
def test_non_finite_property_is_named_with_its_first_row(tmp_path: Path, name: str, value: float) -> None:
    save_gaussians(tmp_path / "a.ply", random_gaussians(9000))
    columns = columns_of(tmp_path / "a.ply")
    columns[name][8500:] = value  # in the second block of the blockwise copy
    with pytest.raises(SplatsegError, match=rf"property {name}: expected finite values, found {value} at row 8500"):
        load_gaussians(write_ply(tmp_path / "b.ply", columns))


def test_zero_quaternion_is_refused(tmp_path: Path) -> None:
    save_gaussians(tmp_path / "a.ply", random_gaussians(4))
    columns = columns_of(tmp_path / "a.ply")
    for i in range(4):
        columns[f"rot_{i}"][2] = 0
    with pytest.raises(SplatsegError, match=r"rot_0\.\.3: expected a quaternion, found all zeros at row 2"):
        load_gaussians(write_ply(tmp_path / "b.ply", columns))


@pytest.mark.parametrize("keep", [0, 2, 100, 1600, -1])
def test_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    save_gaussians(tmp_path / "a.ply", random_gaussians(4))
    (tmp_path / "a.ply").write_bytes((tmp_path / "a.ply").read_bytes()[:keep])
    with pytest.raises(SplatsegError, match=r"a\.ply: expected a") as caught:
        load_gaussians(tmp_path / "a.ply")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(64), b"ply\nformat nonsense\n", b"\xff" * 200])
def test_other_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(SplatsegError, match=r"a\.ply: expected a"):
        load_gaussians(tmp_path / "a.ply")


def test_missing_file_folder_empty_list_and_point_cloud_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SplatsegError, match=r"none\.ply: expected a PLY file, found nothing"):
        load_gaussians(tmp_path / "none.ply")
    with pytest.raises(SplatsegError, match="found a folder"):
        load_gaussians(tmp_path)
    with pytest.raises(SplatsegError, match=r"none\.ply: expected at least one Gaussian to write"):
        save_gaussians(tmp_path / "none.ply", random_gaussians(4).select(torch.zeros(4, dtype=torch.bool)))
    save_gaussians(tmp_path / "a.ply", random_gaussians(4))
    write_ply(tmp_path / "empty.ply", {name: c[:0] for name, c in columns_of(tmp_path / "a.ply").items()})
    with pytest.raises(SplatsegError, match="empty vertex list"):
        load_gaussians(tmp_path / "empty.ply")
    points = {name: np.zeros(3, np.float32) for name in "xyz"}
    with pytest.raises(SplatsegError, match="property f_dc_0: expected, found missing"):
        load_gaussians(write_ply(tmp_path / "points.ply", points))


def test_compressed_ply_is_told_from_the_layout(tmp_path: Path) -> None:
    columns = {name: np.zeros(3, np.uint32) for name in ("packed_position", "packed_rotation", "packed_color")}
    with pytest.raises(SplatsegError, match="found a compressed PLY"):
        load_gaussians(write_ply(tmp_path / "a.ply", columns))


def test_partial_spherical_harmonic_degree_is_refused(tmp_path: Path) -> None:
    save_gaussians(tmp_path / "a.ply", random_gaussians(4, coefficients=4))
    columns = columns_of(tmp_path / "a.ply")
    del columns["f_rest_8"]
    with pytest.raises(SplatsegError, match="expected 0, 9, 24 or 45 properties, found 8"):
        load_gaussians(write_ply(tmp_path / "b.ply", columns))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"label": np.zeros(3, np.int32)}, r"label: expected shape \(4,\), found \(3,\)"),
        ({"label": np.zeros(4, bool)}, "label: expected integers or floats, found bool"),
        ({"label": np.full(4, 2**40)}, "label: expected 32-bit values"),
        ({"opacity": np.zeros(4, np.int32)}, "'opacity': expected a new name"),
        ({"my label": np.zeros(4, np.int32)}, "'my label': expected a new name"),
    ],
)
def test_bad_extra_property_is_named(tmp_path: Path, extra: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(SplatsegError, match=message):
        save_gaussians(tmp_path / "a.ply", random_gaussians(4), extra)
    assert not list(tmp_path.iterdir())


def test_properties_of_others_stay_with_their_gaussians(tmp_path: Path) -> None:
    """They were dropped: whoever kept something of his own in a splat lost it with the first export."""
    gaussians = random_gaussians(6)
    own = {"weight": np.linspace(0, 1, 6), "zone": np.arange(6, dtype=np.uint8)}
    save_gaussians(tmp_path / "a.ply", gaussians, own)
    read = load_gaussians(tmp_path / "a.ply")
    assert read.fingerprint() == gaussians.fingerprint()
    save_gaussians(tmp_path / "b.ply", read.select(torch.tensor([4, 1])), {"label": np.array([7, 8])})
    again = load_gaussians(tmp_path / "b.ply")
    assert list(again.extra) == ["weight", "zone", "label"]
    assert again.extra["weight"].tolist() == own["weight"][[4, 1]].tolist()
    assert again.extra["zone"].tolist() == [4, 1] and again.extra["zone"].dtype == torch.uint8


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_opacity_of_exactly_one_or_zero_is_read_as_almost_that(tmp_path: Path, value: float) -> None:
    """Converters from formats with bytes write infinite logits, which were refused."""
    save_gaussians(tmp_path / "a.ply", random_gaussians(3))
    columns = columns_of(tmp_path / "a.ply")
    columns["opacity"][1] = value
    opacities = load_gaussians(write_ply(tmp_path / "b.ply", columns)).opacities
    assert bool(opacities.isfinite().all()) and abs(float(opacities[1]) - (value > 0)) < 1e-6
