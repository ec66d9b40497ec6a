"""``python scripts/export.py``: :mod:`splatseg.cli.export`, also to be had as ``splatseg export``."""

import _installed  # noqa: F401 (first: without splatseg it says so)

from splatseg.cli.endings import run
from splatseg.cli.export import main

if __name__ == "__main__":
    run(main)
