"""``python scripts/masks.py``: :mod:`splatseg.cli.masks`, also to be had as ``splatseg masks``."""

import _installed  # noqa: F401 (first: without splatseg it says so)

from splatseg.cli.endings import run
from splatseg.cli.masks import main

if __name__ == "__main__":
    run(main)
