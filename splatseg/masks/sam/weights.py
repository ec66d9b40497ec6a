"""Where the weights of the segmenters are, and how they get there: by path, from the cache folder, or downloaded.

Sizes and SHA-256 are those of the files at the official addresses, as several public projects record them. (The digits
in segment-anything's file names are the start of the MD5, not of the SHA-256.)
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

from splatseg.core.cache_folder import cache_folder
from splatseg.core.errors import SplatsegError
from splatseg.core.progress import SILENT, Progress, Reporter
from splatseg.core.reading import regular
from splatseg.io.lock import Lock

_SAM = "https://dl.fbaipublicfiles.com/segment_anything"
_SAM2 = "https://dl.fbaipublicfiles.com/segment_anything_2/092824"
_MOBILE = "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights"
BLOCK = 1 << 20
ATTEMPTS = 4

LABEL = "weights"
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Checkpoint:
    """An official file: ``size`` in bytes, ``sha256`` in hex."""

    filename: str
    url: str
    size: int
    sha256: str


def _official(base: str, filename: str, size: int, sha256: str) -> Checkpoint:
    return Checkpoint(filename, f"{base}/{filename}", size, sha256)


CHECKPOINTS = {
    "vit_b": _official(
        _SAM, "sam_vit_b_01ec64.pth", 375042383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "vit_l": _official(
        _SAM, "sam_vit_l_0b3195.pth", 1249524607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "vit_h": _official(
        _SAM, "sam_vit_h_4b8939.pth", 2564550879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
    "vit_t": _official(
        _MOBILE, "mobile_sam.pt", 40728226, "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"
    ),
    "sam2.1_hiera_tiny": _official(
        _SAM2, "sam2.1_hiera_tiny.pt", 156008466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"
    ),
    "sam2.1_hiera_small": _official(
        _SAM2, "sam2.1_hiera_small.pt", 184416285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"
    ),
    "sam2.1_hiera_base_plus": _official(
        _SAM2,
        "sam2.1_hiera_base_plus.pt",
        323606802,
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    ),
    "sam2.1_hiera_large": _official(
        _SAM2, "sam2.1_hiera_large.pt", 898083611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"
    ),
}


def find_checkpoint(model: str, path: Path | None = None, reporter: Reporter = SILENT) -> Path:
    """The weights of ``model``: the file at ``path``, else the official one in the cache folder, else downloaded there.

    Raises:
        SplatsegError: ``path`` is no file; the cached file has another size than the official one; or the download
            failed (the line names the file, where to get it and where to put it).
    """
    if path is not None:
        if not path.is_file():
            raise SplatsegError(
                f"{path}: expected a checkpoint file of {model}, found {'a folder' if path.is_dir() else 'none'}"
            )
        return path
    if model not in CHECKPOINTS:
        raise SplatsegError(f"sam.model: expected one of {', '.join(CHECKPOINTS)}, found '{model}'")
    return fetch(CHECKPOINTS[model], cache_folder(), reporter)


def fetch(checkpoint: Checkpoint, folder: Path, reporter: Reporter = SILENT) -> Path:
    """``folder / filename``, downloaded unless it is there with the right size.

    The download goes to ``filename.part``, is taken up where it stopped, checked for size and SHA-256, and renamed.
    Processes that ask for the same file at once wait for the first.

    Raises:
        SplatsegError: as :func:`find_checkpoint`.
    """
    target = folder / checkpoint.filename
    if _present(target, checkpoint):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with Lock(target.with_name(f".{target.name}.lock"), "its download to end", wait=True):
        if _present(target, checkpoint):  # another process brought it while we waited
            return target
        with part.open("ab") as file:
            try:
                _download(checkpoint, target, file, reporter)
            finally:
                reporter.finish(LABEL)
                if os.fstat(file.fileno()).st_size == 0:
                    part.unlink(missing_ok=True)
        _check_content(checkpoint, part)
        os.replace(part, target)
    return target


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _present(target: Path, checkpoint: Checkpoint) -> bool:
    if not target.exists():
        return False
    found = target.stat().st_size
    if found != checkpoint.size:
        raise SplatsegError(
            f"{target}: expected {checkpoint.size} bytes as at {checkpoint.url}, found {found}; delete it to have it "
            "downloaded, or give your own file with --sam-checkpoint"
        )
    return True


def _download(checkpoint: Checkpoint, target: Path, file: BinaryIO, reporter: Reporter) -> None:
    """Append to ``file`` what is missing; a few attempts, each from where the last one stopped."""
    if os.fstat(file.fileno()).st_size > checkpoint.size:
        file.truncate(0)
    free = shutil.disk_usage(target.parent).free + os.fstat(file.fileno()).st_size
    if free < checkpoint.size:
        raise SplatsegError(
            f"{target}: expected {checkpoint.size / 1e9:.1f} GB of free disk space, found {free / 1e9:.1f} GB"
        )
    reason = "SPLATSEG_OFFLINE is set" if os.environ.get("SPLATSEG_OFFLINE", "0") not in ("", "0") else ""
    for attempt in range(0 if reason else ATTEMPTS):
        if attempt:
            time.sleep(2.0 ** (attempt - 1))
        before = os.fstat(file.fileno()).st_size
        try:
            reason = _continue_download(checkpoint, file, reporter)
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code != 429:
                break
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) is not None and not isinstance(
                error, urllib.error.URLError | ConnectionError
            ):
                raise  # our disk, not their network
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if os.fstat(file.fileno()).st_size == before and not _worth_retrying(error):
                break
        if not reason:
            return
    raise SplatsegError(
        f"{checkpoint.filename}: not downloaded ({reason}); get it from {checkpoint.url} ({checkpoint.size} bytes) and "
        f"put it at {target}, or give its path with --sam-checkpoint"
    )


def _worth_retrying(error: Exception) -> bool:
    """Not where the name does not resolve or nobody listens: that is a machine without a network."""
    reason = getattr(error, "reason", error)
    return isinstance(reason, TimeoutError | ConnectionResetError | HTTPException)


def _continue_download(checkpoint: Checkpoint, file: BinaryIO, reporter: Reporter) -> str:
    """One request for the rest of the file. Returns why it is not complete, or nothing."""
    offset = os.fstat(file.fileno()).st_size
    if offset == checkpoint.size:
        return ""
    headers = {"User-Agent": "splatseg", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with urllib.request.urlopen(urllib.request.Request(checkpoint.url, headers=headers), timeout=60) as response:
        if offset and not _continues(response, offset):
            file.truncate(0)  # the server sends the whole file, whatever was asked
            offset = 0
        while block := response.read(BLOCK):
            file.write(block)
            offset += len(block)
            if offset > checkpoint.size:
                file.truncate(0)
                return f"expected {checkpoint.size} bytes, the server sends more"
            reporter.update(Progress(LABEL, offset // MEGABYTE, checkpoint.size // MEGABYTE, "MB"))
    file.flush()
    os.fsync(file.fileno())
    return "" if offset == checkpoint.size else f"the connection ended after {offset} of {checkpoint.size} bytes"


def _continues(response: HTTPResponse, offset: int) -> bool:
    return response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")


def _check_content(checkpoint: Checkpoint, part: Path) -> None:
    found = sha256_of(part)
    if found != checkpoint.sha256:
        part.unlink()
        raise SplatsegError(
            f"{checkpoint.filename}: expected SHA-256 {checkpoint.sha256}, found {found} at {checkpoint.url}; "
            "the download was deleted"
        )
