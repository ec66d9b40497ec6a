"""A run's ``config.yaml`` read back, so that the run can be repeated.

The file holds what was fitted (``scene``, ``masks``, ...) and every setting of
:class:`~splatseg.fit.pipeline.FitConfig`; what is left out of one written by hand has its default. Nothing is taken
that the settings do not know: a name of another version, or misspelt, is an error and no silent default.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from splatseg.core.errors import DAMAGED, SplatsegError, naming
from splatseg.core.reading import read_text
from splatseg.fit.settings import FitConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Repeated:
    """What a ``config.yaml`` tells to do again; paths are as the run resolved them."""

    scene: Path | None = None
    masks: str | None = None
    masks_in: Path | None = None
    """Folder of kept masks that the run took; ``masks`` is what made them."""
    splat: Path | None = None
    splat_transform: Path | None = None
    sfm: bool = False


def read_fit_config(path: Path) -> tuple[Repeated, FitConfig]:
    """The inputs and the settings that ``path``, the ``config.yaml`` of a run, holds.

    Raises:
        SplatsegError: it cannot be read, or a field of it is unknown or of another kind; names file, field, what was
            expected and what was found.
    """
    try:
        content = yaml.safe_load(read_text(path))
    except (*DAMAGED, yaml.YAMLError) as error:
        raise SplatsegError(f"{path}: expected the config.yaml of a run, found: {error}") from None
    if not isinstance(content, dict):
        raise SplatsegError(f"{path}: expected settings (name: value), found {_said(content)}")
    with naming(path):
        known = {*_names(Repeated), *_names(FitConfig)}
        _refuse_unknown(content, known, "")
        inputs = {name: value for name, value in content.items() if name in _names(Repeated)}
        settings = {name: value for name, value in content.items() if name not in inputs}
        return build(Repeated, inputs), build(FitConfig, settings)


def build(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A frozen dataclass of settings from plain values, as ``dataclasses.asdict`` and YAML give them.

    Args:
        kind: the dataclass; its fields are numbers, texts, truths, paths, choices, tuples of them, or such dataclasses.
        values: of the fields by name; a field that is left out has its default.
        where: name of ``kind`` in the file with a dot at its end, for errors.

    Raises:
        SplatsegError: a name that ``kind`` lacks, a value of another kind, or one that ``kind`` itself refuses.
    """
    _refuse_unknown(values, _names(kind), where)
    hints = get_type_hints(kind)
    given = {name: _value(hints[name], value, f"{where}{name}") for name, value in values.items()}
    try:
        return kind(**given)
    except SplatsegError as error:
        text = str(error)  # some configs name their own place already: "features.dim: expected ..."
        raise SplatsegError(text if text.startswith(where) else f"{where}{text}") from None


def _names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _refuse_unknown(values: Mapping[Any, Any], known: Any, where: str) -> None:
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f" ({where}{close[0]}?)" if close else ""
            raise SplatsegError(f"{where}{name}: expected a setting of this version, found an unknown name{hint}")


def _value(hint: Any, value: Any, where: str) -> Any:
    """``value`` as a field of type ``hint`` holds it."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise SplatsegError(f"{where}: expected settings (name: value), found {_said(value)}")
        return build(hint, value, f"{where}.")  # type: ignore[arg-type]
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = get_args(hint)
        return None if value is None and type(None) in options else _value(options[0], value, where)
    if origin is Literal:
        if value not in get_args(hint):
            raise SplatsegError(f"{where}: expected one of {', '.join(get_args(hint))}, found {_said(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise SplatsegError(f"{where}: expected a list, found {_said(value)}")
        return tuple(_value(get_args(hint)[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    return _plain_value(hint, value, where)


def _plain_value(kind: type, value: Any, where: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and number and isinstance(value, int):
        return value
    if kind is float and (number or isinstance(value, str)):  # YAML reads 1e-6, without a dot, as a text
        try:
            if math.isfinite(found := float(value)):
                return found
        except (ValueError, OverflowError):
            pass
    if kind in (str, Path) and isinstance(value, str) and "\0" not in value:
        return kind(value)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    raise SplatsegError(f"{where}: expected {names[kind]}, found {_said(value)}")


def _said(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return f"a {'list' if isinstance(value, list) else 'group of settings'}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
