"""Which settings the ablation compares: tables of rows, a line each.

An idea gets its row by a line in ``TABLES``: a name and the settings it changes, by their dotted names in
:class:`splatseg.fit.features.FeatureConfig`.
Rows of equal settings share their measurements, whatever table they are in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from splatseg.core.errors import SplatsegError
from splatseg.fit.features import FeatureConfig


@dataclass(frozen=True)
class Row:
    """One setting under test.

    Attributes:
        name: what the tables print; unique in its table.
        settings: dotted name in ``FeatureConfig`` -> value; what is not named keeps its default.
        x: place on the axis of a table that has one.
        published: start from the published variant's constants instead of the defaults.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    x: float | None = None
    published: bool = False

    def config(self, common: Mapping[str, Any] | None = None) -> FeatureConfig:
        """The settings of the fit; ``common`` holds for all rows, the row's own win.

        Raises:
            SplatsegError: a setting that does not exist, or a value it cannot have.
        """
        base = FeatureConfig.published() if self.published else FeatureConfig()
        return with_settings(base, {**(common or {}), **self.settings})


@dataclass(frozen=True)
class Table:
    """Rows that are read together.

    Attributes:
        reference: row that the others' gains are counted from.
        axis: label of the axis where the rows are points on one; the rows then have ``x``.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    reference: str
    axis: str | None = None


# The loss alone decides: with agreed segments to start from, its settings would hardly show.
FROM_NOISE: Mapping[str, Any] = {
    name: getattr(FeatureConfig.from_noise(), name) for name in ("dim", "init", "hold_segments", "steps")
}
TABLES = {
    table.name: table
    for table in (
        Table(
            "main",
            "the hierarchy and the constants (the paper's table 1)",
            (
                Row("published constants (gs)", published=True),
                Row("ours without hierarchy", {**FROM_NOISE, "loss.level_decay": 0.0}),
                Row("ours, from noise", FROM_NOISE),
                Row("ours"),
            ),
            reference="published constants (gs)",
        ),
        Table(
            "decay",
            "what deeper levels count (the paper's table 3)",
            tuple(
                Row(f"decay {value:g}", {**FROM_NOISE, "loss.level_decay": value}, value)
                for value in (0.0, 0.1, 0.2, 0.5, 1.0)
            ),
            reference="decay 0",
            axis="level decay",
        ),
        Table(
            "dimension",
            "channels of a feature (the paper's table 4)",
            tuple(Row(f"D = {dim}", {**FROM_NOISE, "dim": dim}, dim) for dim in (4, 8, 16, 32, 64)),
            reference="D = 16",
            axis="feature dimension D",
        ),
        Table(
            "segments",
            "what the masks of all views agree on (not in the paper)",
            (
                Row("noise, trained", FROM_NOISE),
                Row(
                    "agreed segments, trained",
                    {"hold_segments": False, "steps": 200, "lr": 0.003, "lr_final": 0.0006},
                ),
                Row("agreed segments, held"),
                Row("held, 16 channels", {"dim": 16}),
                Row(
                    "held, one founding overlap, 0.8",
                    {"mask_clustering.seed_iou": 0.8, "mask_clustering.late_iou": 0.8},
                ),
                Row("held, 500 patterns", {"segment_features.patterns": 500}),
                Row("held, rests as segments", {"mask_clustering.rest": 0.1}),
                Row("held, 131,072 pixels a view", {"mask_clustering.pixels": 131_072}),
            ),
            reference="noise, trained",
        ),
        Table(
            "ideas",
            "ideas one at a time, against the loss from noise",
            (
                Row("from noise", FROM_NOISE),
                Row("500 steps", {**FROM_NOISE, "steps": 500}),
                Row("1500 steps", {**FROM_NOISE, "steps": 1500}),
                Row("8192 pixels a step", {**FROM_NOISE, "sampling.batch_pixels": 8192}),
                Row("patches from 5 samples on", {**FROM_NOISE, "loss.min_pixels": 5}),
                Row("phi floor 0.05", {**FROM_NOISE, "loss.phi_min": 0.05}),
                Row("phi floor 0.5", {**FROM_NOISE, "loss.phi_min": 0.5}),
                Row("first features of unit length", {**FROM_NOISE, "init_sigma": 0.25}),
                Row("norm term, small first features", {**FROM_NOISE, "loss.norm_weight": 100.0}),
            ),
            reference="from noise",
        ),
    )
}


def with_settings(config: Any, settings: Mapping[str, Any]) -> Any:
    """``config``, a frozen dataclass, with fields replaced by dotted name: ``{"loss.phi_min": 0.1}``.

    All at once, so that values which only fit together may be given in any order.

    Raises:
        SplatsegError: no field of that name, a value of another kind than the field holds, or one it refuses.
    """
    return _replaced(config, [(name.split("."), name, value) for name, value in settings.items()])


def _replaced(config: Any, settings: list[tuple[list[str], str, Any]]) -> Any:
    """``settings``: the rest of the dotted name below ``config``, the whole name, and the value."""
    known = [one.name for one in fields(config)] if is_dataclass(config) else []
    below: dict[str, list[tuple[list[str], str, Any]]] = {}
    changes: dict[str, Any] = {}
    for (head, *tail), name, value in settings:
        if head not in known:
            raise SplatsegError(f"setting '{name}': expected one of {', '.join(known) or 'none'}, found '{head}'")
        if tail:
            below.setdefault(head, []).append((tail, name, value))
        else:
            changes[head] = _checked(getattr(config, head), name, value)
    changes |= {head: _replaced(getattr(config, head), inner) for head, inner in below.items()}
    return replace(config, **changes)


def _checked(present: Any, name: str, value: Any) -> Any:
    """``value`` as the kind that the field holds now."""
    if is_dataclass(present):
        raise SplatsegError(f"setting '{name}': expected the name of a single value, found a group of them")
    if isinstance(present, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if present is not None and type(value) is not type(present):
        raise SplatsegError(f"setting '{name}': expected a value of type {type(present).__name__}, found {value!r}")
    return value
