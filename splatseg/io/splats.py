"""Splats in the formats that people have: found out by content, read and written.

The layout of INRIA's PLY is ours (:mod:`splatseg.io.ply`); GLB too (:mod:`splatseg.io.glb`). All others go through
GaussForge (Apache-2.0, ``pip install 'splatseg[formats]'``), in a process of its own (:mod:`splatseg.io.splat_worker`),
as conversions from and to that PLY. tests/test_splats.py holds it to PlayCanvas' splat-transform, both ways. Where the
two differ, the format's own tool is right, and GaussForge 0.6.0 is put right here: it does not turn SPZ's positions,
which have y up and z back; it writes the harmonics of a compressed PLY by coefficient instead of by channel, and reads
and writes those of degree 2 of a ksplat by channel alone, where mkkellogg's code goes by degree first.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor

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
from splatseg.io.splat_checks import check_content

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
    "ksplat": "colors and opacities to 8 bits; no spherical harmonics above degree 2",
}
"""What of a splat a format does not hold as it is, for the line that an export says."""

LABEL = re.compile(r"label(_\d+)?|confidence")
"""Names of the properties that are labels of ours."""

_WORKER = Path(__file__).with_name("splat_worker.py")
_THEIRS: dict[SplatFormat, str] = {"compressed-ply": "compressed.ply"}  # GaussForge's names where they are not ours
_HEADER = 64 * 1024  # bytes in which a PLY's header ends
_MEMORY = 2 << 30  # bytes that the reader of a strange file may take, and for each byte of the file
_MEMORY_PER_BYTE = 150  # 40 of a .splat's rows of 32 bytes, which become 250 and are held some times
_PATIENCE = 120.0  # seconds that it may take, and for each megabyte
_PATIENCE_PER_MB = 10.0
_SPZ_REACH = 2048.0  # units: 24 bits, of which 12 behind the point (Niantic's format description)


@dataclass(frozen=True)
class SplatFile:
    """A splat that was read: ``gaussians``, and the ``format`` of its file."""

    gaussians: Gaussians
    format: SplatFormat


def format_by_name(path: str | Path) -> SplatFormat:
    """The format that a file to be written is to have, by its name.

    Raises:
        SplatsegError: a suffix that no format has.
    """
    name = Path(path).name.lower()
    for kind, suffix in sorted(SUFFIXES.items(), key=lambda entry: -len(entry[1])):
        if name.endswith(suffix):
            return kind
    raise SplatsegError(f"{path}: expected a name that ends in {', '.join(SUFFIXES.values())}, found '{name}'")


def beside(path: Path, suffix: str) -> Path:
    """``path`` with ``suffix`` in the place of its format's, of which ``.compressed.ply`` is more than one."""
    return path.with_name(path.name[: -len(SUFFIXES[format_by_name(path)])] + suffix)


def not_held(kind: SplatFormat, gaussians: Gaussians) -> list[str]:
    """What of ``gaussians`` a file of the format does not hold, a line each for people; labels go elsewhere and are
    not spoken of."""
    lines = [f"{kind} holds {QUANTIZED[kind]}"] if kind in QUANTIZED else []
    others = sorted(name for name in gaussians.extra if not LABEL.fullmatch(name))
    if kind == "glb":
        rounded = [name for name in others if not _is_float32(gaussians.extra[name])]
        if rounded:
            lines.append(f"glb holds properties of other tools as float32: {', '.join(rounded)} rounded")
    elif others and kind != "ply":
        lines.append(f"{kind} holds no properties of other tools: {', '.join(others)} left out")
    return lines


