"""Runs a script of ``scripts/`` in this process, as its command line would."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


def run_script(name: str, *arguments: object) -> int:
    """Exit code of ``scripts/NAME ARGUMENTS...``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        patch.setattr("sys.argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    code = ending.value.code
    return code if isinstance(code, int) else 0
