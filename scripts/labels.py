"""``python scripts/labels.py``: :mod:`splatseg.cli.labels`, also to be had as ``splatseg labels``."""

import _installed  # noqa: F401 (first: without splatseg it says so)

from splatseg.cli.endings import run
from splatseg.cli.labels import main

if __name__ == "__main__":
    run(main)
