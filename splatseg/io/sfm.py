"""Structure from motion for photos without poses: pycolmap's SIFT, matching and incremental mapping on the CPU."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from splatseg.core.atomic import write_text
from splatseg.core.errors import SplatsegError
from splatseg.core.photos import find_photos, has_alpha, is_plain, photo_size
from splatseg.core.reading import read_text
from splatseg.io.colmap_binary import write_names
from splatseg.io.colmap_masks import mask_files, mask_of_photo, write_mask
from splatseg.io.colmap_process import photos_for_colmap, run_job
from splatseg.io.digests import digest

_EXHAUSTIVE = 150  # photos; matching all pairs grows with the square, so longer captures are taken for a video
_OVERLAP = 20  # neighbors (and their doublings) that a photo of a long capture is matched with
_NAMED = 3  # photos that a line names before it says how many more
log = logging.getLogger(__name__)


def photo_names(images: Path, out: Path) -> list[str]:
    """Names of the photos under ``images``, outside of run folders, of masks beside them and of ``out``."""
    if not images.is_dir():
        raise SplatsegError(
            f"{images}: expected a folder of photos, found {'a file' if images.exists() else 'nothing'}"
        )
    found = find_photos(images, without=[out, images / "masks"])
    if found.raw:
        log.warning(
            "%s: %d raw photos skipped (%s); develop them to JPEG or PNG to use them",
            images,
            len(found.raw),
            _listed(found.raw),
        )
    if len(found.names) < 2:
        raise SplatsegError(f"{images}: expected at least 2 photos (.jpg, .png, ...), found {len(found.names)}")
    return list(found.names)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _sizes(images: Path, names: list[str]) -> set[tuple[int, int]]:
    """All sizes that occur, every photo checked to be readable."""
    sizes = set()
    for name in names:
        try:
            sizes.add(photo_size(images / name, name))
        except SplatsegError as error:
            if "unreadable" not in str(error):  # the plugin that is missing says it best itself
                raise
            raise SplatsegError(f"{images / name}: expected a readable photo, found: {error.__context__}") from None
    return sizes


def _link_images(images: Path, link: Path) -> None:
    if link.is_symlink():
        if link.resolve() == images.resolve():
            return
        link.unlink()
    elif link.exists():
        raise SplatsegError(f"{link}: expected no folder of this name in the SfM workspace, found one")
    link.symlink_to(images.resolve(), target_is_directory=True)


def photos_in_colmaps_form(images: Path, names: list[str], folder: Path) -> tuple[Path, dict[str, str]]:
    """Where COLMAP finds the photos, and the name there -> our name of each.

    Photos that it reads as we do are taken where they are; where one is not, all are laid out in ``folder``.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if all(is_plain(images / name, name) for name in names):
        return images, {name: name for name in names}
    there = photos_for_colmap({name: images / name for name in names}, folder)
    return folder, {safe: name for name, safe in there.items()}