def _is_float32(values: Tensor) -> bool:
    """Whether float32 holds all of ``values``."""
    return torch.allclose(values.float().double(), values.double(), rtol=0, atol=0, equal_nan=True)


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
        with _telling(path, kind):
            return SplatFile(load_gaussians(path), kind)
    try:
        content = _zipped(path) if path.name.lower() == "meta.json" else read_bytes(path)
    except SplatsegError:
        raise
    except DAMAGED as error:
        raise SplatsegError(f"{path}: expected a splat ({kind}), found: {error}") from None
    with naming(path):
        check_content(content, kind)
    converted = _convert(path, content, kind, "ply", kind)
    with _telling(path, kind):
        gaussians = load_gaussians(path, converted)
    if kind == "spz":
        gaussians = half_turn(gaussians)
    if kind == "ksplat":
        gaussians = _by_degree(gaussians, reading=True)
    return SplatFile(gaussians, kind)


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
        found = ", ".join(extra)
        raise SplatsegError(f"{path}: {kind}: expected no further properties, found {found} (use ply or glb)")
    with naming(path):
        gaussians.check_finite()
    if len(gaussians) == 0:
        raise SplatsegError(f"{path}: expected at least one Gaussian to write, found none")
    if kind == "sog":
        save_sog(path, gaussians)
        return
    if kind == "compressed-ply":
        gaussians = gaussians.select(morton_order(gaussians.means))  # its precision is a share of a chunk's box
        gaussians = _by_channel(gaussians)
    if kind == "ksplat":
        gaussians = _by_degree(replace(gaussians, sh=gaussians.sh[:, :9]), reading=False)
    if kind == "spz":
        _check_reach(path, gaussians)
        gaussians = half_turn(gaussians)
    content = ply_bytes(path, replace(gaussians, extra={}))
    with atomic_write(path) as temporary:
        temporary.write_bytes(_convert(path, content, "ply", kind, kind))


@contextmanager
def _telling(path: Path, kind: SplatFormat) -> Iterator[None]:
    """Errors of the block about ``path`` with the format that it was taken for: a name may promise another."""
    try:
        yield
    except SplatsegError as error:
        told = str(error).removeprefix(f"{path}: ")
        raise SplatsegError(f"{path}: {told}" if "PLY" in told else f"{path}: {kind}: {told}") from None


def _convert(path: Path, content: bytes, source: SplatFormat, target: SplatFormat, named: SplatFormat) -> bytes:
    """``content`` of ``path`` in another format, by the worker; ``named`` is the format that a message names."""
    if importlib.util.find_spec("gaussforge") is None:
        raise require_extra("gaussforge", "formats")
    names = {"from": _THEIRS.get(source, source), "to": _THEIRS.get(target, target)}
    memory = _MEMORY + _MEMORY_PER_BYTE * len(content)
    request = json.dumps({**names, "parent": os.getpid(), "memory": memory}).encode() + b"\n"
    process = subprocess.Popen(
        [sys.executable, "-P", str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    patience = _PATIENCE + _PATIENCE_PER_MB * len(content) / 1e6
    try:
        answered, _ = process.communicate(request + content, timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise SplatsegError(f"{path}: expected a whole splat ({named}), found none within {patience:.0f} s") from None
    except BaseException:
        process.kill()
        process.wait()
        raise
    told, _, converted = answered.partition(b"\n")
    try:
        answer = json.loads(told)
    except ValueError:
        answer = {"error": f"the reader ended with {ending(process.returncode)}"}
    if "error" not in answer and not converted:
        answer = {"error": "the reader gave no rows"}
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


def _by_channel(gaussians: Gaussians) -> Gaussians:
    """Harmonics whose order by coefficient is that of ``gaussians`` by channel."""
    above = gaussians.sh[:, 1:]
    return _with_harmonics(gaussians, above.transpose(1, 2).reshape(above.shape))


def _by_degree(gaussians: Gaussians, reading: bool) -> Gaussians:
    """Harmonics whose order by channel is that of ``gaussians`` by degree, then channel; ``reading``: back again."""
    above = gaussians.sh[:, 1:]
    if above.shape[1] == 0:
        return gaussians
    count = above.shape[1]
    degrees = [range(0, 3), range(3, 8)][: gaussians.sh_degree]
    order = [channel * count + k for degree in degrees for channel in range(3) for k in degree]
    values = above.transpose(1, 2).flatten(1)  # by channel
    moved = torch.empty_like(values)
    if reading:
        moved[:, order] = values
    else:
        moved = values[:, order]
    return _with_harmonics(gaussians, moved.reshape(-1, 3, count).transpose(1, 2))


def _with_harmonics(gaussians: Gaussians, above: Tensor) -> Gaussians:
    """``gaussians`` with other harmonics above degree 0."""
    return replace(gaussians, sh=torch.cat([gaussians.sh[:, :1], above], dim=1))
