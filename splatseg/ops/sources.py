"""A digest of the extension's sources: ``setup.py`` bakes it into ``splatseg._C``, which is refused beside others.

Imports nothing of the package: ``setup.py`` runs this file before there is one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

ENDINGS = {".cpp", ".h", ".cu", ".cuh"}


def sources_digest(folder: Path) -> str:
    """Hex digest of names and contents of the C++ and CUDA files under ``folder``; "" where there are none."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS and path.is_file())
    digest = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:16] if files else ""
