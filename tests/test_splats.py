"""Splats of every format: in, out, and against the formats' own tool."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree
from splat_transform import needs_splat_transform, splat_transform

from splatseg.core.errors import MissingExtraError, SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.io import splats
from splatseg.io.axes import half_turn
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.io.splats import (
    QUANTIZED,
    SUFFIXES,
    SplatFormat,
    format_by_name,
    load_splat,
    not_held,
    save_splat,
    splat_format,
)
from splatseg.ops.reference.rasterize import sh_basis

FOREIGN: tuple[SplatFormat, ...] = ("compressed-ply", "spz", "sog", "splat", "ksplat")
# Largest typical errors: positions as a share of the box, logarithms of sizes, opacities, colors' coefficients.
ERRORS = {
    "compressed-ply": (2e-3, 0.02, 0.01, 0.02),
    "spz": (2e-4, 0.04, 0.01, 0.02),
    "sog": (1e-4, 0.04, 0.01, 0.04),
    "splat": (1e-7, 1e-5, 0.01, 0.02),
    "ksplat": (1e-7, 1e-5, 0.01, 0.02),
}


def a_splat(count: int = 3000, coefficients: int = 9, seed: int = 0) -> Gaussians:
    """Gaussians as fits have them: colors and opacities within what bytes hold."""
    g = torch.Generator().manual_seed(seed)
    sh = 0.2 * torch.randn(count, coefficients, 3, generator=g)
    sh[:, 0] = 3 * torch.rand(count, 3, generator=g) - 1.5
    return Gaussians(
        means=2 * torch.rand(count, 3, generator=g) - 1,
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=1),
        log_scales=0.7 * torch.randn(count, 3, generator=g).clamp(-2, 2) - 4,
        opacity_logits=2 * torch.randn(count, generator=g),
        sh=sh,
    )


def assert_close(found: Gaussians, wanted: Gaussians, kind: str) -> None:
    """The same Gaussians in any order, up to the errors of the format; the way each is turned included."""
    assert len(found) == len(wanted)
    distance, row = cKDTree(wanted.means).query(found.means)
    assert len(np.unique(row)) == len(wanted)
    wanted = wanted.select(torch.from_numpy(row))
    position, size, opacity, color = ERRORS[kind]
    assert np.median(distance) < 2 * position
    assert float((found.log_scales - wanted.log_scales).abs().median()) < size
    assert float((found.opacities - wanted.opacities).abs().median()) < opacity
    assert float((found.sh[:, 0] - wanted.sh[:, 0]).abs().median()) < color
    quats = torch.nn.functional.normalize(found.quats, dim=1)
    assert float(1 - (quats * wanted.quats).sum(dim=1).abs().median()) < 1e-3
    if found.sh_degree:
        error = (found.sh[:, 1:] - wanted.sh[:, 1:]).norm() / wanted.sh[:, 1:].norm()
        assert float(error) < (0.75 if kind == "sog" else 0.2)  # a palette, for random ones; another order is above 1


@pytest.mark.parametrize("kind", FOREIGN)
def test_written_and_read_again_it_is_the_same_splat(tmp_path: Path, kind: SplatFormat) -> None:
    wanted = a_splat()
    path = tmp_path / f"a{SUFFIXES[kind]}"
    for _ in range(2):  # over itself, too
        save_splat(path, wanted, kind)
    read = load_splat(path)
    assert read.format == kind == format_by_name(path)
    assert_close(read.gaussians, wanted, kind)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@needs_splat_transform
@pytest.mark.parametrize("kind", FOREIGN)
def test_splat_transform_reads_what_is_written(tmp_path: Path, kind: SplatFormat) -> None:
    wanted = a_splat()
    save_splat(tmp_path / f"a{SUFFIXES[kind]}", wanted, kind)
    back = splat_transform(tmp_path / f"a{SUFFIXES[kind]}", tmp_path / "back.ply")
    assert_close(load_gaussians(back), wanted, kind)


@needs_splat_transform
@pytest.mark.parametrize("kind", ["compressed-ply", "spz", "sog"])
def test_what_splat_transform_writes_is_read(tmp_path: Path, kind: SplatFormat) -> None:
    wanted = a_splat()
    save_gaussians(tmp_path / "a.ply", wanted)
    path = splat_transform(tmp_path / "a.ply", tmp_path / f"b{SUFFIXES[kind]}")
    read = load_splat(path)
    assert read.format == kind
    assert_close(read.gaussians, wanted, kind)


@needs_splat_transform
def test_a_sog_in_a_folder_is_read_by_its_meta(tmp_path: Path) -> None:
    wanted = a_splat()
    save_gaussians(tmp_path / "a.ply", wanted)
    (tmp_path / "sog").mkdir()
    meta = splat_transform(tmp_path / "a.ply", tmp_path / "sog/meta.json")
    assert_close(load_splat(meta).gaussians, wanted, "sog")
    content = json.loads(meta.read_text())
    content["quats"]["files"] = ["../a.ply"]
    meta.write_text(json.dumps(content))
    with pytest.raises(
        SplatsegError, match=r"meta\.json: files: expected names of files beside it, found '\.\./a\.ply'"
    ):
        load_splat(meta)


@pytest.mark.parametrize("coefficients", [1, 4, 16])
@pytest.mark.parametrize("kind", ["compressed-ply", "spz", "sog", "ksplat"])
def test_every_degree_survives(tmp_path: Path, kind: SplatFormat, coefficients: int) -> None:
    wanted = a_splat(500, coefficients)
    save_splat(tmp_path / "a", wanted, kind)
    path = (tmp_path / "a").rename(tmp_path / f"a{SUFFIXES[kind]}")
    held = min(coefficients, 9) if kind == "ksplat" else coefficients
    assert load_splat(path).gaussians.sh.shape == (500, held, 3)


def niantic(splat: Gaussians, version: int) -> bytes:
    """A .spz of degree 0 of ``version`` 1 to 3, by Niantic's description: columns after a header, y up and z back."""
    splat = half_turn(splat)
    quats = splat.quats[:, [1, 2, 3, 0]] * torch.where(splat.quats[:, :1] < 0, -1.0, 1.0)  # xyzw with w >= 0
    if version == 1:
        places = splat.means.half().numpy().tobytes()
    else:
        steps = (splat.means.double() * 4096).round().to(torch.int32).numpy().astype("<i4")
        places = steps.reshape(-1, 1).view(np.uint8)[:, :3].tobytes()
    if version < 3:
        turns = (quats[:, :3] * 127.5 + 127.5).round().to(torch.uint8).numpy().tobytes()
    else:
        turns = b"".join(struct.pack("<I", smallest_three(row)) for row in splat.quats[:, [1, 2, 3, 0]].tolist())
    columns = [
        255 * splat.opacities,
        (0.15 * splat.sh[:, 0] + 0.5) * 255,
        (splat.log_scales + 10) * 16,
    ]
    rest = [column.round().clamp(0, 255).to(torch.uint8).numpy().tobytes() for column in columns]
    header = struct.pack("<4sIIBBBB", b"NGSP", version, len(splat), 0, 12, 0, 0)
    return gzip.compress(b"".join([header, places, *rest, turns]))


