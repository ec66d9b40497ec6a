"""``python scripts/views.py``: :mod:`splatseg.cli.views`, also to be had as ``splatseg views``."""

import _installed  # noqa: F401 (first: without splatseg it says so)

from splatseg.cli.endings import run
from splatseg.cli.views import main

if __name__ == "__main__":
    run(main)
