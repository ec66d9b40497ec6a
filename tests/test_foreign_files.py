"""Files that are no splats, or of another format than their name says: one line with the file, the format that it was
taken for and what was expected, exit code 2, and nothing is left behind."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from script_runner import run_script
from tiny_splat import make_splat

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.io.splats import SUFFIXES, SplatFormat, load_splat, save_splat

READ = [kind for kind in SUFFIXES if kind != "glb"]
MESH = b"ply\nformat ascii 1.0\nelement vertex 1\n%bend_header\n0 0 0\n" % b"".join(
    b"property float %b\n" % axis for axis in (b"x", b"y", b"z")
)


def a_photo() -> bytes:
    packed = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(packed, "JPEG")
    return packed.getvalue()[: packed.tell() // 32 * 32]  # as many bytes as rows of a .splat have


def an_npz() -> bytes:
    packed = io.BytesIO()
    np.savez(packed, a=np.zeros(100))
    return packed.getvalue()


FOREIGN: dict[str, bytes] = {
    "photo": a_photo(),
    "words": b"<!DOCTYPE html>\n" * 200,
    "zeros": bytes(3200),
    "noise": np.random.default_rng(1).bytes(3200),
    "npz": an_npz(),
    "mesh": MESH,
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "empty": b"",
}


@pytest.fixture
def small() -> Gaussians:
    return make_splat().gaussians


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("content", FOREIGN)
def test_what_is_no_splat_is_a_line(tmp_path: Path, content: str, kind: SplatFormat) -> None:
    """Words and zeros by the name of a .splat, which has no signature, were read as Gaussians of 1e27 units and of
    none; a mesh by the name of a .spz lacked 'f_dc_0' of no format."""
    path = tmp_path / f"a{SUFFIXES[kind]}"
    path.write_bytes(FOREIGN[content])
    for _ in range(2):
        with pytest.raises(SplatsegError) as raised:
            load_splat(path)
        told = str(raised.value)
        assert told.startswith(f"{path}: ") and "expected" in told and "found" in told and "\n" not in told
        taken_for = {"mesh": "ply: ", "npz": "sog: "}.get(content, f"{kind}: " if kind in ("splat", "ksplat") else "")
        assert taken_for in told


def test_a_splat_by_another_formats_name_is_read(tmp_path: Path, small: Gaussians) -> None:
    for kind in ("compressed-ply", "spz", "sog"):
        save_splat(tmp_path / "a", small, kind)
        for name in ("a.ply", "a.splat", "a.anything"):
            (tmp_path / name).write_bytes((tmp_path / "a").read_bytes())
            assert load_splat(tmp_path / name).format == kind


def test_sizes_from_nothing_to_planets_are_splats(tmp_path: Path, small: Gaussians) -> None:
    """What tells foreign bytes from a .splat must not refuse one: Gaussians flat in a direction, tiny, and huge."""
    for shift in (-20.0, 0.0, 20.0):
        sizes = small.log_scales + shift
        sizes[:, 2] = -200.0
        save_splat(
            tmp_path / "a.splat", Gaussians(small.means, small.quats, sizes, small.opacity_logits, small.sh), "splat"
        )
        assert len(load_splat(tmp_path / "a.splat").gaussians) == len(small)


@pytest.mark.parametrize("content", ["words", "mesh", "empty"])
@pytest.mark.parametrize("kind", READ)
def test_commands_refuse_it_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: SplatFormat, content: str
) -> None:
    path = tmp_path / f"a{SUFFIXES[kind]}"
    path.write_bytes(FOREIGN[content])
    for command in (
        ("views.py", path, "--out", tmp_path / "out"),
        ("clean.py", path, "--out", tmp_path / "out.ply"),
        ("fit.py", "--splat", path, "--out", tmp_path / "out"),
    ):
        assert run_script(*command, "--quiet") == 2
        told = capsys.readouterr().err.strip()
        assert told.startswith("error: ") and str(path) in told and "\n" not in told
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
