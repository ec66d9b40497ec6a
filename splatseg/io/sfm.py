"""Structure from motion for photos without poses: pycolmap's SIFT, matching and incremental mapping on the CPU."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pycolmap
from PIL import Image, UnidentifiedImageError

from splatseg.errors import SplatsegError
from splatseg.io.atomic import write_text
from splatseg.io.run import digest

_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
_EXHAUSTIVE = 150  # photos; matching all pairs grows with the square, so longer captures are taken for a video
_OVERLAP = 20  # neighbours (and their doublings) that a photo of a long capture is matched with


def _photos(images: Path) -> list[str]:
    """Names of the photos under ``images``, checked to be readable."""
    if not images.is_dir():
        raise SplatsegError(
            f"{images}: expected a folder of photos, found {'a file' if images.exists() else 'nothing'}"
        )
    names = sorted(p.relative_to(images).as_posix() for p in images.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if len(names) < 2:
        raise SplatsegError(f"{images}: expected at least 2 photos ({', '.join(_SUFFIXES)}), found {len(names)}")
    return names


def _one_size(images: Path, names: list[str]) -> bool:
    """Whether all photos share one size, and so, it is assumed, one lens."""
    sizes = set()
    for name in names:
        try:
            with Image.open(images / name) as file:
                sizes.add(file.size)
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise SplatsegError(f"{images / name}: expected a readable photo, found: {error}") from None
    return len(sizes) == 1


def _matched(database: Path) -> int:
    """Number of image pairs with verified matches."""
    with sqlite3.connect(database) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM two_view_geometries WHERE rows > 0").fetchone()[0])


def _match(database: Path, count: int) -> None:
    if count <= _EXHAUSTIVE:
        pycolmap.match_exhaustive(str(database), device=pycolmap.Device.cpu)
    else:
        pairing = pycolmap.SequentialPairingOptions(overlap=_OVERLAP)
        pycolmap.match_sequential(str(database), pairing_options=pairing, device=pycolmap.Device.cpu)


def _link_images(images: Path, link: Path) -> None:
    if link.is_symlink():
        if link.resolve() == images.resolve():
            return
        link.unlink()
    elif link.exists():
        raise SplatsegError(f"{link}: expected no folder of this name in the SfM workspace, found one")
    link.symlink_to(images.resolve(), target_is_directory=True)


def run_sfm(images: str | Path, out: str | Path) -> Path:
    """Find camera poses and sparse points of the photos in ``images``.

    Features and matches are kept in ``out/database.db``, where pycolmap takes up what is already there, so a killed run
    goes on; the model is written under another name and renamed. A second call with the same photos returns at once.
    One SIMPLE_RADIAL camera is fitted when all photos have one size, otherwise one per photo.

    Args:
        images: folder of photos, searched recursively.
        out: workspace, made where it does not exist.

    Returns:
        ``out``: a COLMAP scene (``images`` is a link, the model with most registered photos is ``sparse/0``) that
        :func:`splatseg.io.load_colmap` opens.

    Raises:
        SplatsegError: fewer than two photos, an unreadable one, or photos that could not be registered.
    """
    images, out = Path(images), Path(out)
    names = _photos(images)
    single = _one_size(images, names)
    key = digest([str(images.resolve()), names], stats=[images / name for name in names])
    stamp, model, database = out / "sfm.digest", out / "sparse" / "0", out / "database.db"
    try:
        unchanged = stamp.is_file() and stamp.read_text() == key
        if unchanged and (model / "images.bin").is_file():
            return out
        if not unchanged and out.is_dir():  # other photos: nothing of the old workspace holds
            database.unlink(missing_ok=True)
            shutil.rmtree(out / "sparse", ignore_errors=True)
        write_text(stamp, key)
        _link_images(images, out / "images")
        _reconstruct(images, names, single, out)
    except (RuntimeError, ValueError, OSError, sqlite3.Error) as error:
        if isinstance(error, SplatsegError):
            raise
        reason = str(error).strip().split("\n")[0]
        raise SplatsegError(f"{out}: expected SfM to finish, found: {reason}") from None
    return out


def _reconstruct(images: Path, names: list[str], single: bool, out: Path) -> None:
    """Extract, match and map into ``out``."""
    database, work = out / "database.db", out / ".mapping.tmp"
    mode = pycolmap.CameraMode.SINGLE if single else pycolmap.CameraMode.PER_IMAGE
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    try:
        pycolmap.extract_features(str(database), str(images), names, camera_mode=mode, device=pycolmap.Device.cpu)
        _match(database, len(names))
        if _matched(database) == 0:
            raise SplatsegError(f"{images}: expected photos that overlap, found no pair with matching features")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        options = pycolmap.IncrementalPipelineOptions(min_model_size=min(10, max(2, len(names) // 2)))
        models = pycolmap.incremental_mapping(str(database), str(images), str(work), options)
    finally:
        pycolmap.logging.minloglevel = level
    if not models:
        shutil.rmtree(work, ignore_errors=True)
        raise SplatsegError(
            f"{images}: expected photos that can be registered, found no model among {len(names)} photos"
        )
    best = max(models.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))
    whole = work / "best"
    whole.mkdir()
    best.write_binary(str(whole))
    (out / "sparse").mkdir(exist_ok=True)
    shutil.rmtree(out / "sparse" / "0", ignore_errors=True)
    os.replace(whole, out / "sparse" / "0")
    shutil.rmtree(work, ignore_errors=True)