def smallest_three(quat: list[float]) -> int:
    """xyzw in 32 bits: the place of the largest, then sign and 9 bits of each of the others."""
    largest = max(range(4), key=lambda k: abs(quat[k]))
    packed, flip = largest, quat[largest] < 0
    for k in range(4):
        if k != largest:
            size = round(511 * abs(quat[k]) * 2**0.5)
            packed = packed << 10 | ((quat[k] < 0) != flip) << 9 | size
    return packed


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_spz_is_read(tmp_path: Path, version: int) -> None:
    """Version 4 is what splat-transform and LichtFeld write today: see what splat-transform writes."""
    wanted = a_splat(500, 1)
    (tmp_path / "a.spz").write_bytes(niantic(wanted, version))
    assert_close(load_splat(tmp_path / "a.spz").gaussians, wanted, "spz")


@needs_splat_transform
@pytest.mark.parametrize("version", [3, 4])
def test_both_versions_of_spz_that_splat_transform_writes_are_read(tmp_path: Path, version: int) -> None:
    wanted = a_splat()
    save_gaussians(tmp_path / "a.ply", wanted)
    path = splat_transform(tmp_path / "a.ply", tmp_path / "b.spz", "--spz-version", str(version))
    assert path.read_bytes()[:4] == b"NGSP" if version == 4 else path.read_bytes()[:2] == b"\x1f\x8b"
    assert_close(load_splat(path).gaussians, wanted, "spz")


