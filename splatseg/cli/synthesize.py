"""Write a synthetic COLMAP scene with exact part-object-group labels, simulated masks and point queries.

python scripts/synthesize.py OUT [--objects 6] [--views 24] [--seed 0]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from splatseg.cli.endings import parse
from splatseg.synthetic import SceneConfig, write_scene


@dataclass(frozen=True)
class Arguments:
    """Write a synthetic scene to a new or empty folder."""

    out: tyro.conf.Positional[Path]
    """Folder of the scene."""
    config: Annotated[SceneConfig, tyro.conf.arg(name="")] = field(default_factory=SceneConfig)


def main() -> None:
    arguments = parse(Arguments)
    folder = write_scene(arguments.out, arguments.config)
    print(f"{folder}: {arguments.config.views} views, {arguments.config.test_views} held out")
