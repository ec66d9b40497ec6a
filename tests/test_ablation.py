"""The ablation on a tiny synthetic scene: every cell once, resume after a kill, the report, and wrong settings."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.ablation import cells, stress
from benchmarks.ablation.cells import AblationScene, Cell, Plan, read_cell, run_plan
from benchmarks.ablation.report import AVERAGE, deviation, summarize, to_json, to_markdown
from benchmarks.ablation.rows import TABLES, Row, Table, with_settings
from splatseg.core.errors import SplatsegError
from splatseg.evaluate.hierarchical import load_hierarchical
from splatseg.fit.features import FeatureConfig
from splatseg.fit.geometry import GeometryConfig
from splatseg.fit.pipeline import Fit
from splatseg.fit.settings import FitConfig, FitInputs
from splatseg.io.colmap import load_colmap
from splatseg.synthetic import MaskSimulation, SceneConfig, write_scene

ROOT = Path(__file__).parent.parent
FEW = {"steps": 3, "dim": 4, "sampling.pool_pixels": 500, "sampling.batch_pixels": 500}
FEW_WORDS = [f"{name}={value}" for name, value in FEW.items()]
PAIR = Table("pair", "two rows", (Row("plain"), Row("decay 0", {"loss.level_decay": 0.0})), reference="plain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablation") / "tiny"
    return write_scene(folder, SceneConfig(objects=2, views=4, test_views=1, width=64, height=48))


@pytest.fixture(scope="module")
def scene(folder: Path) -> AblationScene:
    """A splat of a few steps, in ``run`` beside the scene, and the hierarchies."""
    config = FitConfig(geometry=GeometryConfig(steps=20))
    job = Fit(FitInputs(folder, folder.parent / "run", str(folder / "masks_2d")), config)
    capture = load_colmap(folder)
    gaussians = job.geometry(capture, capture.views, ())
    return AblationScene(load_hierarchical(folder), gaussians, tuple(capture.views), job.hierarchies(capture.views))


@pytest.fixture(scope="module")
def splat(folder: Path, scene: AblationScene) -> Path:
    return folder.parent / "run"


def plan_of(scene: AblationScene, *tables: Table, seeds: tuple[int, ...] = (0, 1)) -> Plan:
    return Plan((scene,), tables or (PAIR,), seeds, FEW)


# Cells ----------------------------------------------------------------------------------------------------------------


def test_every_cell_is_measured_once(scene: AblationScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Table("twin", "the same rows by other names", (Row("again"), Row("new", {"loss.level_decay": 1.0})), "again")
    plan = plan_of(scene, PAIR, twin)
    assert len(plan.cells()) == 1 + 2 * 3, "a ceiling, three different rows, two seeds"
    calls: list[int] = []
    assert run_plan(plan, tmp_path, lambda: calls.append(0), quiet=True) == []
    assert len(calls) == 7 and all(read_cell(cell, tmp_path) for cell in plan.cells())
    monkeypatch.setattr(Cell, "measure", lambda cell: pytest.fail("measured again"))
    assert run_plan(plan, tmp_path, quiet=True) == []


def test_a_killed_ablation_goes_on(scene: AblationScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(scene)
    measure, measured = Cell.measure, []

    def until_killed(cell: Cell) -> dict[str, object]:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(cell.key)
        return measure(cell)

    monkeypatch.setattr(Cell, "measure", until_killed)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tmp_path, quiet=True)
    files = {path: path.read_bytes() for path in (tmp_path / "cells").iterdir()}
    assert len(files) == 3
    measured[:] = measured[:1]  # two more may be measured now: the two that are missing
    run_plan(plan, tmp_path, quiet=True)
    assert all(read_cell(cell, tmp_path) for cell in plan.cells())
    assert all(path.read_bytes() == content for path, content in files.items())


def test_broken_results_are_measured_again(scene: AblationScene, tmp_path: Path) -> None:
    cell = Cell(scene, replace(PAIR.rows[0].config(FEW), seed=3))
    path = cell.path(tmp_path)
    path.parent.mkdir()
    for content in ("", "{", "[]", "{}", json.dumps({"key": "other", "core": {"mean": 1}}), '{"key": "x", "core": 3}'):
        path.write_text(content)
        assert read_cell(cell, tmp_path) is None, content


def test_keys_follow_settings_seed_and_scene(scene: AblationScene) -> None:
    config = PAIR.rows[0].config(FEW)
    changed = [replace(config, seed=1), replace(config, steps=4), with_settings(config, {"loss.phi_min": 0.2})]
    keys = {Cell(scene, one).key for one in [None, config, *changed]}
    assert len(keys) == 5
    fewer = replace(scene, views=scene.views[:-1])
    assert Cell(fewer, config).key not in keys and Cell(scene, config).key in keys


def test_a_fit_that_fails_does_not_stop_the_others(
    scene: AblationScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = cells.fit_features

    def diverges(gaussians: object, views: object, masks: object, config: FeatureConfig) -> object:
        if config.loss.level_decay == 0:
            raise SplatsegError("features: expected a finite loss, found nan")
        return fit(gaussians, views, masks, config)  # type: ignore[arg-type]

    monkeypatch.setattr(cells, "fit_features", diverges)
    plan = plan_of(scene, seeds=(0,))
    (failure,) = run_plan(plan, tmp_path, quiet=True)
    assert "found nan" in failure and failure.startswith("tiny_seed0_")
    table = to_markdown(summarize(plan, tmp_path))
    assert "| tiny | decay 0 | 0 | - | - |" in table and "| tiny | plain | 1 | 0." in table


# Report ---------------------------------------------------------------------------------------------------------------


def written(scene: AblationScene, folder: Path, row: Row, seed: int, mean: float) -> None:
    """A result as :meth:`Cell.measure` would leave it."""
    cell = Cell(scene, replace(row.config(FEW), seed=seed))
    core = dict.fromkeys(cells.MEASURES, mean)
    path = cell.path(folder)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"key": cell.key, "core": core, "fit_seconds": 2.0}))


def test_report_of_known_figures(scene: AblationScene, tmp_path: Path) -> None:
    plan = Plan((scene,), (PAIR,), (0, 1, 2), FEW)
    for seed, (plain, flat) in enumerate([(0.5, 0.4), (0.6, 0.45), (0.7, 0.5)]):
        written(scene, tmp_path, PAIR.rows[0], seed, plain)
        written(scene, tmp_path, PAIR.rows[1], seed, flat)
    cell = Cell(scene, None)
    cell.path(tmp_path).write_text(json.dumps({"key": cell.key, "core": {"iou1": 0.8, "iou2": 0.8, "mean": 0.8}}))
    (result,) = summarize(plan, tmp_path)
    plain, flat = result.scenes["tiny"]
    assert plain.seeds == (0, 1, 2) and plain.gain == pytest.approx([0, 0, 0])
    assert flat.gain == pytest.approx([-10, -15, -20]) and flat.share == pytest.approx([0.5, 0.5625, 0.625])
    table = to_markdown([result])
    assert f"| tiny | plain | 3 |{' 0.600 ± 0.100 |' * 5} 75.0 % | - |" in table
    assert "| tiny | decay 0 | 3 | 0.450 ± 0.050 |" in table and "| 56.2 % | -15.0 ± 5.0 |" in table
    assert "| tiny | ceiling | - | 0.800 | 0.800 | 0.800 | - | - | 100 % | - |" in table
    rows = to_json([result], plan)["tables"][0]["rows"]
    assert rows[1]["mean"] == {"mean": 0.45, "deviation": 0.05, "values": [0.4, 0.45, 0.5]}
    assert rows[1]["settings"] == {"published": False, "loss.level_decay": 0.0}
    assert rows[1]["features"]["loss"]["level_decay"] == 0 and rows[1]["features"]["steps"] == 3


def test_average_over_scenes_needs_both(folder: Path, scene: AblationScene, tmp_path: Path) -> None:
    link = tmp_path / "second"
    link.symlink_to(folder, target_is_directory=True)
    second = replace(scene, gt=replace(scene.gt, folder=link), views=scene.views[:-1])
    plan = Plan((scene, second), (PAIR,), (0, 1), FEW)
    written(scene, tmp_path, PAIR.rows[0], 0, 0.5)
    written(second, tmp_path, PAIR.rows[0], 0, 0.7)
    written(scene, tmp_path, PAIR.rows[0], 1, 0.9)
    (result,) = summarize(plan, tmp_path)
    average = result.scenes[AVERAGE][0]
    assert average.seeds == (0,) and average.values["mean"] == pytest.approx([0.6])
    assert [len(result.scenes[name][0].seeds) for name in ("tiny", "second")] == [2, 1]


def test_deviation_is_that_of_a_sample() -> None:
    assert deviation(np.array([1.0, 2.0, 3.0])) == 1.0
    assert deviation(np.array([1.0])) is None


# Masks of other kinds -------------------------------------------------------------------------------------------------


def test_stress_masks_are_made_once_and_say_what_they_show(
    scene: AblationScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = stress.Kind("parts", MaskSimulation.perfect(show="parts"))
    first = stress.make_masks(scene, parts, tmp_path)
    depths = {scene.gt.nodes[node].depth for node in first.shown}
    assert 2 in depths and 0 not in depths
    wanted, queries = stress.shown_levels(first), scene.gt.queries
    assert wanted.shape == (len(queries), 2) and wanted[:, 0].any() and not wanted[:, 1].any()
    assert not wanted[[not query.core for query in queries]].any()
    assert first.scene.key != scene.key and first.scene.gt is scene.gt
    monkeypatch.setattr(stress, "simulate_masks", lambda *_: pytest.fail("simulated again"))
    assert stress.make_masks(scene, parts, tmp_path).shown == first.shown
    with pytest.raises(pytest.fail.Exception):
        stress.make_masks(scene, stress.Kind("wholes", MaskSimulation.perfect(show="wholes")), tmp_path)


def test_masks_in_two_views_show_no_node(scene: AblationScene, tmp_path: Path) -> None:
    few = stress.make_masks(scene, stress.Kind("few", MaskSimulation.perfect(every=2)), tmp_path)
    masked = [len(few.scene.hierarchies[view.name].membership) > 1 for view in scene.views]
    assert masked == [True, False, True, False] and few.shown == frozenset()


def test_stress_row_of_known_figures(scene: AblationScene, tmp_path: Path) -> None:
    made = stress.make_masks(scene, stress.Kind("parts", MaskSimulation.perfect(show="parts")), tmp_path)
    wanted, ceiling = stress.shown_levels(made), Cell(scene, None)

    def known(cell: Cell, iou: float) -> None:
        """A result with ``iou`` at the levels that count, and 1 at those that must not."""
        record = {"key": cell.key, "core": {"mean": 0.0}, "queries": np.where(wanted, iou, 1.0).tolist()}
        cell.path(tmp_path).parent.mkdir(exist_ok=True)
        cell.path(tmp_path).write_text(json.dumps(record))

    def row() -> stress.StressRow:
        return stress.stress_row(made, ceiling, (0, 1), tmp_path)

    assert (row().share, row().holds) == (None, None)
    known(ceiling, 0.8)
    for seed, (ours, alone) in enumerate([(0.7, 0.6), (0.8, 0.7)]):
        known(made.cell(stress.OURS, seed), ours)
        assert row().holds is (None if seed == 0 else True)
        known(made.cell(stress.ALONE, seed), alone)
    assert row().ours == pytest.approx((0.7, 0.8)) and row().share == pytest.approx(0.9375)
    levels = f"{wanted.sum()} of {2 * sum(query.core for query in scene.gt.queries)}"
    table = stress.stress_to_markdown([row()], (0, 1))
    assert f"| tiny | parts | {levels} | 0.750 | 0.650 | 0.800 | 93.8 % | yes |" in table
    known(made.cell(stress.ALONE, 1), 1.0)
    assert row().holds is False, "the loss alone is better"
    known(made.cell(stress.ALONE, 1), 0.7)
    known(made.cell(stress.OURS, 0), 0.6)
    assert row().share == pytest.approx(0.875) and row().holds is False


def test_stress_table_of_the_command(
    folder: Path, splat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = (
        stress.Kind("fine", MaskSimulation.perfect()),
        stress.Kind("center", MaskSimulation.perfect(show="center")),
    )
    monkeypatch.setattr(stress, "KINDS", kinds)
    monkeypatch.setattr(stress, "OURS", Row("ours", {**FEW, "steps": 2}))
    monkeypatch.setattr(stress, "ALONE", Row("loss alone", {**FEW, "init": "noise", "hold_segments": False}))
    out = tmp_path / "out"
    words = [folder, "--geometry", splat, "--out", out, "--tables", "stress", "--seeds", "0", "--quiet"]
    assert run_ablation(*words) == 0
    table = (out / "stress.md").read_text()
    assert table in capsys.readouterr().out and "seeds 0" in table and table.count("| tiny |") == 2
    rows = json.loads((out / "stress.json").read_text())["rows"]
    assert [row["kind"]["name"] for row in rows] == ["fine", "center"] and rows[1]["kind"]["masks"]["show"] == "center"
    assert all(0 < row["ours"][0] <= 1 and 0 < row["ceiling"] <= 1 for row in rows)
    assert rows[0]["levels"][0] > rows[1]["levels"][0] > 0
    monkeypatch.setattr(Cell, "measure", lambda cell: pytest.fail("measured again"))
    assert run_ablation(*words) == 0 and (out / "stress.md").read_text() == table
    assert not (out / "ablation.md").exists()


def test_registered_kinds_differ() -> None:
    assert len({kind.name for kind in stress.KINDS}) == len({kind.masks for kind in stress.KINDS}) == len(stress.KINDS)
    assert stress.OURS.config() == FeatureConfig() and stress.ALONE.config() == FeatureConfig.from_noise()


# Rows -----------------------------------------------------------------------------------------------------------------


def test_registered_tables_are_whole() -> None:
    for name, table in TABLES.items():
        names = [row.name for row in table.rows]
        assert name == table.name and len(set(names)) == len(names) and table.reference in names
        assert all((row.x is not None) == (table.axis is not None) for row in table.rows)
        configs = [row.config() for row in table.rows]
        assert len(set(configs)) == len(configs), "two rows of a table are the same fit"
    assert TABLES["main"].rows[0].config() == FeatureConfig.published()
    assert FeatureConfig() in [row.config() for row in TABLES["main"].rows]


def test_settings_by_name() -> None:
    config = with_settings(FeatureConfig(), {"loss.phi_min": 1, "dim": 4, "sampling.batch_pixels": 100})
    assert (config.loss.phi_min, config.dim, config.sampling.batch_pixels) == (1.0, 4, 100)
    assert isinstance(config.loss.phi_min, float) and config.steps == FeatureConfig().steps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"color": 1}, "setting 'color': expected one of dim, steps"),
        ({"loss.color": 1}, "setting 'loss.color': expected one of phi_min"),
        ({"dim.size": 1}, "setting 'dim.size': expected one of none, found 'size'"),
        ({"loss": 1}, "setting 'loss': expected the name of a single value"),
        ({"dim": 2.5}, "setting 'dim': expected a value of type int, found 2.5"),
        ({"full_render": 1}, "setting 'full_render': expected a value of type bool, found 1"),
        ({"loss.phi_min": -1}, "phi_min, phi_max: expected 0 < min"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SplatsegError, match=message):
        with_settings(FeatureConfig(), settings)


# The command line -----------------------------------------------------------------------------------------------------


def run_ablation(*arguments: object) -> int:
    """Exit code of ``python -m benchmarks.ablation ARGUMENTS...``, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["ablation", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            runpy.run_module("benchmarks.ablation", run_name="__main__", alter_sys=True)
    code = ending.value.code
    return code if isinstance(code, int) else 0


def command(folder: Path, splat: Path, out: Path) -> list[str]:
    words = [str(folder), "--geometry", str(splat), "--out", str(out), "--tables", "main", "decay", "--seeds", "0"]
    return [*words, "--set", *FEW_WORDS, "--quiet"]


def test_script_writes_json_table_and_plot(
    folder: Path, splat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_ablation(*command(folder, splat, out)) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and (out / "ablation.md").read_text() in captured.out
    content = json.loads((out / "ablation.json").read_text())
    assert content["common"] == FEW and content["seeds"] == [0] and content["machine"]["threads"] >= 1
    main, decay = content["tables"]
    assert [row["row"] for row in main["rows"]] == [row.name for row in TABLES["main"].rows]
    assert 0 < main["ceilings"]["tiny"]["mean"] <= 1 and 0 < main["rows"][2]["mean"]["mean"] <= 1
    assert len(decay["rows"]) == 5 and decay["rows"][0]["mean"] == main["rows"][1]["mean"]  # a shared cell
    assert run_ablation(*command(folder, splat, out), "--no-measure", "--seeds", "0", "7") == 0
    row = json.loads((out / "ablation.json").read_text())["tables"][0]["rows"][0]
    assert row["seeds"] == [0] and row["mean"]["deviation"] is None, "seed 7 was measured though told not to"
    pytest.importorskip("matplotlib")
    with Image.open(out / "ablation.png") as picture:
        assert picture.width > 1000 and len(np.unique(np.array(picture.convert("L")))) > 20


def test_script_goes_on_after_sigkill(folder: Path, splat: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "benchmarks/ablation/__main__.py", *command(folder, splat, out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    results = out / "cells"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and len(list(results.glob("[!.]*.json"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in results.glob("[!.]*.json")}
    assert len(kept) >= 2, "nothing was measured before the kill"
    assert run_ablation(*command(folder, splat, out)) == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items()), "a finished cell was measured again"
    assert len(list(results.glob("[!.]*.json"))) == 1 + len(main_and_decay())


def main_and_decay() -> set[FeatureConfig]:
    return {row.config(FEW) for name in ("main", "decay") for row in TABLES[name].rows}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--tables", "colors"],
            "--tables: expected some of main, decay, dimension, segments, ideas, stress, found 'colors'",
        ),
        (["--tables", "stress", "--set", "steps=3"], "--set: expected none with the table stress"),
        (["--set", "steps"], "--set: expected NAME=VALUE, found 'steps'"),
        (["--set", "steps=many"], "setting 'steps': expected a value of type int, found 'many'"),
        (["--geometry", "a", "b"], "--geometry: expected one for each of 1 scenes, found 2"),
        (["--geometry", "nowhere.ply"], "nowhere.ply"),
        (["--masks", "nowhere"], "nowhere"),
    ],
)
def test_wrong_arguments(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run_ablation(folder, "--out", tmp_path / "out", "--quiet", *words) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1


def test_geometry_is_fitted_where_none_is_given(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--tables", "main", "--seeds", "0", "--set", *FEW_WORDS, "--quiet", "--fit.steps", "5"]
    assert run_ablation(folder, "--out", out, *words) == 0
    assert (out / "tiny" / "geometry.ply").is_file() and (out / "ablation.json").is_file()
