"""``python scripts/demo.py``: :mod:`splatseg.cli.demo`, also to be had as ``splatseg demo``."""

import _installed  # noqa: F401 (first: without splatseg it says so)

from splatseg.cli.demo import main
from splatseg.cli.endings import run

if __name__ == "__main__":
    run(main)