def test_half_a_turn_turns_colors_with_positions() -> None:
    """What is seen from d before is seen from the turned d after; twice is the identity."""
    splat = a_splat(50, 16)
    turned = half_turn(splat)
    directions = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    before = torch.einsum("nk,nkc->nc", sh_basis(3, directions), splat.sh)
    after = torch.einsum("nk,nkc->nc", sh_basis(3, directions * torch.tensor([1.0, -1.0, -1.0])), turned.sh)
    assert torch.allclose(before, after, atol=1e-6)
    assert half_turn(turned).fingerprint() == splat.fingerprint()


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    save_splat(tmp_path / "a.spz", a_splat(100), "spz")
    assert splat_format((tmp_path / "a.spz").rename(tmp_path / "b.ply")) == "spz"
    (tmp_path / "photo.splat.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(
        SplatsegError, match=r"photo\.splat\.jpg: expected a splat \(PLY, .*found '\.jpg' that begins with"
    ):
        load_splat(tmp_path / "photo.splat.jpg")
    with pytest.raises(SplatsegError, match=r"none\.sog: expected a splat, found no such file"):
        load_splat(tmp_path / "none.sog")
    with pytest.raises(SplatsegError, match=r"expected a name that ends in \.ply, .*found 'a\.obj'"):
        format_by_name(tmp_path / "a.obj")


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("share", [0.001, 0.4, 0.97])
def test_a_cut_file_is_one_line_that_names_its_format(tmp_path: Path, kind: SplatFormat, share: float) -> None:
    path = tmp_path / f"a{SUFFIXES[kind]}"
    save_splat(path, a_splat(1001), kind)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size) // 32 * 32 + 7])
    for _ in range(2):
        with pytest.raises(SplatsegError, match=rf"a{SUFFIXES[kind]}: ({kind}: .*)?expected .*found"):
            load_splat(path)


def repacked(path: Path, name: str, content: bytes | None) -> None:
    """A member of a bundle put in the place of another, or taken out."""
    with zipfile.ZipFile(path) as bundle:
        members = {member: bundle.read(member) for member in bundle.namelist() if member != name}
    with zipfile.ZipFile(path, "w") as bundle:
        for member, data in {**members, **({} if content is None else {name: content})}.items():
            bundle.writestr(member, data)


def a_picture(width: int, height: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGBA", (width, height)).save(written, "WEBP", lossless=True)
    return written.getvalue()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sh0.webp", lambda _: None, r"sog: sh0\.webp: expected it in the bundle, found none"),
        (
            "quats.webp",
            lambda data: data[:21] + struct.pack("<I", 2**28 - 1) + data[25:],
            r"quats\.webp: expected a pict",
        ),
        ("quats.webp", lambda data: data[:90], r"sog: quats\.webp: expected a picture, found: "),
        (
            "scales.webp",
            lambda _: a_picture(5, 5),
            r"sog: scales\.webp: expected a pixel for each of 300 rows, found 5x5",
        ),
        (
            "meta.json",
            lambda data: data.replace(b'"count": 300', b'"count": 4000000000'),
            r"count: expected 1\.\.100000000",
        ),
        ("meta.json", lambda data: data.replace(b'"means_u.webp"', b'"x"'), r"sog: x: expected it in the bundle"),
        ("meta.json", lambda data: b"[1]", r"sog: meta\.json: expected an object, found \[1\]"),
    ],
)
def test_a_damaged_sog_names_its_part(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes | None], message: str
) -> None:
    """GaussForge's reader ends by a signal over these, which says nothing."""
    path = tmp_path / "a.sog"
    save_splat(path, a_splat(300), "sog")
    with zipfile.ZipFile(path) as bundle:
        content = bundle.read(name)
    assert change(content) != content
    repacked(path, name, change(content))
    for _ in range(2):
        with pytest.raises(SplatsegError, match=rf"a\.sog: .*{message}"):
            load_splat(path)


@pytest.mark.parametrize(
    ("at", "layout", "value", "message"),
    [
        (4, "<I", 7, r"version: expected one of 1, 2, 3, found 7"),
        (8, "<I", 301, r"number of rows: expected \d+ bytes for 301 of degree 2, found \d+"),
        (8, "<I", 2**32 - 1, r"number of rows: expected 1\.\.100000000, found 4294967295"),
        (12, "<B", 9, r"degree: expected 0\.\.3, found 9"),
        (12, "<B", 3, r"number of rows: expected \d+ bytes for 300 of degree 3, found \d+"),
        (None, "", 1, r"number of rows: expected \d+ bytes for 300 of degree 2, found \d+"),
    ],
)
def test_a_forged_spz_names_its_field(tmp_path: Path, at: int | None, layout: str, value: int, message: str) -> None:
    path = tmp_path / "a.spz"
    save_splat(path, a_splat(300), "spz")
    content = bytearray(gzip.decompress(path.read_bytes()))
    if at is None:
        content += bytes(300_000_000)  # a bomb of 300 kB
    else:
        struct.pack_into(layout, content, at, value)
    path.write_bytes(gzip.compress(bytes(content), 1))
    for _ in range(2):
        with pytest.raises(SplatsegError, match=rf"a\.spz: spz: {message}"):
            load_splat(path)


