"""Write a small capture with exact ground truth.

    splatseg synthesize OUT
    splatseg synthesize OUT --objects 6 --seed 1 --masks.keep-parts 0.5

Photos, poses, simulated masks, a tree of parts, objects and groups, point
queries; equal settings give equal files.
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

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """New or empty folder of the scene."""
    config: Annotated[SceneConfig, tyro.conf.arg(name="")] = field(default_factory=SceneConfig)


def main() -> None:
    arguments = parse(Arguments, description=__doc__)
    folder = write_scene(arguments.out, arguments.config)
    print(f"{folder}: {arguments.config.views} views, {arguments.config.test_views} held out")
