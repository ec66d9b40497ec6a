"""``python scripts/clean.py``: :mod:`splatseg.cli.clean`, also to be had as ``splatseg clean``."""

import _installed  # noqa: F401 (first: without splatseg it says so)

from splatseg.cli.clean import main
from splatseg.cli.endings import run

if __name__ == "__main__":
    run(main)
