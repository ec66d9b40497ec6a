"""Damage to files, as people and disks do it and as somebody hostile would: bytes, numbers, lines, JSON, zips, places.

Every function is one of its random generator alone, so that a case of the campaign is known by its number.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

EXTREMES = ["0", "-1", "1", "2147483647", "-2147483648", "4294967296", "9223372036854775807", "9223372036854775808"]
EXTREMES += ["nan", "inf", "-inf", "1e308", "-1e308", "1e39", "1e-320", "1e400", "0x10", "1_0", "", "word", "٣"]
HOSTILE = [
    "/abs/photo.png",
    "../photo.png",
    "a/../../photo.png",
    "..",
    ".",
    "a//b.png",
    "a/",
    r"..\photo.png",
    "~/x.png",
]
HOSTILE += [
    r"C:\photo.png",
    ".hidden.png",
    "line\nbreak.png",
    "x" * 300 + ".png",
    "nul\0.png",
    " ",
    "\ud800.png",
    "-rf",
]
HOSTILE += [
    "/dev/null",
    "/proc/self/mem",
    "$(touch outside).png",
    "\x1b[31mred.png",
    "e\u0301.png",
    "con.png",
    "%s%n.png",
]
PACKED = [struct.pack("<i", value) for value in (0, -1, 1, 2**31 - 1, -(2**31))]
PACKED += [struct.pack("<q", value) for value in (0, -1, 2**31, 2**32, 2**40, 2**63 - 1, -(2**63))]
PACKED += [struct.pack("<d", value) for value in (float("nan"), float("inf"), -1.0, 1e308, 1e39, 5e-324, 0.0)]
PACKED += [struct.pack("<f", value) for value in (float("nan"), float("inf"), -1.0, 3e38, 0.0)]
_NUMBER = re.compile(rb"-?\d+\.?\d*(?:[eE][-+]?\d+)?")
Damage = Callable[[Random, bytes], bytes]


# Bytes -----------------------------------------------------------------------------------------------------------


def _place(rng: Random, data: bytes) -> int:
    """A position; every other one near the beginning, where headers and counts are."""
    return rng.randrange(min(len(data), 200) if rng.random() < 0.5 else len(data)) if data else 0


def flip_bits(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def extend(rng: Random, data: bytes) -> bytes:
    return data + rng.choice((b"\0" * rng.randint(1, 100), rng.randbytes(rng.randint(1, 100)), data, b"\n", b"{}"))


def duplicate_block(rng: Random, data: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + data[start : start + rng.randint(1, 200)] + data[start:]


def delete_block(rng: Random, data: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + data[start + rng.randint(1, 100) :]


def overwrite_number(rng: Random, data: bytes) -> bytes:
    """An extreme value where a binary field may be."""
    start = _place(rng, data) // 4 * 4 + rng.choice((0, 0, 1))
    value = rng.choice(PACKED)
    return data[:start] + value + data[start + len(value) :]


def overwrite_block(rng: Random, data: bytes) -> bytes:
    start, size = _place(rng, data), rng.randint(1, 64)
    fill = rng.choice((b"\0" * size, b"\xff" * size, rng.randbytes(size)))
    return data[:start] + fill + data[start + size :]


def empty(rng: Random, data: bytes) -> bytes:
    return rng.choice((b"", b"\0", b"\n", b" "))


def garbage(rng: Random, data: bytes) -> bytes:
    return rng.randbytes(rng.choice((1, 8, 100, 5000)))


BYTES: list[Damage] = [flip_bits, flip_bits, truncate, truncate, extend, duplicate_block, delete_block]
BYTES += [overwrite_number, overwrite_number, overwrite_block, empty, garbage]


# Text ------------------------------------------------------------------------------------------------------------


def extreme_number(rng: Random, data: bytes) -> bytes:
    """A number of the text becomes another."""
    found = list(_NUMBER.finditer(data))
    if not found:
        return data + b"1e400"
    at = rng.choice(found)
    return data[: at.start()] + rng.choice(EXTREMES).encode() + data[at.end() :]


def line_damage(rng: Random, data: bytes) -> bytes:
    """Lines lost, twice, in another order, joined, or without ends."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        del lines[at : at + rng.randint(1, 3)]
    elif kind == 1:
        lines.insert(at, rng.choice(lines))
    elif kind == 2:
        rng.shuffle(lines)
    elif kind == 3:
        lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
    elif kind == 4:
        return data.replace(b"\n", rng.choice((b"", b"\r", b"\r\n", b"\n\n", b" ", b"\x0b")))
    else:
        words = lines[at].split(b" ")
        words.insert(rng.randrange(len(words) + 1), rng.choice(EXTREMES).encode())
        lines[at] = b" ".join(words)
    return b"\n".join(lines)


