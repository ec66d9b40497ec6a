"""Splats in the formats of other tools: the campaign's doors for them, and damage that knows how each is packed."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from campaign_bases import TINY_ARGUMENTS
from campaign_doors import Door, check, check_gaussians
from campaign_mutations import BY_SUFFIX, BYTES, JSON, Damage, flip_bits

from splatseg.io.ply import load_gaussians
from splatseg.io.splats import SUFFIXES, SplatFormat, load_splat, save_splat

FORMATS: tuple[SplatFormat, ...] = ("compressed-ply", "spz", "sog", "splat", "ksplat", "glb")
MOST = 1_000_000  # rows that a case's file of some kilobytes may turn into


def build_formats(bases: Path) -> Path:
    """A splat of 40 Gaussians in each format, and SOG once more as a folder of files, in ``bases``."""
    folder = bases / "formats"
    if not folder.is_dir():
        made = folder.with_name("formats.part")
        shutil.rmtree(made, ignore_errors=True)
        splat = load_gaussians(bases / "run/run/geometry.ply").select(torch.arange(40))
        for kind in FORMATS:
            (made / kind).mkdir(parents=True)
            save_splat(made / kind / f"splat{SUFFIXES[kind]}", splat, kind)
        with zipfile.ZipFile(made / "sog/splat.sog") as archive:
            archive.extractall(made / "sog in a folder")
        made.rename(folder)
    return bases


# Damage ----------------------------------------------------------------------------------------------------------


def spz_damage(rng: Random, data: bytes) -> bytes:
    """The header's fields or the values below gzip, with right check sums; sometimes a bomb."""
    try:
        content = bytearray(gzip.decompress(data))
    except (OSError, EOFError, zlib.error):
        return flip_bits(rng, data)
    kind = rng.randrange(6)
    if kind < 3 and len(content) >= 16:  # magic, version, count: u32; degree, fractional bits, flags, reserved: u8
        at, size = rng.choice(((0, 4), (4, 4), (8, 4), (8, 4), (12, 1), (13, 1), (14, 1)))
        value = rng.choice((0, 1, 2, 3, 4, 5, 39, 41, 255, 2**16, 2**24, 2**31 - 1, 2**32 - 1))
        content[at : at + size] = struct.pack("<I", value)[:size]
    elif kind == 3:
        content += bytes(rng.choice((1, 1000, 200_000_000)))
    else:
        content = bytearray(rng.choice(BYTES)(rng, bytes(content)))
    return gzip.compress(bytes(content), 1)


def sog_damage(rng: Random, data: bytes) -> bytes:
    """The JSON, a picture or the names of a bundle, with right check sums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error):
        return flip_bits(rng, data)
    at, kind = rng.randrange(len(members)), rng.randrange(8)
    name, content = members[at]
    if kind == 0:
        del members[at]
    elif kind == 1:
        members[at] = rng.choice((f"x{name}", f"../{name}", f"/{name}", "")), content
    elif kind == 2:
        members[at] = name, rng.choice(members)[1]
    elif kind < 6:
        at = next((k for k, (name, _) in enumerate(members) if name == "meta.json"), at)
        members[at] = members[at][0], sog_meta(rng, members[at][1])
    else:
        members[at] = name, webp_damage(rng, content)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name or "x"), content)
    return written.getvalue()


def sog_meta(rng: Random, data: bytes) -> bytes:
    """A count that is too large, or anything that JSON can suffer."""
    if rng.random() < 0.3:
        try:
            content = json.loads(data)
            content["count"] = rng.choice((0, -1, 39, 41, 10**6, 10**9, 2**31, 2**32 + 1, 2**63, 1e400, "40"))
            return json.dumps(content).encode()
        except (ValueError, TypeError):
            pass
    return rng.choice(JSON)(rng, data)


def webp_damage(rng: Random, data: bytes) -> bytes:
    """The sizes of a lossless picture, or any bytes of it."""
    if rng.random() < 0.4 and data[12:16] == b"VP8L":
        bits = rng.choice((0, 1, 16383 | 16383 << 14, 2**28 - 1, 6 | 6 << 14, 16383))
        return data[:21] + struct.pack("<I", bits) + data[25:]
    return rng.choice(BYTES)(rng, data)


def ksplat_damage(rng: Random, data: bytes) -> bytes:
    """A number of the file's header (4096 bytes) or of its first section's (1024)."""
    at = rng.choice((0, 1, 4, 8, 12, 16, 20, *range(4096, 4096 + 44, 4)))
    value = rng.choice((0, 1, 2, 3, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1))
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


PACKED: dict[str, list[Damage]] = {
    ".spz": [spz_damage, spz_damage, spz_damage, *BYTES],
    ".sog": [sog_damage, sog_damage, sog_damage, *BYTES],
    ".webp": [webp_damage, webp_damage, *BYTES],
    ".ksplat": [ksplat_damage, ksplat_damage, *BYTES],
}
BY_SUFFIX.update(PACKED)


# Doors -----------------------------------------------------------------------------------------------------------


def _name(kind: str) -> str:
    return "meta.json" if kind == "sog in a folder" else f"splat{SUFFIXES[kind]}"  # type: ignore[index]


def _opened(kind: str) -> Callable[[Path, Path], None]:
    def open_format(case: Path, bases: Path) -> None:
        gaussians = load_splat(case / _name(kind)).gaussians
        check(len(gaussians) < MOST, f"splat: {len(gaussians)} rows of a small file")
        check_gaussians(gaussians)

    return open_format


def _command(kind: str) -> Callable[[Path, Path], list[str]]:
    def views(case: Path, bases: Path) -> list[str]:
        capture = ["fit.py", str(bases / "capture"), "--splat", str(case / _name(kind))]
        return [*capture, "--out", str(case / "cache"), *TINY_ARGUMENTS]

    return views


FORMAT_DOORS: dict[str, Door] = {
    kind: Door(f"formats/{kind}", ("*",), _opened(kind), 1, (), _command(kind))
    for kind in (*FORMATS, "sog in a folder")
}
