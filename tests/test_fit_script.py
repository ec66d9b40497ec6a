"""``scripts/fit.py`` from end to end: what it leaves, what a second call skips, a kill, and every refusal."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from plyfile import PlyData
from script_runner import run_script
from tiny_capture import TINY, write_capture

from splatseg.core.errors import SplatsegError
from splatseg.fit.pipeline import Fit
from splatseg.fit.settings import FitInputs
from splatseg.io.ply import load_gaussians

ROOT = Path(__file__).parent.parent
TINY_ARGUMENTS = ["--config.geometry.steps=30", "--config.features.steps=20", "--preset", "fast", "--quiet"]
INRIA = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *[f"f_rest_{i}" for i in range(9)], "opacity"]
INRIA += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of six small views with masks and ground truth."""
    return write_capture(tmp_path_factory.mktemp("capture") / "scene")


@pytest.fixture(scope="module")
def finished(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on :func:`capture`."""
    out = tmp_path_factory.mktemp("runs") / "run"
    Fit(FitInputs(capture, out, str(capture / "masks_2d")), TINY).execute()
    return out


def fit(*arguments: str | Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line; ``limit`` is the largest file it may write, in bytes (stands in for a full disk)."""

    def shrink() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "scripts/fit.py", *map(str, arguments), *TINY_ARGUMENTS]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=shrink, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def assert_refused(code: int, stderr: str, *words: str) -> None:
    """One line, exit code 2, no traceback, and the words a person needs."""
    assert code == 2, stderr
    assert "Traceback" not in stderr
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for word in words:
        assert word in last


Refuses = Callable[..., None]


@pytest.fixture
def refuses(capfd: pytest.CaptureFixture[str]) -> Refuses:
    """``refuses(arguments, words...)``: the script, run in this process, refuses the arguments with those words."""

    def check(arguments: list[str | Path], *words: str) -> None:
        code = run_script("fit.py", *arguments, *TINY_ARGUMENTS)
        assert_refused(code, capfd.readouterr().err, *words)

    return check


def copy_of(capture: Path, tmp_path: Path, change: Callable[[Path], None]) -> Path:
    scene = tmp_path / "scene"
    shutil.copytree(capture, scene)
    change(scene)
    return scene


def test_run_folder_holds_everything(finished: Path) -> None:
    vertex = PlyData.read(finished / "labels.ply")["vertex"]
    names = [p.name for p in vertex.properties]
    assert names[: len(INRIA)] == INRIA, "strict viewers read by position"
    labels = [name for name in names if name.startswith("label")]
    assert names == INRIA + labels and labels[:2] == ["label", "label_0"]
    tree = json.loads((finished / "labels.json").read_text())
    assert tree and len(vertex) == len(load_gaussians(finished / "geometry.ply"))
    figures = json.loads((finished / "metrics.json").read_text())
    assert figures["psnr_held_out"] > 5 and figures["peak_memory_mb"] > 0
    settings = yaml.safe_load((finished / "config.yaml").read_text())
    assert settings["geometry"]["steps"] == 30 and settings["features"]["loss"]["phi_min"] == 0.1
    with Image.open(finished / "contact_sheet.png") as sheet:
        assert len(np.unique(np.array(sheet).reshape(-1, 3), axis=0)) > 1000, "four pictures a row, not a blank"
        # four captioned pictures a row for the two held-out views, then two hierarchy previews
        assert sheet.height > 2 * 240
    assert len(list((finished / "hierarchy").glob("*.npz"))) == 6
    assert not list((finished / "checkpoints").glob("*.pt")), "checkpoints of finished stages are gone"


def test_unchanged_stages_are_not_run_again(capture: Path, finished: Path) -> None:
    stamps = {p: p.stat().st_mtime_ns for p in (finished / "geometry.ply", finished / "features.safetensors")}
    again = replace(TINY, features=replace(TINY.features, steps=21))
    Fit(FitInputs(capture, finished, str(capture / "masks_2d")), again).execute()
    geometry, features = stamps
    assert geometry.stat().st_mtime_ns == stamps[geometry], "geometry was kept"
    assert features.stat().st_mtime_ns != stamps[features], "its settings changed"


def test_given_splat_skips_the_geometry(capture: Path, finished: Path, tmp_path: Path) -> None:
    inputs = FitInputs(capture, tmp_path / "run", str(capture / "masks_2d"), splat=finished / "geometry.ply")
    figures = Fit(inputs, TINY).execute()
    assert "geometry_seconds" not in figures
    given, kept = load_gaussians(finished / "geometry.ply"), load_gaussians(tmp_path / "run" / "geometry.ply")
    assert given.fingerprint() == kept.fingerprint()


