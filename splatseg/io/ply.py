"""Splats as PLY files in the layout of the INRIA 3DGS code, which gsplat, nerfstudio and every viewer share.

Properties in order: x y z, nx ny nz (zeros), f_dc_0..2, f_rest_* (channel-major: all of red, then green, then blue),
opacity, scale_0..2, rot_0..3 (wxyz); all float32, little endian, stored (not activated) values. Properties that are not
of the layout are kept as they are and written after it. Other formats: :mod:`splatseg.io.splats`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement, PlyParseError
from torch import Tensor

from splatseg.core.atomic import atomic_write
from splatseg.core.errors import DAMAGED, SplatsegError, naming
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import Report
from splatseg.core.reading import read_bytes, regular

_MEANS = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")
_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
_REQUIRED = (*_MEANS, *_DC, "opacity", *_SCALES, *_QUATS)
_REST = re.compile(r"f_rest_(\d+)")
_COEFFICIENTS = {0: 1, 9: 4, 24: 9, 45: 16}  # number of f_rest properties -> coefficients per channel
OFFSET_COMMENT = "splatseg offset "  # x y z, float64: add them to positions to come to the capture's frame
_COMMENT = re.compile(rb"^(?:comment|obj_info)\b[^\r\n]*", re.MULTILINE)
_FILTER = "filter_3D"
_ROWS = 8192  # rows copied at once: 2 MB of records, so that the column-wise copies stay in the cache
_WRITTEN = 16 * _ROWS  # rows written between two reports
_CODES = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")  # what PLY holds
_OPAQUE = 16.0  # logit of an opacity that float32 does not tell from 1 after rendering
_LARGEST = 88.7  # a stored scale from which on its exponential is infinite in float32


def _float_properties(coefficients: int) -> tuple[str, ...]:
    rest = tuple(f"f_rest_{i}" for i in range(3 * (coefficients - 1)))
    return (*_MEANS, *_NORMALS, *_DC, *rest, "opacity", *_SCALES, *_QUATS)


def read_ply(path: Path, content: bytes | None = None) -> PlyData:
    """plyfile's reading of a file, or of its ``content``, with header comments in any encoding; its exceptions."""
    try:
        return PlyData.read(str(regular(path))) if content is None else _read_mapped(content)
    except UnicodeDecodeError:
        # plyfile takes the whole header for ASCII; other bytes are legal in what people write, not in names.
        content = read_bytes(path) if content is None else content
        end = content.index(b"end_header")
        return _read_mapped(_COMMENT.sub(_ascii, content[:end]) + content[end:])


def _read_mapped(content: bytes) -> PlyData:
    """Through a file without a name: from a stream that it cannot map plyfile takes value by value, a minute for
    200,000 Gaussians."""
    with os.fdopen(os.memfd_create("ply"), "w+b") if hasattr(os, "memfd_create") else TemporaryFile() as nameless:
        nameless.write(content)
        nameless.seek(0)
        return PlyData.read(nameless)


def _ascii(line: re.Match[bytes]) -> bytes:
    return re.sub(rb"[^\x00-\x7f]", b"?", line[0])


def _read_vertices(path: Path) -> NDArray[np.void]:
    """The vertex records of a PLY file, one structured row each."""
    return _read(path)[0]


def _read(path: Path, content: bytes | None = None) -> tuple[NDArray[np.void], list[str]]:
    """The vertex records of a PLY file, one structured row each, and its comments."""
    if content is None and not path.is_file():
        raise SplatsegError(f"{path}: expected a PLY file, found {'a folder' if path.is_dir() else 'nothing'}")
    try:
        ply = read_ply(path, content)
    except PlyParseError as error:
        raise SplatsegError(f"{path}: expected a whole PLY file, found: {error}") from None
    except DAMAGED as error:
        raise SplatsegError(f"{path}: expected a PLY file, found unreadable data ({error})") from None
    names = [element.name for element in ply.elements]
    if "vertex" not in names:
        raise SplatsegError(f"{path}: expected a PLY element 'vertex', found {', '.join(names) or 'none'}")
    vertices: NDArray[np.void] = ply["vertex"].data
    if "packed_position" in (vertices.dtype.names or ()):
        raise SplatsegError(f"{path}: expected the uncompressed INRIA layout, found a compressed PLY (packed_position)")
    if len(vertices) == 0:
        raise SplatsegError(f"{path}: expected at least one Gaussian, found an empty vertex list")
    return vertices, [*ply.comments, *ply["vertex"].comments]


