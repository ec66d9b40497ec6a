"""Laws of every dataclass of the package."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from known_run import KnownRun, make_run
from tiny_splat import make_camera

import splatseg
from splatseg.session import Session
from splatseg.session.colors import DISPLAY_MODES, Look, Painter

ARRAY = re.compile(r"\b(Tensor|ndarray|NDArray|ndarray\[)")


def every_dataclass() -> dict[str, type]:
    """Qualified name -> each dataclass that a module of the package defines; modules of absent extras are left out."""
    found = {}
    for info in pkgutil.walk_packages(splatseg.__path__, "splatseg."):
        try:
            module = importlib.import_module(info.name)
        except ImportError:
            continue
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == info.name and dataclasses.is_dataclass(kind):
                found[f"{info.name}.{name}"] = kind
    return found


def test_none_that_holds_arrays_compares_by_value() -> None:
    """``==`` of tensors is a tensor: the generated ``__eq__`` raises, or answers with one of its fields."""
    kinds = every_dataclass()
    assert len(kinds) > 80 and "splatseg.core.camera.Camera" in kinds
    holders = {
        name: kind for name, kind in kinds.items() if any(ARRAY.search(str(f.type)) for f in dataclasses.fields(kind))
    }
    assert len(holders) > 30
    generated = [name for name, kind in holders.items() if kind.__dict__["__dataclass_params__"].eq]
    assert not generated, f"expected eq=False, since == of tensors has no truth value: {generated}"


def test_equal_cameras_are_compared_without_a_look_at_their_tensors() -> None:
    first, second = make_camera(), make_camera()
    for _ in range(2):
        assert first == first and first != second and first in (second, first) and len({first, second}) == 2


@pytest.fixture
def known(tmp_path: Path) -> KnownRun:
    return make_run(tmp_path)


@pytest.mark.parametrize("mode", DISPLAY_MODES)
def test_every_mode_paints_again_and_again(known: KnownRun, mode: str) -> None:
    """Depth colors: each paint of a window comes with a camera of its own."""
    session = Session(known.workspace)
    session.click("front", *known.splat.pixel_of(2))
    painter = Painter(session, torch.arange(len(known.workspace)))
    look = Look(mode)  # type: ignore[arg-type]
    first = painter.paint(look, make_camera())
    for _ in range(2):
        assert (painter.paint(look, make_camera()) == first).all()
    assert (painter.paint(look, make_camera(1.0)) == first).all() is not (mode == "depth")
    assert (painter.paint(look, make_camera()) == first).all()