def _write_masks(images: Path, there: dict[str, str], masks: dict[str, Path], folder: Path) -> Path | None:
    """Masks of the photos' size in ``folder``, ``NAME.png`` by COLMAP's rule; None if nothing is left out anywhere.

    Where one photo has a mask or alpha all get one: COLMAP drops photos whose mask it does not find.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if not masks and not any(has_alpha(images / name, name) for name in there.values()):
        return None
    for safe, name in there.items():
        path = folder / f"{safe}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, mask_of_photo(images / name, name, masks.get(name)))
    return folder


def run_sfm(images: str | Path, out: str | Path, no_masks: Path | None = None) -> Path:
    """Find camera poses and sparse points of the photos in ``images``.

    Features and matches are kept in ``out/database.db``, where pycolmap takes up what is already there, so a killed run
    goes on; the model is written under another name and renamed. A second call with the same photos and masks returns
    at once. One SIMPLE_RADIAL camera is fitted when all photos have one size, otherwise one per photo. Nothing is
    matched that alpha or the capture's masks (:func:`splatseg.io.colmap_masks.capture_masks`) leave out.

    Args:
        images: folder of photos, searched recursively but for run folders: every format of :mod:`splatseg.core.photos`.
        out: workspace, made where it does not exist.
        no_masks: a folder that is none of masks of the capture, though it is called so.

    Returns:
        ``out``: a COLMAP scene (``images`` is a link, the model with most registered photos is ``sparse/0``) that
        :func:`splatseg.io.load_colmap` opens.

    Raises:
        SplatsegError: fewer than two photos, an unreadable photo or mask, or photos that could not be registered.
    """
    images, out = Path(images), Path(out)
    names = photo_names(images, out)
    single = len(_sizes(images, names)) == 1  # and so, it is assumed, one lens
    stamp, model, database = out / "sfm.digest", out / "sparse" / "0", out / "database.db"
    masks = mask_files(images, names, 1, no_masks)
    for path in masks.values():
        photo_size(path, path.stem)  # an unreadable one is named before anything is given up
    try:
        unchanged = _is_of(out, images, names) and _stamped(out)[1:] == _mask_key(masks)
        if unchanged and (model / "images.bin").is_file():
            _link_images(images, out / "images")
            return out
        if not unchanged and out.is_dir():  # other photos or masks: nothing of the old workspace holds
            database.unlink(missing_ok=True)
            shutil.rmtree(out / "sparse", ignore_errors=True)
        write_text(stamp, " ".join([_key(images, names), *_mask_key(masks)]))
        _link_images(images, out / "images")
        _reconstruct(images, names, single, masks, out)
    except OSError as error:
        raise SplatsegError(f"{out}: expected SfM to finish, found: {error.strerror or error}") from None
    return out


def is_sfm_of(images: Path, out: Path) -> bool:
    """Whether the workspace ``out`` is of the photos in ``images``, wherever they lie.

    Raises:
        SplatsegError: fewer than two photos, or an unreadable one.
    """
    return _is_of(out, images, photo_names(images, out))


def _is_of(out: Path, images: Path, names: list[str]) -> bool:
    stamped = _stamped(out)[:1]
    if not stamped:
        return False
    by_place = digest([str(images.resolve()), names], stats=[images / name for name in names])  # older versions'
    return stamped[0] in (_key(images, names), by_place)


def _stamped(out: Path) -> list[str]:
    """What the workspace was made from: the key of its photos and, where there were masks, theirs; empty if unknown."""
    stamp = out / "sfm.digest"
    return read_text(stamp).split() if stamp.is_file() else []


def _mask_key(masks: dict[str, Path]) -> list[str]:
    return [digest(["masks", list(masks)], files=masks.values())] if masks else []


def _key(images: Path, names: list[str]) -> str:
    """Of names and contents: a moved, copied or touched folder is the same."""
    return digest(["photos", names], files=[images / name for name in names])


def _reconstruct(images: Path, names: list[str], single: bool, masks: dict[str, Path], out: Path) -> None:
    """Extract, match and map into ``out``."""
    work = out / ".mapping.tmp"
    folder, there = photos_in_colmaps_form(images, names, out / "photos")
    mask_folder = _write_masks(images, there, masks, out / "masks")
    answer = run_job(
        "reconstruct",
        images,
        database=str(out / "database.db"),
        images=str(folder),
        names=list(there),
        masks=None if mask_folder is None else str(mask_folder),
        single=single,
        overlap=0 if len(names) <= _EXHAUSTIVE else _OVERLAP,
        work=str(work),
    )
    try:
        if answer["matched"] == 0:
            raise SplatsegError(f"{images}: expected photos that overlap, found no pair with matching features")
        if not answer["models"]:
            raise SplatsegError(
                f"{images}: expected photos that can be registered, found no model among {len(names)} photos"
            )
        write_names(work / "best", there)
        (out / "sparse").mkdir(exist_ok=True)
        shutil.rmtree(out / "sparse" / "0", ignore_errors=True)
        os.replace(work / "best", out / "sparse" / "0")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    others = sorted(answer["models"], reverse=True)[1:]
    if others:  # photos that no model registers are counted where the scene is loaded
        log.warning("%s: further models of %s photos are left out", images, ", ".join(map(str, others)))
