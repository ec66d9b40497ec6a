"""``python scripts/evaluate.py``: :mod:`splatseg.cli.evaluate`, also to be had as ``splatseg evaluate``."""

import _installed  # noqa: F401 (first: without splatseg it says so)

from splatseg.cli.endings import run
from splatseg.cli.evaluate import main

if __name__ == "__main__":
    run(main)