def recoded(rng: Random, data: bytes) -> bytes:
    """The same text in another encoding, or with bytes that are none."""
    text = data.decode("utf-8", "replace")
    kind = rng.choice(("utf-16", "utf-8-sig", "utf-32", "bad", "latin", "nul"))
    if kind == "bad":
        at = _place(rng, data)
        return data[:at] + rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80")) + data[at:]
    if kind == "latin":
        return text.replace("e", "\xe9").encode("latin-1", "replace")
    if kind == "nul":
        return data.replace(rng.choice((b" ", b"0", b"\n")), b"\0", rng.randint(1, 3))
    return text.encode(kind)


def hostile_word(rng: Random, data: bytes) -> bytes:
    """A word with letters (a name, a keyword) becomes a hostile name."""
    found = list(re.finditer(rb"[A-Za-z][\w./-]*", data))
    if not found:
        return data
    at = rng.choice(found)
    return data[: at.start()] + rng.choice(HOSTILE).encode("utf-8", "replace") + data[at.end() :]


TEXT: list[Damage] = [extreme_number, extreme_number, extreme_number, line_damage, line_damage, recoded, hostile_word]


# JSON ------------------------------------------------------------------------------------------------------------


class _Raw:
    """Text to stand in the JSON as it is."""

    marks = {  # noqa: RUF012
        "@@deep@@": "[" * 100_000 + "]" * 100_000,
        "@@deep object@@": '{"a":' * 50_000 + "1" + "}" * 50_000,
        "@@long list@@": "[" + "0," * 200_000 + "0]",
        "@@long number@@": "9" * 5000,
        "@@large number@@": "9" * 400,
        "@@large float@@": "1e400",
    }


def _json_value(rng: Random) -> Any:
    numbers = [0, -1, 1, 0.5, 2**31 - 1, 2**31, 2**63, -(2**63) - 1, 10**30, 1e308, 1e39, float("nan"), float("inf")]
    others: list[Any] = [
        None,
        True,
        False,
        "",
        "word",
        "1",
        [],
        {},
        [0],
        [[]],
        {"a": 1},
        [None],
        "x" * 10_000,
        [1, "a"],
    ]
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(numbers)
    if kind == 1:
        return rng.choice(others)
    return rng.choice(HOSTILE) if kind == 2 else rng.choice(list(_Raw.marks))


def _nodes(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in ``value`` but itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, below in items for path in ((*at, key), *_nodes(below, (*at, key)))]


def edit_json(rng: Random, content: Any) -> Any:
    """One value replaced, taken out, given twice, wrapped, or under another key; or the whole replaced."""
    paths = _nodes(content)
    if not paths or rng.random() < 0.05:
        return _json_value(rng)
    depth = rng.choice(sorted({len(path) for path in paths}))  # else all would be in the longest list
    path = rng.choice([path for path in paths if len(path) == depth])
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    key, kind = path[-1], rng.randrange(8)
    if kind < 4:
        parent[key] = _json_value(rng)
    elif kind == 4:
        del parent[key]
    elif kind == 5:
        parent[key] = [parent[key]]
    elif kind == 6 and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), parent[key])
    elif isinstance(parent, dict):
        parent[rng.choice((f"{key}_", key.upper(), ""))] = parent.pop(key)
    else:
        parent[key] = rng.choice(parent)
    return content


