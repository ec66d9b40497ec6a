"""The one folder for what is no run's own: downloaded weights, and photos of captures that are read without a run."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """``$SPLATSEG_CACHE``, or the user's cache folder of the system (Linux: ``$XDG_CACHE_HOME/splatseg``, usually
    ``~/.cache/splatseg``). It need not exist."""
    chosen = os.environ.get("SPLATSEG_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("splatseg", appauthor=False)
