"""What the colors of a look mean: a ramp with values on it, or names beside their colors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from splatseg.core.camera import Camera
from splatseg.draw.sheets import PcaBasis
from splatseg.session.colors import UNLABELED, Look, colormap, depth_range, showable
from splatseg.session.session import Session
from splatseg.session.shared import Color

MOST_NAMES = 12  # of labels; their tree holds hundreds
RAMP_COLORS = 9


@dataclass(frozen=True)
class Legend:
    """The key of a look.

    Attributes:
        title: what the colors stand for.
        ramp: colors (r, g, b) in 0..255 at even steps, left to right; empty where colors are not values.
        ticks: places on the ramp in [0, 1], ascending, and what is written there.
        names: colors of named things and their names.
    """

    title: str
    ramp: tuple[Color, ...] = ()
    ticks: tuple[tuple[float, str], ...] = ()
    names: tuple[tuple[Color, str], ...] = ()


def legend(session: Session, look: Look, camera: Camera | None = None) -> Legend | None:
    """The key of what a window shows in ``look`` through ``camera``; None where colors are the photos' own."""
    mode = showable(session, look).mode
    if mode == "features":
        return _features(session)
    if mode == "labels":
        return _labels(session)
    if mode == "scores":
        # A place on the ramp is an angle: 1 is none, 0 a right one or more.
        places = (0.0, 0.25, 0.5, 0.75, 1.0)
        ticks = tuple((place, f"{math.cos((1 - place) * math.pi / 2):.2f}") for place in places)
        threshold = "" if session.active is None else f"; selected from {session.active.threshold:.2f} on"
        return Legend(f"Similarity to the last click (cosine){threshold}", _ramp(), ticks)
    if mode == "confidence":
        return Legend("Share of the views that agree", _ramp(), ((0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")))
    if mode == "depth" and camera is not None:
        low, high = depth_range(session.workspace.gaussians, camera)
        ticks = ((0.0, f"{high:.3g}"), (0.5, f"{(low + high) / 2:.3g}"), (1.0, f"{low:.3g}"))
        return Legend("Distance from the camera, world units (far to near)", _ramp(), ticks)
    return None


def _ramp() -> tuple[Color, ...]:
    shown = colormap(np.linspace(0, 1, RAMP_COLORS)).round().astype(int)
    return tuple((int(r), int(g), int(b)) for r, g, b in shown)


def _features(session: Session) -> Legend:
    """The three directions and how much of the features' variance each of them tells."""
    features = session.workspace.field.unit
    basis = PcaBasis.fit(features)
    centered = features - basis.mean
    total = max(float(centered.square().sum()), 1e-12)
    shares = ((centered @ basis.axes).square().sum(0) / total).tolist()
    channels: tuple[Color, ...] = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    names = [
        (color, f"direction {i + 1}: {share:.0%} of what differs")
        for i, (color, share) in enumerate(zip(channels, shares, strict=True))
    ]
    return Legend("Main directions of the features (PCA): like colors are alike to a click", names=tuple(names))


def _labels(session: Session) -> Legend:
    """The kept objects, then the largest labels of the shown level."""
    content = session.workspace.shared.content
    names = [(entry.color, f"{entry.name} ({len(entry):,})") for entry in content.objects.values()]
    if content.tree is not None:
        nodes = sorted(content.tree.at_level(content.level), key=lambda node: -node.count)
        names += [(node.color, f"label {_named(node.name, node.category)} ({node.count:,})") for node in nodes]
    rest = len(names) - MOST_NAMES
    if rest > 0:
        names = [*names[:MOST_NAMES], ((UNLABELED, UNLABELED, UNLABELED), f"and {rest} more, each of its own color")]
    return Legend("Objects, and labels of the shown level", names=tuple(names))


def _named(name: str, category: str) -> str:
    return f"{name}, {category}" if category else name