@pytest.mark.parametrize(
    ("at", "layout", "value", "message"),
    [
        (4, "<I", 2**31, r"sections: expected 1\.\.\d+, found 2147483648"),
        (4, "<I", 0, r"sections: expected 1\.\.\d+, found 0"),
        (16, "<I", 2**31, r"number of rows: expected 1\.\.100000000, found 2147483648"),
        (16, "<I", 299, r"number of rows: expected the 300 of its sections, found 299"),
        (20, "<H", 3, r"compression: expected 0, 1 or 2, found 3"),
        (4096, "<I", 301, r"section 0: rows: expected at most its room for 300, found 301"),
        (4100, "<I", 2**20, r"section 0: expected \d+ bytes for 300 rows, found \d+"),
        (4136, "<H", 5, r"section 0: degree: expected 0\.\.2, found 5"),
    ],
)
def test_a_forged_ksplat_names_its_field(tmp_path: Path, at: int, layout: str, value: int, message: str) -> None:
    path = tmp_path / "a.ksplat"
    save_splat(path, a_splat(300), "ksplat")
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, at, value)
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(SplatsegError, match=rf"a\.ksplat: ksplat: {message}"):
            load_splat(path)


def test_a_reader_that_does_not_end_or_gives_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.splat").write_bytes(b"\0\0\x80?" * 16)
    monkeypatch.setattr(splats, "_WORKER", tmp_path / "worker.py")
    monkeypatch.setattr(splats, "_PATIENCE", 0.3)
    for program, said in (
        ("import time; time.sleep(1000)", r"none within 0 s"),
        ("print('{}')", "the reader gave no rows"),
    ):
        (tmp_path / "worker.py").write_text(f"import sys; sys.stdin.buffer.read()\n{program}")
        monkeypatch.setattr(splats, "_PATIENCE", 0.3 if "sleep" in program else 60.0)
        with pytest.raises(SplatsegError, match=rf"a\.splat: expected a whole splat \(splat\), found.* {said}"):
            load_splat(tmp_path / "a.splat")


