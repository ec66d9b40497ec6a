"""The contact sheet says what its pictures are: photos, or the planned views of a splat that came without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known_run import make_run
from plain_splats import table
from script_runner import run_script

from splatseg.draw import run_sheet, sheets
from splatseg.io.ply import save_gaussians

SMALL = ("--preset", "fast", "--config.features.steps=20", "--quiet")
PLAN = ("--config.views.views=4", "--config.views.width=64", "--config.views.height=64")


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of the sheets that are drawn."""
    told: list[str] = []
    drawn = sheets.contact_sheet

    def record(cells: Any, *arguments: Any, **named: Any) -> Any:
        told.extend(cell.caption for cell in cells)
        return drawn(cells, *arguments, **named)

    monkeypatch.setattr(sheets, "contact_sheet", record)
    return told


def test_planned_views_are_not_called_photos(tmp_path: Path, captions: list[str]) -> None:
    """They were, also in the picture of the guide."""
    save_gaussians(tmp_path / "table.ply", table())
    for _ in range(2):
        assert run_script("fit.py", "--splat", tmp_path / "table.ply", "--out", tmp_path / "run", *SMALL, *PLAN) == 0
        (tmp_path / "run" / "contact_sheet.png").unlink()
    assert len(captions) == 2 * 4 * 4
    assert {caption.partition(": ")[2] for caption in captions} == {
        "planned view",
        "render",
        "features (PCA)",
        "labels",
    }


def test_photos_are(tmp_path: Path, captions: list[str]) -> None:
    space = make_run(tmp_path).workspace
    labels, palette = torch.zeros(len(space.gaussians), dtype=torch.int64), np.zeros((1, 3), np.uint8)
    run_sheet(tmp_path / "sheet.png", space.gaussians, space.splat.field.unit, labels, palette, space.views)
    assert captions[0] == "front.png: photo" and captions[4] == "side.png: photo"
