"""scripts/_cli.py: every ending of a command line has its exit code and at most one line on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run_snippet(body: str) -> subprocess.CompletedProcess[str]:
    code = f"import errno, os, sys\nfrom _cli import run\nfrom splatseg.errors import SplatsegError\n{body}"
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}{os.pathsep}{ROOT}"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("run(lambda: print('done'))", 0, ""),
        ("run(lambda: True)", 0, ""),  # a bool is an int in Python and must not become exit code 1
        ("run(lambda: 3)", 3, ""),
        (
            "def f(): raise SplatsegError('scene: expected one,\\n found none')\nrun(f)",
            2,
            "error: scene: expected one, found none\n",
        ),
        ("def f(): raise KeyboardInterrupt\nrun(f)", 130, "error: interrupted\n"),
        (
            "def f(): raise OSError(errno.ENOSPC, 'No space left on device', 'a.npz')\nrun(f)",
            2,
            "error: a.npz: No space left on device\n",
        ),
        ("def f(): raise MemoryError\nrun(f)", 2, "error: out of memory\n"),
        ("def f(): raise SystemExit(2)\nrun(f)", 2, ""),  # tyro leaves like this on bad arguments
    ],
)
def test_endings(body: str, code: int, stderr: str) -> None:
    result = run_snippet(body)
    assert (result.returncode, result.stderr) == (code, stderr)


def test_bugs_keep_their_traceback() -> None:
    for body in ("def f(): raise FileNotFoundError(errno.ENOENT, 'gone', 'x')", "def f(): return 1 / 0"):
        result = run_snippet(f"{body}\nrun(f)")
        assert result.returncode == 1
        assert "Traceback" in result.stderr
