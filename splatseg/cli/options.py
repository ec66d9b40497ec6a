"""Kinds of options that may be left out: the help shows a plain word for the value, and no default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def _hint(default: str) -> str:
    return "" if default == "None" else f"(default: {default})"


PathOrNone = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint=_hint)]
TextOrNone = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint=_hint)]
IntOrNone = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint=_hint)]
FloatOrNone = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint=_hint)]