def json_damage(rng: Random, data: bytes) -> bytes:
    try:
        content = edit_json(rng, json.loads(data))
    except (ValueError, RecursionError):
        return extreme_number(rng, data)
    text = json.dumps(content)
    for mark, raw in _Raw.marks.items():
        text = text.replace(f'"{mark}"', raw)
    return text.encode("utf-8", "surrogatepass")


JSON: list[Damage] = [json_damage, json_damage, json_damage, json_damage, *TEXT]


# Containers ------------------------------------------------------------------------------------------------------


def npy(rng: Random, data: bytes) -> bytes:
    """The header of a .npy with another type, shape or order, or damage to its values."""
    length = struct.unpack("<H", data[8:10])[0]
    header, body = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    kind = rng.randrange(4)
    if kind == 0:
        types = ["<f8", "<f4", "<i8", "|b1", "<U9", "|O", "<c16", ">i4", "|S3", "<M8[s]", "|u1", "<f2", "garbage", ""]
        header = re.sub(r"'descr': '[^']*'", f"'descr': '{rng.choice(types)}'", header)
    elif kind == 1:
        shapes = ["()", "(0,)", "(-1,)", "(1,)", "(1099511627776,)", "(3, 5)", "(0, 0)", "(1, 1, 1)", "(2147483648, 4)"]
        shapes += ["'a'", "(" + "1," * 70 + ")", "(18446744073709551616,)", "(1.5,)", "(True,)"]
        header = re.sub(r"'shape': \([^)]*\)", f"'shape': {rng.choice(shapes)}", header)
    elif kind == 2:
        header = header.replace("'fortran_order': False", rng.choice(("'fortran_order': True", "'x': 1", "")))
    else:
        body = rng.choice(BYTES)(rng, body)
    encoded = header.encode("latin-1")
    return data[:8] + struct.pack("<H", min(len(encoded), 65535)) + encoded + body


def zip_damage(rng: Random, data: bytes) -> bytes:
    """One member of a zip (npz) gone, renamed, twice or damaged, with check sums that are right."""
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
        members[at] = rng.choice((f"x{name}", "../outside.npy", "/outside.npy", name.removesuffix(".npy"))), content
    elif kind == 2:
        members[at] = name, rng.choice(members)[1]
    elif name == "meta.npy":
        start = content.index(b"{", content.index(b"\n"))
        body = rng.choice(JSON)(rng, content[start:])
        header = content[10:start].decode("latin-1")
        header = re.sub(r"'shape': \(\d+,\)", f"'shape': ({len(body)},)", header)
        members[at] = name, content[:8] + struct.pack("<H", len(header)) + header.encode("latin-1") + body
    else:
        members[at] = name, npy(rng, content) if content[:6] == b"\x93NUMPY" else rng.choice(BYTES)(rng, content)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return written.getvalue()


ZIP: list[Damage] = [zip_damage, zip_damage, zip_damage]


@functools.cache
def _bomb() -> bytes:
    """A megabyte that inflates to 80."""
    return zlib.compress(b"a" * 80_000_000, 1)


