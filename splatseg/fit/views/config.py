"""Settings of planned views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from splatseg.core.errors import SplatsegError

Kind = Literal["auto", "inside", "outside"]
Up = Literal["auto", "+x", "-x", "+y", "-y", "+z", "-z"]
_MOST_VIEWS, _SIDES, _FIELDS = 2000, (64, 8192), (20.0, 120.0)


@dataclass(frozen=True)
class ViewPlanConfig:
    """How many views of a splat are planned, and of what kind. Equal settings and splats give equal plans.

    Attributes:
        views: how many, at most 2000.
        width: image columns, 64..8192.
        height: image rows.
        field_of_view: horizontal, degrees, 20..120.
        kind: where the cameras stand: inside what surrounds them (a room), or outside of it, around and before it (an
            object, a corner, a place outdoors); auto chooses.
        up: the axis of the splat's frame that points up; auto estimates a direction.
        seed: of everything random.
    """

    views: int = 60
    width: int = 800
    height: int = 600
    field_of_view: float = 65.0
    kind: Kind = "auto"
    up: Up = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.views <= _MOST_VIEWS:
            raise SplatsegError(f"views: expected 1..{_MOST_VIEWS}, found {self.views}")
        for name in ("width", "height"):
            if not _SIDES[0] <= getattr(self, name) <= _SIDES[1]:
                raise SplatsegError(f"{name}: expected {_SIDES[0]}..{_SIDES[1]} pixels, found {getattr(self, name)}")
        if not _FIELDS[0] <= self.field_of_view <= _FIELDS[1]:
            raise SplatsegError(f"field_of_view: expected 20..120 degrees, found {self.field_of_view}")
        if self.seed < 0:
            raise SplatsegError(f"seed: expected at least 0, found {self.seed}")
