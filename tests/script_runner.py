"""Runs a script of ``scripts/`` as its command line would: in this process, or another checkout's in its own.

``SPLATSEG_CHECKOUT=FOLDER`` (built in place) makes every :func:`run_script` run that checkout's script, with its
package; what comes out is judged here. So a test of scripts can be seen to fail on older code
(docs/development/trust.md).
"""

from __future__ import annotations

import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
SECONDS = 600


def run_script(name: str, *arguments: object) -> int:
    """Exit code of ``scripts/NAME ARGUMENTS...``."""
    if checkout := os.environ.get("SPLATSEG_CHECKOUT"):
        return _run_elsewhere(Path(checkout), [name, *map(str, arguments)])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        patch.setattr("sys.argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    code = ending.value.code
    return code if isinstance(code, int) else 0


def _run_elsewhere(checkout: Path, words: list[str]) -> int:
    """The script of ``checkout``; what it says on stderr is printed and logged here, where tests look for it."""
    script = checkout.resolve() / "scripts" / words[0]
    done = subprocess.run(
        [sys.executable, str(script), *words[1:]],
        env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    for line in done.stderr.splitlines():
        logging.getLogger("splatseg").warning("%s", line)
    return done.returncode
