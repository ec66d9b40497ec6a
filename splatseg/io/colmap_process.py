"""The other end of :mod:`splatseg.io.colmap_worker`: start it, hand it a job, take its answer; and photos in the form
that it reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from splatseg.core.errors import SplatsegError
from splatseg.core.photos import is_plain, read_exif, read_photo
from splatseg.io.names import safe_name
from splatseg.io.process import ending

_WORKER = Path(__file__).with_name("colmap_worker.py")


def run_job(do: str, where: Path, **job: Any) -> dict[str, Any]:
    """Do a job of the worker's in a process of its own, which ends with this one.

    Args:
        do: name of the job.
        where: the folder or file that an error is about.
        job: its arguments, JSON-able.

    Raises:
        SplatsegError: COLMAP refused or died; the message says ``where`` and how.
    """
    # -P: the folder of the worker must not come first on its path.
    process = subprocess.Popen(
        [sys.executable, "-P", str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        answered, _ = process.communicate(json.dumps({"do": do, "parent": os.getpid(), **job}))
    except BaseException:
        process.kill()
        process.wait()
        raise
    try:
        answer: dict[str, Any] = json.loads(answered.strip().rpartition("\n")[2])
    except ValueError:
        answer = {"error": f"it ended with {ending(process.returncode)}"}
    if "error" in answer:
        raise SplatsegError(f"{where}: expected COLMAP to {do} the photos, found: {answer['error']}")
    return answer


def photos_for_colmap(photos: dict[str, Path], folder: Path) -> dict[str, str]:
    """Every photo in ``folder`` in a form that COLMAP reads, under names that stay inside: links to those that it reads
    as we do, PNGs of the others (WebP, 16 bits, alpha). Returns image name -> name there."""
    plain = {name: is_plain(path, name) for name, path in photos.items()}
    there: dict[str, str] = {}
    taken: set[str] = set()
    for name, path in photos.items():
        suffix = ".png" if not plain[name] else "" if Path(name).suffix == path.suffix else path.suffix
        safe = f"{safe_name(name)}{suffix}"
        while safe.casefold() in taken:  # "a.webp" beside "a.webp.png"
            safe = f"{Path(safe).with_suffix('').as_posix()}_{Path(safe).suffix}"
        taken.add(safe.casefold())
        there[name] = safe
        (folder / safe).parent.mkdir(parents=True, exist_ok=True)
        if plain[name]:
            (folder / safe).symlink_to(path.resolve())
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        others = [name for name in photos if not plain[name]]
        list(pool.map(lambda name: _convert(photos[name], name, folder / there[name]), others))
    return there


def _convert(photo: Path, name: str, path: Path) -> None:
    # What the camera wrote about its lens is COLMAP's first guess of the focal length.
    Image.fromarray(read_photo(photo, name).pixels).save(path, exif=read_exif(photo, name))
