"""Floaters: planted ones are found, by the rules that say what one is, and surfaces are left."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from script_runner import run_script
from splat_with_floaters import plant, room
from tiny_splat import make_splat, write_run

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.io.splats import load_splat
from splatseg.segment.floaters import FloaterConfig, find_floaters
from splatseg.segment.region_tools import Touching


def test_planted_floaters_are_found_and_walls_are_left() -> None:
    walls, cameras = room()
    both, planted = plant(walls, cameras, 60, seed=1)
    for asked in (cameras, ()):
        found = find_floaters(both, asked).mask
        assert float(found[planted].float().mean()) >= 0.9
        assert not bool(found[~planted].any())
    assert len(find_floaters(walls, cameras)) == 0


def test_what_no_view_looks_through_is_none() -> None:
    """A small thing of its own before the wall, which is where the views see it: with it as part of the surface."""
    walls, cameras = room()
    behind = torch.tensor([[0.0, 0.0, 4.0]]) + 0.02 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    both, extra = with_more(walls, behind)  # beyond the far wall: isolated, far from surfaces, hidden by it
    alone = find_floaters(both, ()).mask
    assert bool(alone[extra].all())
    seen_by_none = find_floaters(both, cameras).mask
    assert bool(seen_by_none[extra].all())  # few views
    asked = find_floaters(both, cameras, FloaterConfig(few=0, views=1000)).mask
    assert not bool(asked[~extra].any())


def with_more(walls: Gaussians, means: torch.Tensor) -> tuple[Gaussians, torch.Tensor]:
    rows = walls.select(torch.arange(len(means)))
    more = Gaussians(means, rows.quats, rows.log_scales, rows.opacity_logits, rows.sh)
    both = Gaussians(**{name: torch.cat([v, more.tensors()[name]]) for name, v in walls.tensors().items()})
    return both, torch.arange(len(both)) >= len(walls)


def test_a_piece_that_is_large_enough_is_a_thing() -> None:
    walls, cameras = room()
    cloud = torch.cartesian_prod(*[torch.linspace(-0.15, 0.15, 4)] * 3)  # 64 that touch, in the middle of the room
    both, extra = with_more(walls, cloud)
    numbers = Touching(both).pieces(np.ones(len(both), bool))[1]
    assert len(np.unique(numbers[extra.numpy()])) == 1
    for piece, expected in ((64, True), (63, False)):
        found = find_floaters(both, cameras, FloaterConfig(piece=piece, share=1.0)).mask
        assert bool((found[extra] == expected).all()) and not bool(found[~extra].any())


def test_splats_without_any_surface_are_left_alone() -> None:
    walls, cameras = room()
    apart = walls.select(torch.arange(0, len(walls), 400))
    assert len(find_floaters(apart, cameras)) == 0
    assert len(find_floaters(walls.select(torch.arange(1)), ())) == 0


@pytest.mark.parametrize(("field", "value"), [("piece", 0), ("share", 1.5), ("front", float("nan")), ("few", -1)])
def test_settings_that_mean_nothing_are_refused(field: str, value: float) -> None:
    with pytest.raises(SplatsegError, match="clean: expected"):
        FloaterConfig(**{field: value})  # type: ignore[arg-type]


# splatseg clean ------------------------------------------------------------------------------------------------------


def test_a_splat_is_cleaned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walls, cameras = room()
    both, _ = plant(walls, cameras, 60, seed=2)
    source, out = tmp_path / "splat.ply", tmp_path / "clean.ply"
    save_gaussians(source, both)
    kept = ~find_floaters(both, ()).mask
    for _ in range(2):
        assert run_script("clean.py", source, "--out", out, "--quiet") == 0
        assert "no cameras" in capsys.readouterr().out
        assert torch.equal(load_gaussians(out).means, both.means[kept])
    assert torch.equal(load_gaussians(source).means, both.means)
    assert run_script("clean.py", out, "--out", tmp_path / "again.ply", "--quiet") == 0  # nothing is left to remove
    assert torch.equal(load_gaussians(tmp_path / "again.ply").means, load_gaussians(out).means)
    assert f"removed  0 of {int(kept.sum())}" in capsys.readouterr().out


def test_a_run_is_cleaned_by_its_cameras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", make_splat())
    assert run_script("clean.py", folder, "--quiet") == 0
    assert "asked    3 cameras" in capsys.readouterr().out
    assert len(load_gaussians(folder / "exports" / "cleaned.ply")) == 432
    assert run_script("clean.py", folder, "--quiet", "--no-photos", "--out", tmp_path / "x.splat") == 0
    assert len(load_splat(tmp_path / "x.splat").gaussians) == 432


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", make_splat())
    splat = folder / "geometry.ply"
    for arguments, message in (
        ((splat,), "--out: expected the file to write"),
        ((splat, "--out", splat), "--out: expected another file"),
        ((folder, "--out", splat), "--out: expected another file"),
        ((folder, "--out", tmp_path / "x.obj"), "--out"),
        ((tmp_path / "none.ply", "--out", tmp_path / "x.ply"), "none.ply"),
        ((splat, "--scene", tmp_path, "--out", tmp_path / "x.ply"), "--scene: expected beside a run"),
        ((tmp_path,), "expected a run folder"),
        ((folder, "--floaters.front", 2), "clean: expected shares"),
    ):
        assert run_script("clean.py", *arguments) == 2, arguments
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.ply").exists() and not (folder / "exports").exists()


@pytest.mark.slow
@pytest.mark.skipif("SPLATSEG_FITTED_KITCHEN" not in os.environ, reason="needs a fitted dev_kitchen")
def test_the_figures_of_the_guide() -> None:
    """At least 90 % of what is planted into dev_kitchen, under 1 % of the surface's weight."""
    import floaters_in_kitchen

    for figures in floaters_in_kitchen.measure(Path(os.environ["SPLATSEG_FITTED_KITCHEN"])):
        assert figures.found >= 0.9 and figures.touched < 0.01, figures
