"""What splats of other formats say of themselves, held against their bytes before GaussForge's C++ reads them.

Its readers trust counts and pictures: a damaged file ends them by a signal, which names no field. Layouts: SPZ of
Niantic (github.com/nianticlabs/spz), ksplat of mkkellogg's GaussianSplats3D, SOG of PlayCanvas, .splat of
antimatter15's viewer.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable
from struct import Struct
from typing import Any

import numpy as np
from PIL import Image

from splatseg.core.errors import DAMAGED, SplatsegError

MOST_ROWS = 100_000_000  # more is a forged count: no machine draws as many
_HARMONICS = (0, 3, 8, 15)  # above degree 0, per channel
_SPZ = Struct("<4sIIBBBB")  # magic, version, rows, degree, fractional bits, flags, reserved
_SPZ_BYTES = {1: 6 + 10, 2: 9 + 10, 3: 9 + 11}  # version -> of a row without harmonics
_SPLAT_BYTES = 32  # of a row: place and sizes, 3 floats each, color and opacity, and rotation, 4 bytes each
_SPLAT_SIZES = 1e-12, 1e8  # units; letters read as numbers are larger
_KSPLAT_HEADER, _SECTION_HEADER = 4096, 1024
_KSPLAT = Struct("<BBxxIIIIH")  # version, room for sections, sections, room for rows, rows, compression
_SECTION = Struct("<IIIIfHxxIxxxxIIH")  # rows, most, bucket: rows, count, size, bytes; range, full, partial, degree
_KSPLAT_BYTES = {0: (44, 4), 1: (24, 2), 2: (24, 1)}  # compression -> of a row, and of a harmonic
_SOG_PICTURES = {"means": 2, "scales": 1, "quats": 1, "sh0": 1}
_SOG_TABLES = ("scales", "sh0")
_BROKEN: tuple[type[Exception], ...] = (*DAMAGED, Image.DecompressionBombError)


def check_content(content: bytes, kind: str) -> None:
    """Raise :class:`SplatsegError`, without the file's name, for a field of a splat that its bytes contradict."""
    check: Callable[[bytes], None] | None = {"spz": _spz, "ksplat": _ksplat, "sog": _sog, "splat": _splat}.get(kind)
    if check is None:
        return
    try:
        check(content)
    except SplatsegError as error:
        raise SplatsegError(f"{kind}: {error}") from None
    except DAMAGED as error:
        raise SplatsegError(f"expected a whole splat ({kind}), found: {error}") from None


def _count(name: str, value: Any) -> int:
    if type(value) is not int or not 0 < value <= MOST_ROWS:
        raise SplatsegError(f"{name}: expected 1..{MOST_ROWS}, found {str(value)[:40]}")
    return value


def _spz(content: bytes) -> None:
    if content[:2] != b"\x1f\x8b":
        return  # version 4: zstd, which GaussForge checks
    inflating = zlib.decompressobj(zlib.MAX_WBITS | 16)
    header = inflating.decompress(content, _SPZ.size)
    if len(header) < _SPZ.size:
        raise SplatsegError(f"header: expected {_SPZ.size} bytes, found {len(header)}")
    _, version, rows, degree, *_ = _SPZ.unpack(header)
    if version not in _SPZ_BYTES:
        raise SplatsegError(f"version: expected one of {', '.join(map(str, _SPZ_BYTES))}, found {version}")
    if degree >= len(_HARMONICS):
        raise SplatsegError(f"degree: expected 0..3, found {degree}")
    needed = _count("number of rows", rows) * (_SPZ_BYTES[version] + 3 * _HARMONICS[degree])
    found = 0
    while found <= needed and (piece := inflating.decompress(inflating.unconsumed_tail, 1 << 20)):
        found += len(piece)
    if found != needed or not inflating.eof:
        there = f"{found}{'' if inflating.eof else ' and no end'}"
        raise SplatsegError(f"number of rows: expected {needed} bytes for {rows} of degree {degree}, found {there}")


