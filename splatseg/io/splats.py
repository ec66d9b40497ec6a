"""Splats in the formats that people have: found out by content, read and written.

The layout of INRIA's PLY is ours (:mod:`splatseg.io.ply`); GLB too (:mod:`splatseg.io.glb`). All others go through
GaussForge (Apache-2.0, ``pip install 'splatseg[formats]'``), in a process of its own (:mod:`splatseg.io.splat_worker`),
as conversions from and to that PLY. tests/test_splats.py holds it to PlayCanvas' splat-transform, both ways. Where the
two differ, the format's own tool is right: SPZ stores positions with y up and z back, which GaussForge does not turn.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from splatseg.core.atomic import atomic_write
from splatseg.core.errors import DAMAGED, SplatsegError, naming, require_extra
from splatseg.core.gaussians import Gaussians
from splatseg.core.morton import morton_order
from splatseg.core.reading import read_bytes, read_json
from splatseg.io.axes import half_turn
from splatseg.io.glb import save_glb
from splatseg.io.names import safe_name
from splatseg.io.ply import load_gaussians, ply_bytes, save_gaussians
from splatseg.io.process import ending
from splatseg.io.sog import save_sog

SplatFormat = Literal["ply", "compressed-ply", "spz", "sog", "splat", "ksplat", "glb"]
SUFFIXES: dict[SplatFormat, str] = {
    "ply": ".ply",
    "compressed-ply": ".compressed.ply",
    "spz": ".spz",
    "sog": ".sog",
    "splat": ".splat",
    "ksplat": ".ksplat",
    "glb": ".glb",
}
QUANTIZED: dict[SplatFormat, str] = {
    "compressed-ply": "11 bits per coordinate of a chunk of 256, 8 bits per color and opacity; rows re-ordered",
    "spz": "positions to 1/4096 unit, colors, opacities and scales to 8 bits",
    "sog": "positions to 16 bits, all else to tables of 256 values; rows re-ordered",
    "splat": "colors, opacities and rotations to 8 bits; no spherical harmonics",
    "ksplat": "colors and opacities to 8 bits",
}
"""What of a splat a format does not hold as it is, for the line that an export says."""

_WORKER = Path(__file__).with_name("splat_worker.py")
_THEIRS: dict[SplatFormat, str] = {"compressed-ply": "compressed.ply"}  # GaussForge's names where they are not ours
_HEADER = 64 * 1024  # bytes in which a PLY's header ends
_SPZ_REACH = 2048.0  # units: 24 bits, of which 12 behind the point (Niantic's format description)


@dataclass(frozen=True)
class SplatFile:
    """A splat that was read: ``gaussians``, and the ``format`` of its file."""

    gaussians: Gaussians
    format: SplatFormat


def splat_format(path: str | Path) -> SplatFormat:
    """The format of a splat's file: by what it begins with; ``.splat`` and ``.ksplat``, which say nothing, by name.

    Raises:
        SplatsegError: no such file, or no splat of a format that is known.
    """
    path = Path(path)
    try:
        with open(_existing(path), "rb") as file:
            start = file.read(_HEADER)
    except OSError as error:
        raise SplatsegError(f"{path}: expected a splat, found: {error.strerror or error}") from None
    if start[:4] in (b"ply\n", b"ply\r"):
        return "compressed-ply" if b" packed_position" in start.partition(b"end_header")[0] else "ply"
    if start[:4] == b"NGSP" or (start[:2] == b"\x1f\x8b" and _inflated(start)[:4] == b"NGSP"):
        return "spz"
    if start[:4] == b"PK\x03\x04" or path.name.lower() == "meta.json":
        return "sog"
    by_name: dict[str, SplatFormat] = {".splat": "splat", ".ksplat": "ksplat"}
    if path.suffix.lower() in by_name:
        return by_name[path.suffix.lower()]
    known = "PLY, compressed PLY, SPZ, SOG (or its meta.json), .splat or .ksplat"
    found = "an empty file" if not start else f"'{path.suffix or path.name}' that begins with {start[:8]!r}"
    raise SplatsegError(f"{path}: expected a splat ({known}), found {found}")


def load_splat(path: str | Path) -> SplatFile:
    """Read a splat of any format of :data:`SplatFormat` but GLB.

    Returns:
        n Gaussians on the CPU, float32, in the axes that INRIA's PLY has (x right, y down, z forward of COLMAP), and
        the format they were in.

    Raises:
        SplatsegError: no such file, an unknown format, a broken file; the message names the format that was taken.
        MissingExtraError: GaussForge is not installed.
    """
    path = Path(path)
    kind = splat_format(path)
    if kind == "ply":
        return SplatFile(load_gaussians(path), kind)
    try:
        content = _zipped(path) if path.name.lower() == "meta.json" else read_bytes(path)
    except SplatsegError:
        raise
    except DAMAGED as error:
        raise SplatsegError(f"{path}: expected a splat ({kind}), found: {error}") from None
    gaussians = load_gaussians(path, _convert(path, content, kind, "ply", kind))
    return SplatFile(half_turn(gaussians) if kind == "spz" else gaussians, kind)


def save_splat(
    path: str | Path,
    gaussians: Gaussians,
    kind: SplatFormat = "ply",
    extra: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Write a splat in the format ``kind``, whole or not at all. PLY and GLB hold all values as they are, and
    ``extra``, (n,) numbers each; the others hold what :data:`QUANTIZED` says, and nothing
    beside the standard properties.

    Raises:
        SplatsegError: nothing to write, values that the format cannot hold, an ``extra`` that it cannot, or no room.
        MissingExtraError: GaussForge is not installed.
    """
    path = Path(path)
    if kind not in get_args(SplatFormat):
        raise SplatsegError(f"format: expected one of {', '.join(get_args(SplatFormat))}, found '{kind}'")
    if kind == "ply":
        save_gaussians(path, gaussians, extra)
        return
    if kind == "glb":
        save_glb(path, gaussians, extra)
        return
    if extra:
        raise SplatsegError(
            f"{path}: {kind} holds no further properties, found {', '.join(extra)}; write a PLY or a GLB"
        )
    with naming(path):
        gaussians.check_finite()
    if len(gaussians) == 0:
        raise SplatsegError(f"{path}: expected at least one Gaussian to write, found none")
    if kind == "sog":
        save_sog(path, gaussians)
        return
    if kind == "compressed-ply":
        gaussians = gaussians.select(morton_order(gaussians.means))  # its precision is a share of a chunk's box
    if kind == "spz":
        _check_reach(path, gaussians)
        gaussians = half_turn(gaussians)
    content = ply_bytes(path, replace(gaussians, extra={}))
    with atomic_write(path) as temporary:
        temporary.write_bytes(_convert(path, content, "ply", kind, kind))


