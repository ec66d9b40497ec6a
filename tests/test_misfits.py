"""Photos that do not fit the others are named when the geometry is fitted."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_geometry import SMALL, scene  # noqa: F401

from splatseg.core.scene import Scene
from splatseg.fit.geometry import fit_geometry
from splatseg.fit.geometry.misfits import PhotoLosses, misfit_line
from splatseg.fit.hooks import FitHooks

CONFIG = replace(SMALL, steps=240)


def spoil(capture: Scene, *names: str) -> None:
    """Their photos show their negatives from now on."""
    for view in capture.views:
        if view.name in names:
            Image.fromarray(255 - np.asarray(Image.open(view.image_path))).save(view.image_path)


def said(capture: Scene, caplog: pytest.LogCaptureFixture, hooks: FitHooks | None = None) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        fit_geometry(capture, CONFIG, hooks=hooks)
    return caplog.text


def test_a_photo_unlike_the_others_is_named(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    assert "not fit" not in said(scene, caplog)
    spoil(scene, "3.png")
    text = said(scene, caplog)
    assert "1 photo does not fit the other 7" in text and "3.png (" in text and "2.png" not in text
    spoil(scene, "6.png")
    text = said(scene, caplog)
    assert "2 photos do not fit the other 6" in text and "3.png (" in text and "6.png (" in text


class Killed(Exception):
    pass


def test_a_fit_that_goes_on_knows_what_was_seen(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    """Stopped twice, the second time when only one photo is left to be looked at."""
    spoil(scene, "5.png")
    saved: list[dict[str, Any]] = []
    stops = [200, CONFIG.steps - 1]

    def save(state: dict[str, Any]) -> None:
        saved.append(
            {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in state.items()}
        )
        if state["step"] in stops:
            stops.remove(state["step"])
            raise Killed

    hooks = FitHooks(checkpoint_seconds=0.0, save_checkpoint=save, load_checkpoint=lambda: saved[-1] if saved else None)
    for _ in range(2):
        with pytest.raises(Killed):
            said(scene, caplog, hooks)
    assert "5.png (" in said(scene, caplog, replace(hooks, save_checkpoint=lambda state: None))


def test_what_a_capture_differs_by_anyway_is_no_misfit(device: torch.device) -> None:
    """Losses as a walk has them, from sky to foliage; one photo without a pixel that counts; too few photos."""
    losses = PhotoLosses(30, device)
    for _ in range(2):
        for photo in range(29):
            losses.add(photo, torch.tensor(0.02 * 1.07**photo, device=device))
        losses.add(29, torch.tensor(0.0, device=device))
    assert losses.misfits() == []
    losses.add(4, torch.tensor(3.0, device=device))
    assert [photo for photo, _ in losses.misfits()] == [4]
    few = PhotoLosses(7, device)
    for photo in range(7):
        few.add(photo, torch.tensor(9.0 if photo == 1 else 0.1, device=device))
    assert few.misfits() == []


def test_the_line_names_the_worst_five(tmp_path: Path) -> None:
    names = [f"{k}.jpg" for k in range(40)]
    line = misfit_line([(k, 9.0 - k) for k in range(7)], names)
    assert "7 photos do not fit the other 33" in line and "0.jpg (9.0 times)" in line and "and 2 more" in line
    assert "5.jpg" not in line and "\n" not in line and misfit_line([], names) == ""