def _offset(path: Path, comments: list[str]) -> tuple[float, float, float]:
    """What :data:`OFFSET_COMMENT` says, zeros where there is none."""
    for comment in comments:
        if comment.startswith(OFFSET_COMMENT):
            try:
                x, y, z = (float(word) for word in comment.removeprefix(OFFSET_COMMENT).split())
            except ValueError:
                x = y = z = float("nan")
            if not all(map(math.isfinite, (x, y, z))):
                raise SplatsegError(f"{path}: comment {OFFSET_COMMENT.strip()}: expected 3 numbers, found '{comment}'")
            return x, y, z
    return 0.0, 0.0, 0.0


def _rest_names(path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """The f_rest properties in numeric order, checked to be a whole spherical-harmonic degree."""
    numbers = sorted(int(match[1]) for match in map(_REST.fullmatch, names) if match)
    if numbers != list(range(len(numbers))):
        missing = next(i for i, number in enumerate([*numbers, -1]) if i != number)
        raise SplatsegError(f"{path}: property f_rest_{missing}: expected, found missing")
    if len(numbers) not in _COEFFICIENTS:
        raise SplatsegError(f"{path}: f_rest_*: expected 0, 9, 24 or 45 properties, found {len(numbers)}")
    return tuple(f"f_rest_{i}" for i in numbers)


def _columns(path: Path, vertices: NDArray[np.void], names: tuple[str, ...]) -> NDArray[np.float32]:
    """(n, len(names)) float32 copies of scalar properties, checked to be finite."""
    for name in names:
        if vertices.dtype[name].kind not in "fiu":
            raise SplatsegError(f"{path}: property {name}: expected a number, found a list")
    values = np.empty((len(vertices), len(names)), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # a double too large for float32 is reported as inf below
        for start in range(0, len(vertices), _ROWS):
            rows = vertices[start : start + _ROWS]
            for column, name in enumerate(names):
                values[start : start + _ROWS, column] = rows[name]
    if "opacity" in names:  # of exactly 0 or 1: what bytes become in converters' hands
        logits = values[:, names.index("opacity")]
        np.copyto(logits, np.copysign(np.float32(_OPAQUE), logits), where=np.isinf(logits))
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise SplatsegError(
            f"{path}: property {names[column]}: expected finite values, found {values[row, column]} at row {row}"
        )
    return values


def load_gaussians(path: str | Path, content: bytes | None = None) -> Gaussians:
    """Read a splat written by INRIA's code, gsplat, nerfstudio, or :func:`save_gaussians`.

    Normals and ``f_rest_*`` may be absent (spherical harmonics of degree 0..3 are accepted), properties may come in any
    order and of any number type; numbers that are not of the layout become :attr:`Gaussians.extra`. Values are kept as
    stored: quaternions are not normalized. A ``filter_3D`` of Mip-Splatting is applied (:func:`smoothed`), header
    comments may be in any encoding. Opacities of exactly 0 and 1, whose logits are infinite, become almost that.

    Args:
        path: the PLY file.
        content: what it holds, where that is at hand; ``path`` is then its name in messages.

    Returns:
        n Gaussians on the CPU, float32.

    Raises:
        SplatsegError: no such file, not a PLY, truncated, compressed, empty, or a property that is missing or not
            finite.
    """
    path = Path(path)
    vertices, comments = _read(path, content)
    names = vertices.dtype.names or ()
    for name in _REQUIRED:
        if name not in names:
            raise SplatsegError(f"{path}: property {name}: expected, found missing")
    rest_names = _rest_names(path, names)
    wanted = (*_REQUIRED, *rest_names, *(name for name in (_FILTER,) if name in names))
    values = _columns(path, vertices, wanted)
    fixed = len(_REQUIRED)
    quats = values[:, 10:14]
    degenerate = ~quats.any(axis=1)
    if degenerate.any():
        row = int(degenerate.argmax())
        raise SplatsegError(f"{path}: property rot_0..3: expected a quaternion, found all zeros at row {row}")
    sizes = values[:, 7:10]
    if (sizes > _LARGEST).any():
        row, axis = (int(i) for i in np.argwhere(sizes > _LARGEST)[0])
        raise SplatsegError(
            f"{path}: property scale_{axis}: expected at most {_LARGEST:.1f}, the logarithm of what float32 can hold, "
            f"found {sizes[row, axis]} at row {row}"
        )
    sh = np.empty((len(values), _COEFFICIENTS[len(rest_names)], 3), np.float32)
    sh[:, 0] = values[:, 3:6]
    rest = values[:, fixed : fixed + len(rest_names)]
    sh[:, 1:] = rest.reshape(len(values), 3, -1).transpose(0, 2, 1)
    gaussians = Gaussians(
        means=torch.from_numpy(values[:, 0:3].copy()),
        quats=torch.from_numpy(quats.copy()),
        log_scales=torch.from_numpy(values[:, 7:10].copy()),
        opacity_logits=torch.from_numpy(values[:, 6].copy()),
        sh=torch.from_numpy(sh),
        offset=_offset(path, comments),
        extra=_others(vertices),
    )
    return smoothed(gaussians, torch.from_numpy(values[:, -1].copy())) if _FILTER in names else gaussians


def _others(vertices: NDArray[np.void]) -> dict[str, Tensor]:
    """The properties that are not of the layout, (n,) each; lists are left out."""
    ours = {*_float_properties(16), _FILTER}
    names = [name for name in vertices.dtype.names or () if name not in ours and vertices.dtype[name].kind in "fiu"]
    values = {name: vertices[name] for name in names}
    return {name: torch.from_numpy(v.astype(v.dtype.newbyteorder("="))) for name, v in values.items()}


def smoothed(gaussians: Gaussians, filter_3d: Tensor) -> Gaussians:
    """``gaussians`` convolved with isotropic ones of standard deviations ``filter_3d`` (n,), world units.

    The 3D smoothing filter of Yu et al., "Mip-Splatting" (CVPR 2024), eq. 9: covariances add up, and the opacity times
    sqrt(det(cov) / det(cov + filter)) keeps the mass. Its code stores what is trained, without the filter.
    """
    scales = gaussians.log_scales.double()
    wider = torch.logaddexp(2 * scales, 2 * filter_3d.double().abs().log()[:, None]) / 2
    opacities = gaussians.opacity_logits.double().sigmoid() * (scales - wider).sum(dim=1).exp()
    return replace(gaussians, log_scales=wider.float(), opacity_logits=opacities.clamp(1e-12, 1 - 1e-7).logit().float())


def load_extra(path: str | Path) -> dict[str, NDArray[np.integer]]:
    """The integer properties of a PLY, in file order: (n,) each, such as ``label`` and ``label_0``.

    Raises:
        SplatsegError: as :func:`load_gaussians`.
    """
    vertices = _read_vertices(Path(path))
    names = vertices.dtype.names or ()
    return {name: vertices[name].copy() for name in names if vertices.dtype[name].kind in "iu"}


def _extra_dtype(path: Path, extra: Mapping[str, NDArray[Any]], count: int) -> list[tuple[str, str]]:
    """The PLY types of the extra columns, checked: names new, one number that PLY can hold per Gaussian."""
    taken = set(_float_properties(16))
    fields = []
    for name, values in extra.items():
        if name in taken or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise SplatsegError(f"{path}: extra property '{name}': expected a new name without spaces")
        if values.shape != (count,):
            raise SplatsegError(f"{path}: extra property {name}: expected shape ({count},), found {values.shape}")
        code = values.dtype.str[1:]
        if values.dtype.kind not in "iu" and code not in _CODES:
            raise SplatsegError(f"{path}: extra property {name}: expected integers or floats, found {values.dtype}")
        if code not in _CODES:  # PLY has no 64-bit integers
            limits = np.iinfo(np.int32)
            if values.size and (values.min() < limits.min or values.max() > limits.max):
                raise SplatsegError(f"{path}: extra property {name}: expected 32-bit values, found {values.max()}")
            code = "i4"
        fields.append((name, f"<{code}"))
    return fields


def save_gaussians(
    path: str | Path,
    gaussians: Gaussians,
    extra: Mapping[str, NDArray[Any]] | None = None,
    report: Report | None = None,
) -> None:
    """Write a splat in the INRIA layout, binary little endian, to a temporary name and rename it to ``path``.

    Loading it again gives the same values bit by bit. An offset stands in a comment of the header.

    Args:
        path: the PLY file.
        gaussians: n Gaussians; their own :attr:`Gaussians.extra` are written, too.
        extra: further properties, (n,) each, written last in the order given; they take the place of those of their
            name in ``gaussians.extra``.
        report: called with the file's name and the share written; it may raise to stop, and no file is left then.

    Raises:
        SplatsegError: no Gaussians or non-finite values (no reader could use them), a bad extra property, or no room
            to write.
    """
    path = Path(path)
    header, chunks = _encoded(path, gaussians, extra or {})
    count = len(gaussians)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(header)
        for start, rows in chunks:
            if report is not None:
                report(path.name, start / count)
                os.fsync(file.fileno())  # else the disk's time would all come after the last report
            file.write(rows)
        if report is not None:
            report(path.name, 1.0)


def ply_bytes(path: Path, gaussians: Gaussians) -> bytes:
    """What :func:`save_gaussians` would write to ``path``."""
    header, chunks = _encoded(path, gaussians, {})
    return b"".join([header, *(rows for _, rows in chunks)])


def _encoded(
    path: Path, gaussians: Gaussians, extra: Mapping[str, NDArray[Any]]
) -> tuple[bytes, Iterator[tuple[int, memoryview]]]:
    """Header and (first row, records) of a PLY file, checked before anything is written."""
    if len(gaussians) == 0:
        raise SplatsegError(f"{path}: expected at least one Gaussian to write, found none")
    with naming(path):
        gaussians.check_finite()
    g = gaussians.detach().to("cpu")
    count = len(g)
    kept = {name: values.numpy() for name, values in g.extra.items() if name not in extra}
    columns = kept | {name: np.asarray(values) for name, values in extra.items()}
    dtype = np.dtype([(name, "<f4") for name in _float_properties(g.sh.shape[1])] + _extra_dtype(path, columns, count))
    nothing = np.broadcast_to(np.zeros(1, dtype), (count,))  # as many rows as there will be, in the memory of one
    comments = [OFFSET_COMMENT + " ".join(map(repr, g.offset))] if any(g.offset) else []
    header = PlyData([PlyElement.describe(nothing, "vertex")], byte_order="<", comments=comments).header
    g = replace(g, extra={})

    def chunks() -> Iterator[tuple[int, memoryview]]:
        for start in range(0, count, _WRITTEN):
            rows = slice(start, start + _WRITTEN)
            records = _records(g.select(rows), {name: values[rows] for name, values in columns.items()}, dtype)
            yield start, records.view(np.uint8).data

    return f"{header}\n".encode(), chunks()


def _records(g: Gaussians, extra: Mapping[str, NDArray[Any]], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """(n,) rows of a PLY file."""
    count = len(g)
    rest = g.sh[:, 1:].transpose(1, 2).reshape(count, -1)
    parts = [g.means, torch.zeros(count, 3), g.sh[:, 0], rest, g.opacity_logits[:, None], g.log_scales, g.quats]
    table = torch.cat([part.to(torch.float32) for part in parts], dim=1).numpy().astype("<f4", copy=False)
    records = np.empty(count, dtype)
    # The floats of a record are contiguous, so they are copied as one block of bytes instead of 62 columns.
    records.view(np.uint8).reshape(count, dtype.itemsize)[:, : table.itemsize * table.shape[1]] = table.view(np.uint8)
    for name, values in extra.items():
        records[name] = values
    return records
