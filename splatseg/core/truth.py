"""The known tree of parts, objects and groups that synthetic scenes come with and the evaluation reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TruthNode:
    """A part, object or group; ``parent`` is 0 at the top; ``stuff`` is floor, walls and the like."""

    id: int
    name: str
    parent: int
    depth: int
    stuff: bool = False
