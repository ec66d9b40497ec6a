"""``python scripts/segment.py``: :mod:`splatseg.cli.segment`, also to be had as ``splatseg segment``."""

import _installed  # noqa: F401 (first: without splatseg it says so)

from splatseg.cli.endings import run
from splatseg.cli.segment import main

if __name__ == "__main__":
    run(main)