def test_the_reader_takes_no_more_memory_than_the_file_can_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of its own process: it is refused what it asks for, this process and the machine go on."""
    save_splat(tmp_path / "a.splat", a_splat(100_000, 1), "splat")
    assert len(load_splat(tmp_path / "a.splat").gaussians) == 100_000
    monkeypatch.setattr(splats, "_MEMORY", 1 << 20)
    monkeypatch.setattr(splats, "_MEMORY_PER_BYTE", 1)
    for _ in range(2):
        with pytest.raises(SplatsegError, match=r"a\.splat: expected a whole splat \(splat\), found: "):
            load_splat(tmp_path / "a.splat")


def test_what_another_process_has_read_is_mapped_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """plyfile takes a stream that it cannot map value by value: minutes for a million Gaussians."""
    save_splat(tmp_path / "a.spz", a_splat(100), "spz")
    monkeypatch.setattr("plyfile.PlyElement._read_bin", lambda *_: pytest.fail("value by value"))
    assert len(load_splat(tmp_path / "a.spz").gaussians) == 100


@pytest.mark.parametrize("kind", FOREIGN)
def test_flipped_bytes_end_in_a_line_or_in_a_splat(tmp_path: Path, kind: SplatFormat) -> None:
    """Never in a traceback or an abort: the reader is a process of its own."""
    path = tmp_path / f"a{SUFFIXES[kind]}"
    save_splat(path, a_splat(300), kind)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(6):
        broken = bytearray(content)
        for place in random.integers(0, min(len(content), 2000), 4):
            broken[place] = random.integers(0, 256)
        path.write_bytes(broken)
        try:
            assert len(load_splat(path).gaussians) >= 1
        except SplatsegError as error:
            assert path.name in str(error) and "\n" not in str(error)


def test_a_reader_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(splats, "_WORKER", worker)
    (tmp_path / "a.splat").write_bytes(b"\0\0\x80?" * 16)
    with pytest.raises(SplatsegError, match=r"a\.splat: .*the reader ended with SIGSEGV"):
        load_splat(tmp_path / "a.splat")


def test_without_gaussforge_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"splatseg\[formats\]"):
        save_splat(tmp_path / "a.spz", a_splat(10), "spz")
    assert not list(tmp_path.iterdir())


def test_what_spz_cannot_hold_is_refused_and_nothing_written(tmp_path: Path) -> None:
    """Its positions are fixed-point numbers: far ones would wrap around, small scenes collapse, without a word."""
    splat = a_splat(20)
    for means, log_scales in ((3000 * splat.means, splat.log_scales), (1e-3 * splat.means, splat.log_scales - 7)):
        wrong = Gaussians(means, splat.quats, log_scales, splat.opacity_logits, splat.sh)
        with pytest.raises(
            SplatsegError, match=r"a\.spz: spz: expected positions within 2048 units and Gaussians above"
        ):
            save_splat(tmp_path / "a.spz", wrong, "spz")
        save_splat(tmp_path / "a.sog", wrong, "sog")
    assert [path.name for path in tmp_path.iterdir()] == ["a.sog"]


@pytest.mark.parametrize("kind", QUANTIZED)
def test_labels_do_not_go_where_they_are_not_held(tmp_path: Path, kind: SplatFormat) -> None:
    with pytest.raises(SplatsegError, match=rf"{kind}: expected no further properties, found label"):
        save_splat(tmp_path / "a", a_splat(5), kind, {"label": np.zeros(5, np.int32)})


def test_a_glb_is_what_khronos_describes(tmp_path: Path) -> None:
    """KHR_gaussian_splatting: activated values, xyzw, y up; EXT_mesh_features: ids, and one that means none."""
    others = {"group": torch.arange(70, dtype=torch.int32), "uncertainty": torch.rand(70), "label": torch.zeros(70)}
    splat = replace(a_splat(70, 4), extra=others)
    label = np.arange(70) % 3 - 1
    save_splat(tmp_path / "a.glb", splat, "glb", {"label": label})
    content = (tmp_path / "a.glb").read_bytes()
    magic, version, size = struct.unpack("<4sII", content[:12])
    assert (magic, version, size) == (b"glTF", 2, len(content))
    head = struct.unpack("<I", content[12:16])[0]
    document, binary = json.loads(content[20 : 20 + head]), content[28 + head :]
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting", "EXT_mesh_features"]
    primitive = document["meshes"][0]["primitives"][0]

    def values(name: str) -> np.ndarray:
        accessor = document["accessors"][primitive["attributes"][name]]
        view = document["bufferViews"][accessor["bufferView"]]
        kind = {5126: np.float32, 5121: np.uint8}[accessor["componentType"]]
        data = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        return np.frombuffer(data, kind)[: accessor["count"] * {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]]

    turned = half_turn(splat)
    assert np.array_equal(values("POSITION").reshape(-1, 3), turned.means.numpy())
    assert np.allclose(values("KHR_gaussian_splatting:SCALE").reshape(-1, 3), splat.scales, rtol=1e-6)
    assert np.allclose(values("KHR_gaussian_splatting:OPACITY"), splat.opacities)
    assert np.allclose(values("KHR_gaussian_splatting:ROTATION").reshape(-1, 4)[:, 3], turned.quats[:, 0], atol=1e-6)
    assert np.array_equal(values("KHR_gaussian_splatting:SH_DEGREE_1_COEF_2").reshape(-1, 3), turned.sh[:, 3].numpy())
    (features,) = primitive["extensions"]["EXT_mesh_features"]["featureIds"]
    assert features == {"featureCount": 2, "nullFeatureId": 2, "attribute": 0, "label": "label"}
    assert np.array_equal(values("_FEATURE_ID_0"), np.where(label < 0, 2, label))
    assert np.array_equal(values("_group"), np.arange(70)) and "_label" not in primitive["attributes"]
    assert np.array_equal(values("_uncertainty"), others["uncertainty"].numpy())


def test_a_glb_tells_what_float32_does_not_hold() -> None:
    for kept, lines in ((2**24, []), (2**24 + 1, ["glb holds properties of other tools as float32: id rounded"])):
        splat = replace(a_splat(5), extra={"id": torch.full((5,), kept), "x": torch.rand(5)})
        assert not_held("glb", splat) == lines
