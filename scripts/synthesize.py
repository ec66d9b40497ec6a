"""``python scripts/synthesize.py``: :mod:`splatseg.cli.synthesize`, also to be had as ``splatseg synthesize``."""

import _installed  # noqa: F401 (first: without splatseg it says so)

from splatseg.cli.endings import run
from splatseg.cli.synthesize import main

if __name__ == "__main__":
    run(main)
