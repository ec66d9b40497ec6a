"""What does not fit into memory is said before anything is spent, in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_capture import TINY, write_capture

from splatseg.core import machine, memory
from splatseg.core.errors import SplatsegError
from splatseg.core.memory import require_memory
from splatseg.fit.needs import FitSize, helping_needs, stage_needs
from splatseg.fit.pipeline import Fit
from splatseg.fit.settings import FitConfig, FitInputs
from splatseg.session import Workspace


def test_the_line_names_the_step_that_needs_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 3_000_000_000)
    require_memory({"geometry": 2.9e9, "features": 1e9}, "wait")
    require_memory({}, "wait")
    with pytest.raises(
        SplatsegError, match=r"^memory: expected 5\.5 GB for features, found 3\.0 GB free; fewer will do$"
    ):
        require_memory({"geometry": 3.1e9, "features": 5.5e9}, "fewer will do")
    monkeypatch.setattr(memory, "available_memory", lambda: None)  # a system that does not tell
    require_memory({"geometry": 1e18}, "wait")


def test_a_fit_that_has_no_memory_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused twice, then tried all the same; a finished run is opened again, whatever is free then."""
    scene, out = write_capture(tmp_path / "scene"), tmp_path / "run"
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000_000)
    for _ in range(2):
        with pytest.raises(
            SplatsegError, match=r"^memory: expected .* GB for \w+, found 0\.0 GB free; fewer Gaussians"
        ):
            Fit(FitInputs(scene, out, str(scene / "masks_2d")), TINY).execute()
        assert not out.exists()
    config = replace(TINY, check_memory=False)
    Fit(FitInputs(scene, out, str(scene / "masks_2d")), config).execute()
    Fit(FitInputs(scene, out, str(scene / "masks_2d")), TINY).execute()  # nothing is left to do
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(SplatsegError, match=r"^memory: expected .* for opening this run"):
        Workspace.open(out)
    assert len(Workspace.open(out, check_memory=False)) > 0


def test_needs_grow_with_what_they_are_of() -> None:
    """Every stage with the Gaussians; photos and pools up to their bounds, then no more."""
    config = FitConfig()
    small, large = (stage_needs(FitSize(n, 16, 200, 1_000_000), config) for n in (1_000_000, 4_000_000))
    assert (
        all(large[stage] > 2 * small[stage] for stage in ("geometry", "labels"))
        and large["features"] > small["features"]
    )
    many, more = (stage_needs(FitSize(1_000_000, 16, views, 3_000_000), config) for views in (1000, 8000))
    assert many == more
    size = FitSize(4_000_000, 16, 200, 1_000_000)
    all_moved = replace(config, features=replace(config.features, hold_segments=False))
    noise = replace(config, features=replace(config.features, init="noise", hold_segments=False))
    field = 4 * config.features.dim * size.gaussians
    held, moved, drawn = (stage_needs(size, each)["features"] for each in (config, all_moved, noise))
    assert moved - held == pytest.approx(1.5 * field)  # four times all of them, or five times half
    assert drawn < moved - field  # no codes, no evidence


def test_a_control_group_leaves_what_its_limit_says(tmp_path: Path) -> None:
    """Version 2 in a nested group, version 1, none; files that were read and can be dropped are free."""
    own, groups = tmp_path / "cgroup", tmp_path / "groups"
    own.write_text("0::/a/b\n")
    (groups / "a/b").mkdir(parents=True)
    assert machine._group_memory(groups, own) is None
    for name, content in (("max", "5000"), ("current", "3000"), ("stat", "anon 10\ninactive_file 500\n")):
        (groups / "a" / f"memory.{name}").write_text(content)
    for name, content in (("max", "max"), ("current", "3000")):
        (groups / "a/b" / f"memory.{name}").write_text(content)
    assert machine._group_memory(groups, own) == 2500
    old = tmp_path / "old"
    (old / "memory/x").mkdir(parents=True)
    own.write_text("4:memory:/x\n2:cpu:/y\n")
    (old / "memory/x/memory.limit_in_bytes").write_text("100")
    (old / "memory/x/memory.usage_in_bytes").write_text("130")
    assert machine._group_memory(old, own) == 0


GROWTH = Path(__file__).parents[1] / "benchmarks/results/growth.json"
LIBRARIES = 420  # MB that benchmarks/growth.py takes off


@pytest.mark.parametrize(
    ("stage", "cell", "gaussians", "views", "times"),
    [
        # What is freed is taken again or not: with a million the same features took 3.5 GB in one run, 2.0 in another.
        ("features", "1000k/200v/130m/0.3mp", 1_000_000, 200, 2.2),
        ("labels", "1000k/200v/130m/0.3mp", 1_000_000, 200, 1.3),
        ("features", "6400k/56v/74m/0.3mp", 6_400_000, 56, 1.2),
        ("labels", "6400k/56v/74m/0.3mp", 6_400_000, 56, 1.2),
    ],
)
def test_what_is_stated_is_a_close_bound_of_what_large_scenes_took(
    stage: str, cell: str, gaussians: int, views: int, times: float
) -> None:
    """3.4 GB were stated for features that took 5.8, 1.6 for 3.2."""
    steps = json.loads(GROWTH.read_text())["cells"][f"{stage}/{cell}"]["steps"]
    peak = (max(step["peak_mb"] for step in steps.values()) - LIBRARIES) * 2**20
    stated = stage_needs(FitSize(gaussians, 16, views, 1280 * 960), FitConfig())[stage]
    assert peak <= stated <= times * peak


def test_25_million_gaussians_on_24_gib_are_one_line_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The geometry of as many does not fit, and the photos are too few for blocks: refused twice, nothing is left."""
    monkeypatch.setattr(memory, "available_memory", lambda: 24 * 2**30)
    scene, out = write_capture(tmp_path / "scene"), tmp_path / "run"
    config = replace(FitConfig(), geometry=replace(FitConfig().geometry, max_gaussians=25_000_000, sh_degree=3))
    for _ in range(2):
        with pytest.raises(
            SplatsegError,
            match=r"^memory: expected 2\d\.\d GB for geometry, found 25\.8 GB free; fewer Gaussians than 25,000,000 "
            r"need less, --config\.no-check-memory tries anyway$",
        ):
            Fit(FitInputs(scene, out, str(scene / "masks_2d")), config).execute()
        assert not out.exists()


def test_25_million_given_gaussians_fit_into_24_gib_and_not_into_16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given, no geometry is fitted; what is left is of features and labels, and the splat is held already."""
    size = FitSize(25_000_000, 16, 800, 1280 * 960)
    needs = {name: need for name, need in stage_needs(size, FitConfig()).items() if name != "geometry"}
    monkeypatch.setattr(memory, "available_memory", lambda: 24 * 2**30)
    require_memory(needs, "fewer will do")
    monkeypatch.setattr(memory, "available_memory", lambda: 16 * 2**30)
    for _ in range(2):
        with pytest.raises(
            SplatsegError, match=r"^memory: expected 2\d\.\d GB for features, found 17\.2 GB free; fewer"
        ):
            require_memory(needs, "fewer will do")
    assert helping_needs(size, FitConfig())["features"] < needs["features"]
