"""The other end of :mod:`splatseg.io.colmap_worker`: start it, hand it a job, take its answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from splatseg.errors import SplatsegError

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
        answer = {"error": f"it ended with {_ending(process.returncode)}"}
    if "error" in answer:
        raise SplatsegError(f"{where}: expected COLMAP to {do} the photos, found: {answer['error']}")
    return answer


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