def _convert(path: Path, content: bytes, source: SplatFormat, target: SplatFormat, named: SplatFormat) -> bytes:
    """``content`` of ``path`` in another format, by the worker; ``named`` is the format that a message names."""
    if importlib.util.find_spec("gaussforge") is None:
        raise require_extra("gaussforge", "formats")
    names = {"from": _THEIRS.get(source, source), "to": _THEIRS.get(target, target)}
    request = json.dumps({**names, "parent": os.getpid()}).encode() + b"\n"
    process = subprocess.Popen(
        [sys.executable, "-P", str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        answered, _ = process.communicate(request + content)
    except BaseException:
        process.kill()
        process.wait()
        raise
    told, _, converted = answered.partition(b"\n")
    try:
        answer = json.loads(told)
    except ValueError:
        answer = {"error": f"the reader ended with {ending(process.returncode)}"}
    if "error" in answer:
        raise SplatsegError(f"{path}: expected a whole splat ({named}), found: {answer['error']}")
    return converted


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise SplatsegError(f"{path}: expected a splat, found {'a folder' if path.is_dir() else 'no such file'}")
    return path


def _inflated(start: bytes) -> bytes:
    """The first bytes of what gzip packed, as far as ``start`` goes."""
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(start)).read(4)
    except DAMAGED:
        return b""


def _zipped(meta: Path) -> bytes:
    """A SOG that lies in a folder as the one file that its tool bundles it to."""
    content = read_json(meta)
    files = [name for part in content.values() if isinstance(part, dict) for name in part.get("files", ())]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as bundle:
        bundle.writestr("meta.json", json.dumps(content))
        for name in files:
            if safe_name(name) != name or "/" in name:
                raise SplatsegError(f"{meta}: files: expected names of files beside it, found '{name}'")
            bundle.writestr(name, read_bytes(meta.with_name(name)))
    return packed.getvalue()


def _check_reach(path: Path, gaussians: Gaussians) -> None:
    """SPZ's positions are fixed-point numbers: what is beyond them would be wrapped, what is below them lost."""
    farthest = float(gaussians.means.abs().max()) if len(gaussians) else 0.0
    typical = float(gaussians.log_scales.median().exp()) if len(gaussians) else 1.0
    if farthest >= _SPZ_REACH or typical < 1 / 4096:
        raise SplatsegError(
            f"{path}: spz: expected positions within 2048 units and Gaussians above 1/4096 unit, found {farthest:.4g} "
            f"and {typical:.2g}; scale the scene, or write sog, compressed-ply or ply"
        )
