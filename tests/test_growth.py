"""What growth.py measures on and how it fits: masks are those of the pixels, exponents are slopes, cells go on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import growth, growth_scene
from splatseg.masks import MaskSet
from splatseg.render import trace

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("seed", range(4))
def test_enlarged_run_lengths_are_those_of_the_enlarged_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = np.stack([rng.random((9, 7)) < 0.5, np.ones((9, 7), bool), np.eye(9, 7, dtype=bool)])
    for mask in coarse:
        whole = np.kron(mask, np.ones((growth_scene.COARSE, growth_scene.COARSE), bool))
        found = MaskSet(36, 28, (growth_scene.run_lengths(mask),))
        assert np.array_equal(found.counts[0], MaskSet.from_dense(whole[None]).counts[0])


def test_views_show_the_gaussians_of_the_faces_that_are_cast() -> None:
    """The mask of a box holds the pixels whose Gaussians lie on that box."""
    splat = growth_scene.splat(60_000)
    camera = growth_scene.views(6, 0.05)[2].camera
    box, _, _ = growth_scene.cast(camera)
    rows, columns = np.mgrid[1 : camera.height // 4 - 1, 1 : camera.width // 4 - 1]
    pixels = torch.from_numpy(np.stack([4 * columns.ravel() + 2, 4 * rows.ravel() + 2], 1).astype(np.int32))
    found = trace(splat, camera, pixels)
    centers, edges = growth_scene.boxes()
    means = splat.means.double().numpy()
    outside = np.abs(np.abs(means[:, None] - centers).max(2) - edges / 2)
    on = outside.argmin(1)  # a Gaussian lies on the surface of its box
    weights = np.zeros((len(pixels), len(edges)))
    np.add.at(weights, (found.order[found.entry_rows()].numpy(), on[found.ids.numpy()]), found.weights.numpy())
    shown = box[rows, columns]
    around = np.stack([box[rows + dy, columns + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    inner = (around == shown).all(axis=0).ravel()  # at edges a Gaussian reaches into its neighbors' pixels
    agree = (weights.argmax(1) == shown.ravel())[inner]
    assert len(np.unique(shown)) > 10 and inner.sum() > 1000
    assert agree.mean() > 0.75


def test_exponents_are_slopes() -> None:
    assert growth.exponent([(1, 3), (10, 30), (100, 300)]) == 1.0
    assert growth.exponent([(2, 1), (4, 4), (8, 16)]) == 2.0
    assert growth.exponent([(1, 5), (10, 5)]) == 0.0
    assert growth.exponent([(1, 5), (10, -3)]) is None


def test_cells_are_named_once_and_runs_come_before_those_who_open_them() -> None:
    names = [place.name for place in growth.places()]
    assert len(set(names)) == len(names)
    for name in names:
        stage, rest = name.split("/", 1)
        if stage in ("labels", "viewer", "export"):
            assert names.index(f"features/{rest}") < names.index(name)


def test_a_cell_is_measured_once_and_the_report_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two calls: the first measures what is asked for, the second has nothing to do; ``--again`` has."""
    measured: list[str] = []

    def fake(place: growth.Place, work: Path, threads: int) -> dict[str, object]:
        measured.append(place.name)
        step = {"seconds": 2.0, "processor_seconds": 1.0 + place.masks, "before_mb": 450, "peak_mb": 500 + place.masks}
        return {"threads": threads, "load": 0.0, "steps": {"hierarchy": step}}

    monkeypatch.setattr(growth, "measure", fake)
    monkeypatch.setattr(growth, "RESULTS", tmp_path)
    for arguments, count in (([], 2), ([], 2), (["--again"], 4), (["--report"], 4)):
        monkeypatch.setattr(
            "sys.argv", ["growth", "--only", "hierarchy/400k/50v/50m/0.3", "--only", "200m/0.3mp", *arguments]
        )
        monkeypatch.setattr(growth, "STAGES", {"hierarchy": ("masks",)})
        monkeypatch.setattr(growth, "TARGETS", ())
        growth.main()
        assert len(measured) == count
    rows = json.loads((tmp_path / "growth.json").read_text())["growth"]
    assert rows[0]["seconds"] == [[50, 51.0], [200, 201.0]] and rows[0]["seconds_exponent"] == 0.99
    assert (
        "| hierarchy | masks per view | 50 / 200 | 51 / 201 | 0.99 | 550 / 700 |"
        in (tmp_path / "growth.md").read_text()
    )
    assert (tmp_path / "growth.png").stat().st_size > 10_000


METERED = """
import json
import numpy as np
from benchmarks.growth_stages import Meter
meter = Meter()
with meter.step("large"):
    np.ones(1 << 25).sum()  # 256 MB
with meter.step("small"):
    np.ones(1 << 10).sum()
print(json.dumps(meter.steps))
"""


def test_the_meter_tells_the_peak_of_a_step() -> None:
    """In a process of its own, as each cell is measured: peaks of children that have ended count, too."""
    done = subprocess.run([sys.executable, "-c", METERED], capture_output=True, text=True, check=True, cwd=ROOT)
    steps = json.loads(done.stdout)
    large, small = steps["large"], steps["small"]
    assert large["peak_mb"] - large["before_mb"] > 200 > small["peak_mb"] - small["before_mb"]
