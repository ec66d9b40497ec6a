"""``splatseg fit --config FILE``: a run's ``config.yaml`` is all it takes to repeat the run."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from script_runner import run_script
from tiny_capture import TINY, write_capture

import splatseg
from splatseg.core.errors import SplatsegError
from splatseg.fit.config_file import build, read_fit_config
from splatseg.fit.geometry import GeometryConfig
from splatseg.fit.pipeline import Fit
from splatseg.fit.settings import FitConfig, plain
from splatseg.io.ply import load_gaussians
from splatseg.masks.sam.config import SamConfig

CONFIGS = {
    "default": FitConfig(),
    "fast": FitConfig.preset("fast"),
    "other": replace(FitConfig(), sam=SamConfig(checkpoint=Path("w.pth"), device="cpu"), hold_out_every=3),
}


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("config") / "scene")


@pytest.fixture(scope="module")
def finished(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    splatseg.fit_scene(capture, out, capture / "masks_2d", TINY)
    return out


def written(config: FitConfig, path: Path, **changes: object) -> Path:
    """``config`` as the fit writes it, with other values at dotted names."""
    settings = plain(config)
    for name, value in changes.items():
        *groups, last = name.split("__")
        inner = settings
        for group in groups:
            inner = inner[group]
        inner[last] = value
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_is_read_back(name: str, tmp_path: Path) -> None:
    for _ in range(2):
        _, config = read_fit_config(written(CONFIGS[name], tmp_path / "config.yaml"))
        assert config == CONFIGS[name]


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("geometry: {steps: 7, lr_means: 1e-6}\n")  # YAML takes a number without a dot for a text
    repeated, config = read_fit_config(path)
    assert config == replace(FitConfig(), geometry=replace(GeometryConfig(), steps=7, lr_means=1e-6))
    assert repeated.scene is None and repeated.masks is None and not repeated.sfm


def test_a_run_is_repeated(capture: Path, finished: Path, tmp_path: Path) -> None:
    """Into another folder: the same settings, the same splat; options beat the file."""
    file = finished / "config.yaml"
    assert run_script("fit.py", "--config", file, "--out", tmp_path / "again", "--quiet") == 0
    one, two = (yaml.safe_load((run / "config.yaml").read_text()) for run in (finished, tmp_path / "again"))
    assert one == two and one["scene"] == str(capture)
    assert (
        load_gaussians(finished / "geometry.ply").fingerprint()
        == load_gaussians(tmp_path / "again" / "geometry.ply").fingerprint()
    )
    changed = ["--config.geometry.steps", "20", "--masks", "watershed"]
    assert run_script("fit.py", f"--config={file}", "--out", tmp_path / "other", "--quiet", *changed) == 0
    other = yaml.safe_load((tmp_path / "other" / "config.yaml").read_text())
    assert other["geometry"]["steps"] == 20 and other["masks"] == "watershed"
    assert other["features"] == one["features"]


def test_a_preset_beats_geometry_and_features(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Fit, "execute", lambda self: seen.append(self.config) or {})
    file = written(TINY, tmp_path / "c.yaml", hold_out_every=3, scene=str(finished.parent))
    assert run_script("fit.py", "--config", file, "--out", tmp_path / "run", "--preset", "quality") == 0
    assert seen == [replace(FitConfig.preset("quality"), hold_out_every=3)]


def test_kept_masks_are_taken_again(capture: Path, tmp_path: Path) -> None:
    """Masks made ahead lie in the run; a repeat in another folder takes those, also where nothing can make them."""
    run, gone = tmp_path / "run", tmp_path / "masks"
    shutil.copytree(capture / "masks_2d", gone)
    assert run_script("masks.py", capture, "--out", run, "--source", gone, "--quiet") == 0
    shutil.rmtree(gone)
    splatseg.fit_scene(capture, run, None, TINY)
    file = run / "config.yaml"
    assert Path(yaml.safe_load(file.read_text())["masks_in"]).is_dir()
    assert run_script("fit.py", "--config", file, "--out", tmp_path / "again", "--quiet") == 0
    for name in sorted(path.name for path in (run / "hierarchy").glob("*.npz")):
        assert (tmp_path / "again" / "hierarchy" / name).read_bytes() == (run / "hierarchy" / name).read_bytes()
    shutil.rmtree(run / "masks")
    assert run_script("fit.py", "--config", file, "--out", tmp_path / "third", "--quiet") == 2
    assert not (tmp_path / "third").exists()


REFUSED = [
    ("geometry: [", "expected the config.yaml of a run, found: "),
    ("- 1", "expected settings (name: value), found a list"),
    ("", "expected settings (name: value), found nothing"),
    ("steps: 3", "steps: expected a setting of this version, found an unknown name"),
    ("geometry: {stepz: 3}", "geometry.stepz: expected a setting of this version, found an unknown name "),
    ("geometry: {steps: many}", "geometry.steps: expected a whole number, found 'many'"),
    ("geometry: {steps: 3.5}", "geometry.steps: expected a whole number, found 3.5"),
    ("geometry: {steps: true}", "geometry.steps: expected a whole number, found True"),
    ("geometry: {packed: 1}", "geometry.packed: expected true or false, found 1"),
    ("geometry: {init_scale: .nan}", "geometry.init_scale: expected a number, found nan"),
    ("geometry: {strategy: best}", "geometry.strategy: expected one of default, mcmc, found 'best'"),
    ("geometry: 3", "geometry: expected settings (name: value), found 3"),
    ("watershed: {cuts: 3}", "watershed.cuts: expected a list, found 3"),
    ("watershed: {cuts: [3, x]}", "watershed.cuts[1]: expected a whole number, found 'x'"),
    ("features: {loss: {phi_min: 4}}", "features.loss.phi_min, phi_max: expected 0 < min <= max, found 4.0 and 1.0"),
    ("features: {dim: 0}", "features.dim: expected at least 1, found 0"),
    ("scene: 3", "scene: expected a path, found 3"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_a_bad_file_is_one_line(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert run_script("fit.py", "scene", "--config", file, "--out", tmp_path / "run") == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert told.err.startswith(f"error: {file}: {message}"), told.err
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script("fit.py", "scene", "--config", tmp_path / "none.yaml") == 2
    assert f"error: {tmp_path / 'none.yaml'}: expected the config.yaml of a run" in capsys.readouterr().err
    assert run_script("fit.py", "scene", "--config") == 2


def test_every_setting_is_of_a_kind_that_is_read() -> None:
    """Each field of each group, changed by nothing: a new kind of field that the reader does not know fails here."""
    values_of = plain(FitConfig())

    def fields(kind: type, values: dict) -> None:  # type: ignore[type-arg]
        for field in dataclasses.fields(kind):
            build(kind, {field.name: values[field.name]})

    fields(FitConfig, values_of)
    with pytest.raises(SplatsegError, match="nope: expected a setting"):
        build(FitConfig, {"nope": 1})
