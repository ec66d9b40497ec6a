"""Imported first by every script: a Python in which none of them can start gets one line and exit code 2."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = ("splatseg", "torch", "tyro")  # what even doctor.py cannot do without; that tells what else is missing

missing = [name for name in NEEDED if find_spec(name) is None]
if missing:
    print(
        f"error: {sys.executable}: expected a Python with splatseg and what it needs, found no "
        f"{', '.join(missing)}; use .venv/bin/python, which 'make demo' sets up, or install splatseg here "
        "('pip install --no-build-isolation -e .')",
        file=sys.stderr,
    )
    raise SystemExit(2)
