"""``python scripts/fit.py``: :mod:`splatseg.cli.fit`, also to be had as ``splatseg fit``."""

import _installed  # noqa: F401 (first: without splatseg it says so)

from splatseg.cli.endings import run
from splatseg.cli.fit import main

if __name__ == "__main__":
    run(main)