def png_damage(rng: Random, data: bytes) -> bytes:
    """One chunk changed or added with a right check sum: sizes, depths, kinds, bombs."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if data[:8] != b"\x89PNG\r\n\x1a\n" or not chunks or len(chunks[0][1]) != 13:
        return flip_bits(rng, data)
    kind = rng.randrange(6)
    if kind < 3:
        fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        field = rng.choice((0, 0, 1, 1, 2, 3, 4, 5, 6))
        fields[field] = rng.choice((0, 1, 7, 40, 3000, 12_000, 2**31 - 1) if field < 2 else (0, 1, 2, 3, 4, 6, 8, 16))
        chunks[0] = b"IHDR", struct.pack(">IIBBBBB", *fields)
    elif kind == 3:
        chunks.insert(1, (b"zTXt", b"k\0\0" + _bomb()[: rng.choice((50, 10**9))]))
    elif kind == 4:
        extra = rng.choice((b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"IDAT", b"IEND"))
        chunks.insert(rng.randrange(1, len(chunks) + 1), (extra, rng.randbytes(rng.choice((0, 1, 6, 26, 300)))))
    else:
        number = rng.randrange(len(chunks))
        chunks[number] = chunks[number][0], rng.choice(BYTES)(rng, chunks[number][1])
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return data[:8] + b"".join(parts)


def safetensors_damage(rng: Random, data: bytes) -> bytes:
    """The header's JSON changed, its length right; sometimes the length wrong."""
    length = struct.unpack("<Q", data[:8])[0]
    header = rng.choice(JSON)(rng, data[8 : 8 + length])
    said = rng.choice((len(header), len(header), len(header), 0, 2**40, 2**63))
    return struct.pack("<Q", said) + header + data[8 + length :]


def ply_damage(rng: Random, data: bytes) -> bytes:
    """The header's lines, or the values behind it."""
    end = data.find(b"end_header\n") + len(b"end_header\n")
    header, body = data[:end], data[end:]
    kind = rng.randrange(5)
    if kind == 0:
        swaps = [(b"float", b"double"), (b"float", b"uchar"), (b"property float", b"property list uchar float")]
        swaps += [(b"binary_little_endian", b"binary_big_endian"), (b"binary_little_endian", b"ascii")]
        swaps += [(b"element vertex", b"element face 3\nelement vertex"), (b"vertex", b"point"), (b"1.0", b"2.0")]
        return header.replace(*rng.choice(swaps), rng.choice((1, -1))) + body
    if kind == 1:
        count = rng.choice(EXTREMES).encode()
        return re.sub(rb"(element vertex )\d+", rb"\g<1>" + count, header) + body
    if kind == 2:
        return rng.choice(TEXT)(rng, header) + body
    return header + rng.choice([overwrite_number, overwrite_number, *BYTES])(rng, body)


# Places ----------------------------------------------------------------------------------------------------------


def displace(rng: Random, path: Path, others: list[Path]) -> str:
    """Something else in the place of the file: another file, none, a folder, a pipe, a link."""
    kind = rng.choice(("gone", "gone", "swapped", "swapped", "swapped", "folder", "pipe", "dangling", "loop"))
    data = rng.choice(others).read_bytes()
    path.unlink()
    if kind == "swapped":
        path.write_bytes(data)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    return kind


BY_SUFFIX: dict[str, list[Damage]] = {
    ".txt": [*TEXT, *TEXT, *BYTES],
    ".csv": [*TEXT, *BYTES],
    ".yaml": [*TEXT, *TEXT, *BYTES],
    ".jsonl": [*TEXT, *BYTES],
    ".json": [*JSON, *JSON, *JSON, *BYTES],
    ".npz": [*ZIP, *ZIP, *ZIP, *BYTES],
    ".pt": [*ZIP, *BYTES, *BYTES],
    ".npy": [npy, npy, npy, npy, *BYTES],
    ".png": [png_damage, png_damage, png_damage, png_damage, *BYTES],
    ".safetensors": [safetensors_damage, safetensors_damage, safetensors_damage, *BYTES],
    ".ply": [ply_damage, ply_damage, ply_damage, ply_damage, *BYTES],
}


def mutate(rng: Random, path: Path, others: list[Path]) -> str:
    """Damage the file at ``path`` (``others``: files that may take its place); returns what was done."""
    if rng.random() < 0.08:
        return displace(rng, path, others)
    done = []
    data = path.read_bytes()
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        damage = rng.choice(BY_SUFFIX.get(path.suffix, BYTES))
        try:
            data = damage(rng, data)
        except (struct.error, ValueError, IndexError):  # what was done before left nothing to take apart
            damage = garbage
            data = garbage(rng, data)
        done.append(damage.__name__)
    path.write_bytes(data)
    return "+".join(done)