def test_short_options_reach_the_config(capture: Path, finished: Path, tmp_path: Path) -> None:
    splat = tmp_path / "splat.ply"
    shutil.copy(finished / "geometry.ply", splat)
    arguments = ["--masks", capture / "masks_2d", "--splat", splat, "--full-render", "--downscale", "1"]
    assert run_script("fit.py", capture, "--out", tmp_path / "run", *arguments, *TINY_ARGUMENTS) == 0
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["features"]["full_render"] is True and settings["downscale"] == 1
    assert (tmp_path / "run" / "labels.ply").is_file()


def test_downscaled_capture_with_watershed_masks(capture: Path, tmp_path: Path) -> None:
    config = replace(TINY, downscale=2)
    Fit(FitInputs(capture, tmp_path / "run"), config).execute()
    assert (tmp_path / "run" / "labels.ply").is_file()


def test_killed_fit_goes_on(capture: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of the geometry; the same command then finishes, and nothing half-written is left."""
    out = tmp_path / "run"
    arguments = [capture, "--out", out, "--masks", capture / "masks_2d"]
    command = [sys.executable, "scripts/fit.py", *map(str, arguments), "--preset", "fast", "--quiet"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "log.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / "log.jsonl").is_file() and not (out / "geometry.ply").exists()
    assert run_script("fit.py", *arguments, *TINY_ARGUMENTS) == 0
    assert (out / "labels.ply").is_file()
    assert not list(out.rglob("*.tmp*"))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: shutil.rmtree(s / "sparse"), ["sparse"]),
        (lambda s: (s / "sparse/0/images.bin").unlink(), ["images.bin"]),
        (lambda s: os.truncate(s / "sparse/0/points3D.bin", 100), ["points3D.bin"]),
        (lambda s: (s / "images/train_002.jpg").unlink(), ["train_002.jpg"]),
        (lambda s: (s / "images/train_001.jpg").write_bytes(b"no photo"), ["train_001.jpg"]),
        (lambda s: Image.new("RGB", (50, 40)).save(s / "images/train_003.jpg"), ["train_003.jpg", "50x40"]),
        (lambda s: (s / "masks_2d/train_000.json").write_text("[{"), ["train_000.json"]),
        (lambda s: [p.unlink() for p in (s / "masks_2d").iterdir()], ["masks_2d"]),
    ],
    ids=[
        "no model",
        "no images file",
        "truncated points",
        "photo gone",
        "no photo",
        "photo size",
        "bad json",
        "no masks",
    ],
)
def test_broken_captures_are_refused(
    capture: Path, tmp_path: Path, refuses: Refuses, change: Callable[[Path], None], words: list[str]
) -> None:
    scene = copy_of(capture, tmp_path, change)
    refuses([scene, "--out", tmp_path / "run", "--masks", scene / "masks_2d"], *words)
    assert not (tmp_path / "run" / "labels.ply").exists()


def test_missing_scene_and_masks_leave_no_folder(capture: Path, tmp_path: Path, refuses: Refuses) -> None:
    """The first in a process of its own: that it ends so, and says nothing else."""
    done = fit(tmp_path / "nowhere", "--out", tmp_path / "run")
    assert_refused(done.returncode, done.stderr, "nowhere")
    refuses([capture, "--out", tmp_path / "run", "--masks", "waterfall"], "waterfall", "watershed")
    assert not (tmp_path / "run").exists()


def inverted(scene: Path) -> None:
    for path in (scene / "images").iterdir():
        with Image.open(path) as image:
            pixels = np.array(image)
        Image.fromarray(255 - pixels).save(path)


def test_run_of_another_scene_is_refused_and_kept(
    capture: Path, finished: Path, tmp_path: Path, refuses: Refuses
) -> None:
    other = copy_of(capture, tmp_path, inverted)
    before = (finished / "labels.ply").read_bytes()
    refuses([other, "--out", finished], "scene", "choose another --out")
    assert (finished / "labels.ply").read_bytes() == before


def test_broken_splat_is_refused(capture: Path, finished: Path, tmp_path: Path, refuses: Refuses) -> None:
    data = PlyData.read(finished / "geometry.ply")
    data["vertex"].data["scale_1"][7] = np.nan
    data.write(tmp_path / "broken.ply")
    refuses([capture, "--out", tmp_path / "run", "--splat", tmp_path / "broken.ply"], "broken.ply", "scale_1", "7")


def test_full_disk_keeps_what_was_written(capture: Path, tmp_path: Path) -> None:
    arguments = [capture, "--out", tmp_path / "run", "--masks", capture / "masks_2d"]
    done = fit(*arguments, limit=20_000)
    assert_refused(done.returncode, done.stderr, "file too large")
    assert not list((tmp_path / "run").glob("*.ply")), "nothing half-written is taken for whole"
    assert run_script("fit.py", *arguments, *TINY_ARGUMENTS) == 0


def test_two_fits_in_one_folder(capture: Path, finished: Path) -> None:
    first = Fit(FitInputs(capture, finished, str(capture / "masks_2d")), TINY)
    with first.run.lock(), pytest.raises(SplatsegError, match="in use by process"):
        Fit(FitInputs(capture, finished, str(capture / "masks_2d")), TINY).execute()
