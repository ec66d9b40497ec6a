"""Masks somebody already made, read from a folder.

For a view ``cam0/0001.jpg`` one of these is read; NAME is ``cam0/0001``, ``cam0/0001.jpg``, ``0001`` or ``0001.jpg``:

- ``NAME.json``: COCO run-length dicts, what segment-anything's ``amg.py --convert-to-rle`` writes (a list), or SA-1B's
  form (an object with ``annotations``);
- ``NAME/``: ``0.png, 1.png, ...`` and ``metadata.csv``, what ``amg.py`` writes otherwise;
- ``NAME.png``: a label map, 8 or 16 bits, one channel: every value but 0 is one mask;
- ``NAME.npz`` or ``NAME.npy``: (h, w) integer ids, (k, h, w) integer ids of k levels, or (k, h, w) bool masks;
  0 is no mask.

Masks have the size of the view, or of the photo as it was taken, and are then resized and undistorted as that was.
Where both have one size (the camera is distorted), ``masks_of.txt`` in the folder says which it is: ``undistorted``
photos (``scripts/masks.py --coco`` writes that) or ``original`` ones, as is also taken without it, and said in a line.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splatseg.core.atomic import write_text
from splatseg.core.errors import DAMAGED, SplatsegError
from splatseg.core.reading import read_json, read_text, regular
from splatseg.core.scene import View
from splatseg.io.colmap_masks import source_pixels
from splatseg.io.names import is_file, safe_name
from splatseg.masks import rle
from splatseg.masks.mask_set import MaskSet

T = TypeVar("T")
_BROKEN_IMAGE: tuple[type[Exception], ...] = (*DAMAGED, Image.DecompressionBombError)
log = logging.getLogger(__name__)
_ARRAY_NAMES = ("masks", "labels", "levels", "ids")
_NOTE, _UNDISTORTED, _ORIGINAL = "masks_of.txt", "undistorted", "original"
_EQUAL_SIZES = 2  # in the settings, so that masks kept by an older rule for equal sizes are read again
_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


class FileMasks:
    """The masks of a folder as a source (see the module's docstring for the layouts).

    Args:
        folder: where the masks are.
        views: all views that will be asked for. Those without masks are counted in one warning and give an empty
            :class:`MaskSet`.

    Raises:
        SplatsegError: no such folder; no masks for any view; two candidates for one view, or one for two views; a note
            (``masks_of.txt``) of other words.
    """

    name = "files"

    def __init__(self, folder: str | Path, views: Sequence[View] = ()) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise SplatsegError(f"{self.folder}: expected a folder of masks, found {_what_is(self.folder)}")
        self._note = _read_note(self.folder / _NOTE)
        self._said = False
        found = {view.name: self.find(view) for view in views}
        missing = [name for name, path in found.items() if path is None]
        if views and len(missing) == len(found):
            example = PurePosixPath(missing[0]).stem
            raise SplatsegError(
                f"{self.folder}: expected masks named like the views ({example}.json, .png, .npz or a folder of PNGs), "
                f"found none for any of {len(found)} views"
            )
        if missing:
            examples = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            warnings.warn(
                f"{self.folder}: {len(missing)} of {len(found)} views have no masks ({examples})", stacklevel=2
            )
        owners: dict[Path, str] = {}
        for name, path in found.items():
            if path is not None and owners.setdefault(path, name) != name:
                raise SplatsegError(
                    f"{path}: expected masks of one view, found that '{owners[path]}' and '{name}' match"
                )

    def settings(self) -> dict[str, Any]:
        """The folder and a digest of its files' names, sizes and times: changed masks count as others."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                stat = path.stat()
                digest.update(f"{path.relative_to(self.folder)}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return {
            "folder": str(self.folder.resolve()),
            "files": digest.hexdigest()[:16],
            "equal_sizes": _EQUAL_SIZES,
        }

    def find(self, view: View) -> Path | None:
        """The file or folder that holds the masks of ``view``, None if there is none.

        Raises:
            SplatsegError: more than one.
        """
        name = PurePosixPath(view.name)
        # A name that is no plain path must not lead out of the folder, where the photos themselves are.
        whole = (str(name.with_suffix("")), str(name)) if safe_name(view.name) == view.name else ()
        for stem in dict.fromkeys((*whole, name.stem, name.name)):
            if stem in ("", ".", ".."):
                continue
            found = [path for path in (self.folder / f"{stem}{suffix}" for suffix in _READERS) if is_file(path)]
            folder = self.folder / stem
            if os.path.isdir(folder) and ((folder / "metadata.csv").is_file() or any(folder.glob("*.png"))):
                found.append(folder)
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise SplatsegError(f"{self.folder}: expected one set of masks for view '{view.name}', found {names}")
            if found:
                return found[0]
        return None

    def masks(self, view: View) -> MaskSet:
        """The masks of ``view``; none if the folder has none for it.

        Raises:
            SplatsegError: an unreadable or inconsistent file, or masks of another size than the view; names the file.
        """
        path = self.find(view)
        if path is None:
            return MaskSet.empty(view.camera.height, view.camera.width)
        masks = _read_folder(path) if path.is_dir() else _READERS[path.suffix](path)
        if masks is None:
            return MaskSet.empty(view.camera.height, view.camera.width)
        taken = view.source
        like_view = (masks.height, masks.width) == (view.camera.height, view.camera.width)
        like_photo = taken is not None and (masks.height, masks.width) == (taken.height, taken.width)
        if like_view and like_photo and self._are_undistorted(view):
            return masks
        if like_photo:
            return _like_the_photo(masks, view)
        if like_view:
            return masks
        raise SplatsegError(
            f"{path}: expected masks of {view.camera.width}x{view.camera.height} pixels like view '{view.name}'"
            + ("" if taken is None else f", or of {taken.width}x{taken.height} like the photo it was made from")
            + f", found {masks.width}x{masks.height}"
        )

    def _are_undistorted(self, view: View) -> bool:
        """Whose masks these are where both sizes are one: what the note says, else the original photo's, in a line."""
        assert view.source is not None
        if self._note is not None:
            return self._note == _UNDISTORTED
        if not self._said:
            log.warning(
                "%s: masks, photos and undistorted photos have one size (%dx%d); taken as masks of the photos before "
                "undistortion (if they are not, write '%s' into %s there)",
                self.folder,
                view.source.width,
                view.source.height,
                _UNDISTORTED,
                _NOTE,
            )
            self._said = True
        return False


def write_note(folder: Path, views: Sequence[View]) -> None:
    """Note beside masks of ``views`` as they are whether they are of undistorted photos or of original ones."""
    undistorted = any(view.source is not None for view in views)
    write_text(folder / _NOTE, f"{_UNDISTORTED if undistorted else _ORIGINAL}\n")


def _read_note(path: Path) -> str | None:
    """None without one."""
    try:
        found = read_text(path).strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SplatsegError(f"{path}: expected '{_UNDISTORTED}' or '{_ORIGINAL}', found {error}") from None
    if found not in (_UNDISTORTED, _ORIGINAL):
        raise SplatsegError(f"{path}: expected '{_UNDISTORTED}' or '{_ORIGINAL}', found {found[:40]!r}")
    return found


def _like_the_photo(masks: MaskSet, view: View) -> MaskSet:
    """Masks of the photo as it was taken, resized and undistorted as the photo was, nearest pixel; empty ones stay."""
    pixels = source_pixels(view, (masks.width, masks.height))
    rows, columns = pixels[..., 1].clip(0), pixels[..., 0].clip(0)
    seen = pixels[..., 0] >= 0
    if not len(masks):
        return MaskSet.empty(view.camera.height, view.camera.width)
    return MaskSet.from_dense(np.asarray(masks.dense(number))[rows, columns] & seen for number in range(len(masks)))


def _what_is(path: Path) -> str:
    return "a file" if path.exists() else "nothing"


def _read_json(path: Path) -> MaskSet | None:
    """COCO run-length dicts; None for an empty list, whose image size is unknown."""
    try:
        content = read_json(path)
    except DAMAGED as error:
        raise SplatsegError(f"{path}: unreadable JSON ({error})") from None
    annotations = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(annotations, list):
        raise SplatsegError(f"{path}: expected a list of COCO masks or an object with 'annotations', found neither")
    return _named(path, lambda: MaskSet.from_coco(annotations) if annotations else None)


def _read_folder(path: Path) -> MaskSet | None:
    """One PNG a mask, numbered, listed in ``metadata.csv`` where there is one; None if it lists no mask."""
    files = {file.stem: file for file in path.glob("*.png")}
    listed = _metadata_ids(path / "metadata.csv")
    names = sorted(files, key=lambda stem: (len(stem), stem)) if listed is None else listed
    missing = [name for name in names if name not in files]
    if missing:
        raise SplatsegError(
            f"{path / 'metadata.csv'}: expected the mask {missing[0]}.png that it lists, found no such file"
        )
    if len(names) != len(files):
        raise SplatsegError(
            f"{path / 'metadata.csv'}: expected a row for each of {len(files)} masks, found {len(names)}"
        )

    def dense() -> Iterator[NDArray[Any]]:
        for name in names:
            yield _read_image(files[name])

    return _named(path, lambda: MaskSet.from_dense(dense()) if names else None)


def _metadata_ids(path: Path) -> list[str] | None:
    """The ``id`` column of amg.py's table, None without a table."""
    if not path.is_file():
        return None
    try:
        with regular(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise SplatsegError(f"{path}: unreadable table ({error})") from None
    if any(not row.get("id") for row in rows):
        raise SplatsegError(f"{path}: expected a column 'id' with a value in each row, found none")
    return [row["id"] for row in rows]


def _read_label_map(path: Path) -> MaskSet:
    return _from_arrays(path, [_read_image(path)])


def _read_image(path: Path) -> NDArray[Any]:
    """(h, w) values of a one-channel image; palette images give their indices."""
    try:
        with Image.open(regular(path)) as file:
            if file.mode not in _LABEL_MODES:
                raise SplatsegError(f"{path}: expected one channel of 8 or 16 bits, found an image of mode {file.mode}")
            return np.array(file)
    except _BROKEN_IMAGE as error:
        if isinstance(error, SplatsegError):
            raise
        raise SplatsegError(f"{path}: unreadable image ({error})") from None


def _read_array(path: Path) -> MaskSet:
    array = load_array(path)
    if array.ndim not in (2, 3) or array.dtype.kind not in "biu" or 0 in array.shape[-2:]:
        raise SplatsegError(
            f"{path}: expected (h, w) or (k, h, w) integers or bools, found {array.shape} {array.dtype}"
        )
    return _from_arrays(path, array[None] if array.ndim == 2 else array)


def load_array(path: Path) -> NDArray[Any]:
    try:
        content = np.load(regular(path), allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = content.files
            name = names[0] if len(names) == 1 else next((n for n in _ARRAY_NAMES if n in names), None)
            if name is None:
                raise SplatsegError(
                    f"{path}: expected one array or one called {', '.join(_ARRAY_NAMES)}, found {names}"
                )
            return content[name]
    except DAMAGED as error:
        if isinstance(error, SplatsegError):
            raise
        raise SplatsegError(f"{path}: unreadable array ({error})") from None


def _from_arrays(path: Path, levels: Sequence[NDArray[Any]] | NDArray[Any]) -> MaskSet:
    """One mask for each id of each level. A mask that another level repeats exactly is taken once: a label tree shows a
    node without parts at several levels."""
    counts = {one.tobytes(): one for level in levels for one in rle.encode_labels(np.asarray(level))}
    height, width = levels[0].shape if len(levels) else (0, 0)
    return _named(path, lambda: MaskSet(height, width, tuple(counts.values())))


def _named(path: Path, make: Callable[[], T]) -> T:
    """``make()``, its :class:`SplatsegError` prefixed with the file unless that is named already."""
    try:
        return make()
    except SplatsegError as error:
        raise SplatsegError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None


_READERS: dict[str, Callable[[Path], MaskSet | None]] = {
    ".json": _read_json,
    ".png": _read_label_map,
    ".npz": _read_array,
    ".npy": _read_array,
}
