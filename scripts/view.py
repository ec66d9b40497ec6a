"""``python scripts/view.py``: :mod:`splatseg.cli.view`, also to be had as ``splatseg view``."""

import _installed  # noqa: F401 (first: without splatseg it says so)

from splatseg.cli.endings import run
from splatseg.cli.view import main

if __name__ == "__main__":
    run(main)