def _splat(content: bytes) -> None:
    """A .splat has neither header nor count: what else is named so shows by sizes that no splat has."""
    if not content or len(content) % _SPLAT_BYTES:
        raise SplatsegError(f"rows: expected {_SPLAT_BYTES} bytes each, found {len(content)} bytes")
    sizes = np.frombuffer(content, "<f4").reshape(-1, _SPLAT_BYTES // 4)[:, 3:6]
    least, most = _SPLAT_SIZES
    with np.errstate(invalid="ignore"):
        likely = ((sizes >= 0) & (sizes < most)).all(axis=1) & (sizes > least).any(axis=1)
    if 2 * likely.sum() < len(sizes):
        raise SplatsegError(
            f"sizes: expected them between {least:g} and {most:g} in most rows, found {likely.sum()} of {len(sizes)}"
        )


def _ksplat(content: bytes) -> None:
    if len(content) < _KSPLAT_HEADER + _SECTION_HEADER:
        raise SplatsegError(f"header: expected {_KSPLAT_HEADER + _SECTION_HEADER} bytes, found {len(content)}")
    _, _, sections, _, _, rows, compression = _KSPLAT.unpack_from(content)
    if compression not in _KSPLAT_BYTES:
        raise SplatsegError(f"compression: expected 0, 1 or 2, found {compression}")
    start = _KSPLAT_HEADER + sections * _SECTION_HEADER
    if not sections > 0 or start > len(content):
        raise SplatsegError(f"sections: expected 1..{len(content) // _SECTION_HEADER}, found {sections}")
    _count("number of rows", rows)
    found = 0
    for number in range(sections):
        count, size = _section(content, number, compression)
        found, start = found + count, start + size
        if start > len(content):
            raise SplatsegError(f"section {number}: expected {start} bytes for {count} rows, found {len(content)}")
    if found != rows:
        raise SplatsegError(f"number of rows: expected the {found} of its sections, found {rows}")


def _section(content: bytes, number: int, compression: int) -> tuple[int, int]:
    """Rows of a section of a ksplat, and its bytes."""
    fields = _SECTION.unpack_from(content, _KSPLAT_HEADER + number * _SECTION_HEADER)
    count, most, per_bucket, buckets, _, bucket_bytes, _, full, partial, degree = fields
    if degree > 2:
        raise SplatsegError(f"section {number}: degree: expected 0..2, found {degree}")
    if count > most:
        raise SplatsegError(f"section {number}: rows: expected at most its room for {most}, found {count}")
    if compression and (full + partial != buckets or full * per_bucket > count or buckets * per_bucket < count):
        raise SplatsegError(
            f"section {number}: buckets: expected enough for {count} rows, found {full} full and {partial} others of "
            f"{buckets} for {per_bucket} each"
        )
    row, harmonic = _KSPLAT_BYTES[compression]
    return count, most * (row + 3 * _HARMONICS[degree] * harmonic) + buckets * bucket_bytes + 4 * partial


def _sog(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        names = bundle.namelist()
        (meta,) = [name for name in names if name.rpartition("/")[2] == "meta.json"] or [""]
        if not meta:
            raise SplatsegError("meta.json: expected it in the bundle, found none")
        told = json.loads(bundle.read(meta))
        if type(told) is not dict:
            raise SplatsegError(f"meta.json: expected an object, found {str(told)[:40]}")
        rows = _count("meta.json: count", told["count"] if "count" in told else told["means"]["shape"][0])
        folder = meta.removesuffix("meta.json")
        for part, pictures in _SOG_PICTURES.items():
            files = _sog_part(told, part)["files"]
            if type(files) is not list or len(files) != pictures:
                raise SplatsegError(f"meta.json: {part}: files: expected {pictures}, found {str(files)[:80]}")
            for name in files:
                _picture(bundle, f"{folder}{name}", rows)
        if "shN" in told:
            centroids, labels = _sog_part(told, "shN")["files"]
            _picture(bundle, f"{folder}{labels}", rows)
            _picture(bundle, f"{folder}{centroids}", 1)


def _sog_part(told: dict[str, Any], part: str) -> dict[str, Any]:
    found = told.get(part)
    if type(found) is not dict or "files" not in found:
        raise SplatsegError(f"meta.json: {part}: expected its files, found {str(found)[:40]}")
    if part in _SOG_TABLES and "codebook" in found:
        table = found["codebook"]
        if type(table) is not list or len(table) != 256 or not all(type(value) in (int, float) for value in table):
            raise SplatsegError(f"meta.json: {part}: codebook: expected 256 numbers, found {str(table)[:40]}")
    return found


def _picture(bundle: zipfile.ZipFile, name: str, rows: int) -> None:
    """Decode a picture of a bundle, whose pixels are rows."""
    if name not in bundle.namelist():
        raise SplatsegError(f"{name}: expected it in the bundle, found none")
    try:
        with Image.open(io.BytesIO(bundle.read(name))) as picture:
            width, height = picture.size
            if width * height < rows or width * height > 4 * rows + (1 << 22):
                raise SplatsegError(f"{name}: expected a pixel for each of {rows} rows, found {width}x{height}")
            picture.load()
    except SplatsegError:
        raise
    except _BROKEN as error:
        raise SplatsegError(f"{name}: expected a picture, found: {error}") from None
