"""A splat that came alone, as a file of another tool and without photos: fitted, opened in a browser, segmented by a
click and exported, as one does with a splat from the net. Such ones were tried by hand (docs/guides/any-splat.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from browser_page import Window
from chromium import PATIENCE, button
from plain_splats import table
from script_runner import run_script

from splatseg.io.ply import load_gaussians
from splatseg.io.run import Run
from splatseg.io.splats import load_splat, save_splat
from splatseg.session import Workspace

viewer_room = pytest.importorskip("splatseg.viewer", reason="the viewer's extra is not installed")

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FIT = ("--preset", "fast", "--config.features.steps=60", "--quiet")
PLAN = ("--config.views.views=12", "--config.views.width=160", "--config.views.height=120")
BALL = (0.5, 0.2, 0.25)  # its center; see plain_splats.table


def test_a_bare_splat_is_segmented_by_a_click_and_exported(launch: Callable[[], Any], tmp_path: Path) -> None:
    save_splat(tmp_path / "table.spz", table(), "spz")
    assert run_script("fit.py", "--splat", tmp_path / "table.spz", "--out", tmp_path / "run", *FIT, *PLAN) == 0
    run = Run.existing(tmp_path / "run")
    viewer = viewer_room.Viewer(Workspace.open(run), viewer_room.ViewerConfig(viewer_room.ServerConfig(port=0)))
    window = Window(launch(), viewer, None, (800, 480))  # type: ignore[arg-type]
    try:
        camera = window.served.camera()
        spot, depth = camera.project(torch.tensor([BALL]))
        assert float(depth[0]) > 0
        box = window.page.locator("canvas").first.bounding_box()
        x, y = spot[0, 0] / camera.width * box["width"], spot[0, 1] / camera.height * box["height"]
        window.gesture(lambda: window.page.mouse.click(box["x"] + float(x), box["y"] + float(y)))
        selected = window.selected()
        splat = load_gaussians(run.geometry)
        on_ball = (splat.means - torch.tensor(BALL)).norm(dim=1) < 0.26
        assert selected.sum() > 20 and on_ball.numpy()[selected].mean() > 0.9  # a part of the ball, and of no other

        window.tab("Files")
        with window.page.expect_download(timeout=PATIENCE * 1000) as waiting:
            button(window.page, "Selection (PLY)").click()
        found, wanted = load_splat(waiting.value.path()).gaussians, splat.select(torch.from_numpy(selected))
        for name, tensor in found.tensors().items():
            assert torch.equal(tensor, wanted.tensors()[name]), name
        window.shoot("bare-splat")
    finally:
        window.close()
        viewer.close()
