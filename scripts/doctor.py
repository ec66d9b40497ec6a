"""``python scripts/doctor.py``: :mod:`splatseg.cli.doctor`, also to be had as ``splatseg doctor``."""

import _installed  # noqa: F401 (first: without splatseg it says so)

from splatseg.cli.doctor import main
from splatseg.cli.endings import run

if __name__ == "__main__":
    run(main)
