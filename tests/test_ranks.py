"""A fit by several ranks: the results of one, a kill at any moment, and every refusal in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rank_launcher import ROOT, Outcome, RankLauncher
from safetensors.torch import load_file
from tiny_capture import write_capture

from splatseg.core.machine import is_alive, is_running
from splatseg.core.ranks import ALONE, Ranks, launched, moved
from splatseg.core.scene import Points
from splatseg.fit.geometry import GeometryConfig
from splatseg.fit.geometry.init import gaussians_from_points
from splatseg.fit.geometry.shared import added_up
from splatseg.fit.geometry.state import FitState, Seen, VisibleAdam
from splatseg.io.run import Run

SETTINGS = ["--preset", "fast", "--config.geometry.steps", 30, "--config.geometry.max-gaussians", 4000]
SETTINGS += ["--config.geometry.refine-every", 5, "--config.features.dim", 8, "--config.features.steps", 20]
SETTINGS += ["--config.features.sampling.pool-pixels", 2000, "--config.features.sampling.batch-pixels", 2000]
SETTINGS += ["--config.features.segment-features.steps", 60, "--quiet"]

LARGE_POOLS = ["--config.features.sampling.pool-pixels", 20_000]  # the features need most then, and every rank has some


@pytest.fixture(scope="module")
def launcher() -> Iterator[RankLauncher]:
    with RankLauncher() as started:
        yield started


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture") / "scene")


@pytest.fixture(scope="module")
def finished(launcher: RankLauncher, capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by one rank."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert launcher.run("fit", words(capture, out), 1).codes == [0]
    return out


def words(capture: Path, out: Path, *more: object) -> list[object]:
    return [capture, "--out", out, "--masks", capture / "masks_2d", *SETTINGS, *more]


def of_splat(capture: Path, finished: Path, out: Path) -> list[object]:
    """A fit to the same splat for any number of ranks."""
    return words(capture, out, "--splat", finished / "geometry.ply")


@pytest.fixture(scope="module")
def of_one(launcher: RankLauncher, capture: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("splat") / "run"
    assert launcher.run("fit", of_splat(capture, finished, out), 1).codes == [0]
    return out


def assert_same_features(one: Path, other: Path) -> None:
    """Bit for bit, and labels with them."""
    first, second = load_file(one / "features.safetensors"), load_file(other / "features.safetensors")
    assert first.keys() == second.keys() and "features" in first
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert (one / "labels.ply").read_bytes() == (other / "labels.ply").read_bytes()


def assert_whole(out: Path) -> None:
    """Finished, and nothing half-written is left."""
    assert (out / "contact_sheet.png").is_file()
    assert not list(out.rglob(".*.tmp*")) and not list(out.rglob("*.pt"))


def assert_one_line(outcome: Outcome, *parts: str, speaker: int = 0) -> None:
    """One line, of rank ``speaker``, before any traceback."""
    assert len(outcome.said) == 1, outcome.errors
    assert outcome.codes[speaker] == 2 and outcome.errors[speaker].strip().splitlines()[-1] == outcome.said[0]
    for part in parts:
        assert part in outcome.said[0]


# Results -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4])
def test_features_and_labels_have_the_bits_of_one_rank(
    launcher: RankLauncher, capture: Path, finished: Path, of_one: Path, tmp_path: Path, count: int
) -> None:
    """The last rank reads a copy of the capture, as on a machine with disks of its own."""
    shutil.copytree(capture, tmp_path / "copy")
    arguments = [of_splat(capture, finished, tmp_path / "run")] * (count - 1)
    arguments.append(of_splat(tmp_path / "copy", finished, tmp_path / "run"))
    assert launcher.run("fit", arguments, count).codes == [0] * count
    assert_same_features(of_one, tmp_path / "run")
    assert_whole(tmp_path / "run")
    for stage in ("hierarchy", "features", "labels"):
        stamps = [json.loads((run / f"stages/{stage}.json").read_text()) for run in (of_one, tmp_path / "run")]
        assert stamps[0]["digest"] == stamps[1]["digest"], "of the work, not of who did it"


@pytest.mark.parametrize("count", [2, 4])
def test_geometry_is_as_good_and_is_not_done_again(
    launcher: RankLauncher, capture: Path, finished: Path, tmp_path: Path, count: int
) -> None:
    out = tmp_path / "run"
    assert launcher.run("fit", words(capture, out), count).codes == [0] * count
    of_one, of_more = (json.loads((run / "metrics.json").read_text()) for run in (finished, out))
    assert abs(of_one["psnr_held_out"] - of_more["psnr_held_out"]) < 1
    assert (out / "stages/geometry.json").read_text().split('"digest": ')[1][:18] == (
        (finished / "stages/geometry.json").read_text().split('"digest": ')[1][:18]
    )
    before = {path: path.stat().st_mtime_ns for path in (out / "geometry.ply", out / "features.safetensors")}
    for again in (1, 2):
        assert launcher.run("fit", words(capture, out), again).codes == [0] * again
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_from_noise_and_through_full_renders(
    launcher: RankLauncher, capture: Path, finished: Path, tmp_path: Path
) -> None:
    """Without evidence to look at, rank 0 makes a share of the pools."""
    more = ["--config.features.init", "noise", "--config.features.steps", 3, "--full-render"]
    for count in (1, 2):
        arguments = [*of_splat(capture, finished, tmp_path / f"by{count}"), *more]
        assert launcher.run("fit", arguments, count).codes == [0] * count
    assert_same_features(tmp_path / "by1", tmp_path / "by2")


def test_blocks_are_dealt_and_have_the_bits_of_one_rank(launcher: RankLauncher, capture: Path, tmp_path: Path) -> None:
    """Three blocks, of which a rank has two; a rank that is killed within its block; another number of ranks."""
    for count in (1, 2):
        assert launcher.run("fit", words(capture, tmp_path / f"by{count}", "--blocks", 3), count).codes == [0] * count
    one, two = ((tmp_path / f"by{count}/geometry.ply").read_bytes() for count in (1, 2))
    assert one == two
    assert_same_features(tmp_path / "by1", tmp_path / "by2")
    out = tmp_path / "killed"
    arguments = words(capture, out, "--blocks", 3)
    outcome = launcher.run("fit", arguments, 2, rank1=[("killed_at_step", 20)])
    assert outcome.codes[1] < 0 and outcome.codes[0] == 2 and "found it lost" in outcome.said[0]
    assert not (out / "geometry.ply").exists()
    assert launcher.run("fit", arguments, 1).codes == [0]
    assert (out / "geometry.ply").read_bytes() == one
    assert_whole(out)


def test_ranks_that_round_differently_stay_together(launcher: RankLauncher, capture: Path, tmp_path: Path) -> None:
    outcome = launcher.run("fit", words(capture, tmp_path / "run"), 2, rank1=[("rounds_differently", 4)])
    assert outcome.codes == [0, 0], outcome.errors
    assert outcome.errors[0].count("round differently") == 1
    assert_whole(tmp_path / "run")


def test_one_process_that_torchrun_started_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() == (0, 1, 0)
    assert list(ALONE.collect(3, lambda numbers: iter(numbers))) == [0, 1, 2]
    assert ALONE.gather("x") == ["x"] and ALONE.broadcast("x") == "x" and ALONE.neighbors() == 1


def test_shares_cover_everything_once() -> None:
    for count in (0, 1, 5, 7):
        for size in (1, 2, 3, 8):
            ranks = [Ranks() for _ in range(size)]
            for rank, one in enumerate(ranks):
                one.rank, one.size = rank, size
            assert sorted(item for one in ranks for item in one.deal(range(count))) == list(range(count))


def test_tensors_of_anything_are_moved() -> None:
    found = moved({"a": (torch.zeros(2), "text"), "b": [torch.ones(1)]}, "meta")
    assert found["a"][0].device.type == found["b"][0].device.type == "meta" and found["a"][1] == "text"


def test_a_killed_process_that_is_not_waited_for_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_running(process.pid) and is_running(os.getpid())
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
        assert is_alive(process.pid) and not is_running(process.pid)
    assert not is_running(process.pid)


# A step of several views ---------------------------------------------------------------------------------------------


def adam_after(gradients: list[torch.Tensor]) -> VisibleAdam:
    """One step for each of ``gradients`` (4, 3), from zeros."""
    param = torch.nn.Parameter(torch.zeros(4, 3))
    adam = VisibleAdam(param, torch.tensor([0.1, 0.2, 0.3]))
    for gradient in gradients:
        param.grad = gradient.clone()
        adam.step_visible(torch.ones(4, dtype=torch.bool))
    return adam


def state_of(adam: VisibleAdam) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    param = adam.param_groups[0]["params"][0]
    state = adam.state[param]
    return param.detach(), state["exp_avg"], state["exp_avg_sq"], state["step"]


def test_a_step_of_equal_views_has_the_averages_of_as_many_steps() -> None:
    """Of three views: rows that three, two, one or none of them draw."""
    gradient = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    drawn = torch.tensor([3.0, 2.0, 1.0, 0.0])
    at_once = adam_after([])
    at_once.param_groups[0]["params"][0].grad = gradient.clone()
    at_once.step_of_views(drawn, 3, torch.zeros(4, 3))
    values, mean, square, count = state_of(at_once)
    assert count == 3
    for row, times in enumerate((3, 2, 1)):
        expected = state_of(adam_after([gradient] * times))
        torch.testing.assert_close(mean[row], expected[1][row])
        torch.testing.assert_close(square[row], expected[2][row], rtol=1e-4, atol=0)
        # The bias of the averages is that of three steps: a row that fewer views draw has moved less often.
        scale = times**-0.25 * (1 - 0.9**times) / (1 - 0.9**3) * ((1 - 0.999**3) / (1 - 0.999**times)) ** 0.5
        torch.testing.assert_close(values[row], expected[0][row] * scale, rtol=1e-4, atol=0)
    assert not values[3].any() and not mean[3].any() and not square[3].any()


def test_what_views_differ_by_goes_into_the_average_of_squares() -> None:
    first, second = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    both = torch.full((4,), 2.0)
    adam = adam_after([])
    adam.param_groups[0]["params"][0].grad = (first + second) / 2
    adam.step_of_views(both, 2, (first.square() + second.square()) / 2 - ((first + second) / 2).square())
    expected = (1 - 0.999**2) * (first.square() + second.square()) / 2
    torch.testing.assert_close(state_of(adam)[2], expected, rtol=1e-4, atol=1e-9)


class Twice(Ranks):
    """As if another rank had seen the same."""

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.mul_(2)


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_sums_of_two_views_that_are_one(strategy: str) -> None:
    config = GeometryConfig() if strategy == "default" else GeometryConfig().mcmc()
    points = Points(torch.rand(50, 3), torch.zeros(50, 3, dtype=torch.uint8))
    state = FitState(gaussians_from_points(points, config), 1.0, config)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(50, generator=generator) > 0.3
    before = {}
    for name, param in state.params.items():
        param.grad = torch.randn(param.shape, generator=generator)
        before[name] = param.grad.clone()
    pull = torch.where(drawn, torch.rand(50, generator=generator), 0) if state.by_gradient else None
    weights = torch.rand(50, 2, generator=generator)
    seen = added_up(state, Seen(torch.tensor(3.0), drawn, pull, left_out=weights), 2, Twice())
    assert seen.left_out is not None and torch.equal(seen.left_out, 2 * weights)
    assert torch.equal(seen.drawn, 2.0 * drawn) and float(seen.loss) == 3 and seen.views == 2
    assert (seen.pull is None) == (strategy == "mcmc") and (pull is None or torch.equal(seen.pull, 2 * pull))
    assert seen.spread is not None
    for name, param in state.params.items():
        assert torch.equal(param.grad[drawn], before[name][drawn]) and not param.grad[~drawn].any()
        assert float(seen.spread[name].max()) < 1e-5
    nothing = added_up(state, None, 1, Twice())
    assert not nothing.drawn.any() and not any(param.grad.any() for param in state.params.values())


# Kills ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost, then", [(1, 1), (0, 2)])
def test_killed_in_the_geometry(launcher: RankLauncher, capture: Path, tmp_path: Path, lost: int, then: int) -> None:
    """SIGKILL of a rank, twice: each call goes on where the one before stopped, with another number of ranks."""
    out = tmp_path / "run"
    steps = []
    for count, step in ((2, 5), (4, 3)):
        faults = {"rank0": [("checkpoints_at_once",)]}
        faults[f"rank{lost}"] = [*faults.get(f"rank{lost}", []), ("killed_at_step", step)]
        outcome = launcher.run("fit", words(capture, out), count, **faults)
        assert outcome.codes[lost] == -9
        assert_one_line(outcome, f"rank {lost} of {count}", "lost", "goes on", speaker=0 if lost else 1)
        assert not (out / "geometry.ply").exists()
        saved = Run(out).load_checkpoint("geometry")
        assert saved is not None
        steps.append(saved["state"]["step"])
    assert 0 < steps[0] < steps[1]
    assert launcher.run("fit", words(capture, out), then).codes == [0] * then
    assert_whole(out)


@pytest.mark.parametrize(
    "rank, fault, then",
    [
        (1, ("killed_at_hierarchy", 2), 1),
        (1, ("killed_at_pool", 2), 1),
        (1, ("killed_at_pool", 4), 3),
        (0, ("killed_at_pool", 2), 1),
        (0, ("killed_at_feature_step", 10), 3),
        (0, ("killed_at_labels",), 1),
        (1, ("killed_in_labels_of_the_first",), 1),
    ],
    ids=["hierarchy", "evidence", "pools", "evidence of the first", "steps", "labels", "while the first labels"],
)
def test_killed_in_the_features(
    launcher: RankLauncher,
    capture: Path,
    finished: Path,
    of_one: Path,
    tmp_path: Path,
    rank: int,
    fault: tuple[object, ...],
    then: int,
) -> None:
    """The next call, with another number of ranks, ends with the bits of a fit that was never stopped."""
    faults = {"rank0": [("checkpoints_at_once",)]}
    faults[f"rank{rank}"] = [*faults.get(f"rank{rank}", []), fault]
    arguments = of_splat(capture, finished, tmp_path / "run")
    outcome = launcher.run("fit", arguments, 2, **faults)
    assert outcome.codes[rank] == -9
    assert_one_line(outcome, f"rank {rank} of 2", "lost", speaker=1 - rank)
    assert launcher.run("fit", arguments, then).codes == [0] * then
    assert_same_features(of_one, tmp_path / "run")
    assert_whole(tmp_path / "run")


# Refusals ------------------------------------------------------------------------------------------------------------


def test_other_settings_in_a_rank(launcher: RankLauncher, capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for _ in range(2):
        other = words(capture, out, "--config.geometry.lr-means", 0.5)
        outcome = launcher.run("fit", [words(capture, out), other], 2)
        assert_one_line(outcome, "rank 1 of 2", "geometry.lr_means", "0.00096", "0.5", "same command")
        assert outcome.codes == [2, 2] and not out.exists()


def inverted(scene: Path) -> str:
    for path in (scene / "images").iterdir():
        with Image.open(path) as image:
            pixels = np.array(image)
        Image.fromarray(255 - pixels).save(path)
    return "photos"


def without_a_photo(scene: Path) -> str:
    (scene / "images/train_001.jpg").unlink()
    return "train_001.jpg"


def with_other_masks(scene: Path) -> str:
    shutil.copy(scene / "masks_2d/train_000.json", scene / "masks_2d/train_001.json")
    return "masks"


@pytest.mark.parametrize("change", [inverted, without_a_photo, with_other_masks])
def test_another_scene_in_a_rank(
    launcher: RankLauncher, capture: Path, tmp_path: Path, change: Callable[[Path], str]
) -> None:
    out, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(capture, other)
    named = change(other)
    outcome = launcher.run("fit", [words(capture, out), words(other, out)], 2)
    assert_one_line(outcome, "rank 1 of 2", named)
    assert outcome.codes == [2, 2] and not out.exists()


@pytest.mark.parametrize("command", ["fit", "masks"])
def test_a_run_folder_that_is_not_shared(launcher: RankLauncher, capture: Path, tmp_path: Path, command: str) -> None:
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders if command == "fit" else []:
        folder.mkdir()
    for _ in range(2):
        if command == "fit":
            each = [words(capture, folder) for folder in folders]
        else:
            each = [[capture, "--source", "watershed", "--out", folder] for folder in folders]
        outcome = launcher.run(command, each, 2, rank1=[("impatient",)])
        assert_one_line(outcome, "rank 1 of 2", str(folders[1]), "expected a run folder")
        assert not folders[1].exists() or not list(folders[1].iterdir())
        assert command == "masks" or not list(folders[0].iterdir())


def test_a_rank_without_memory(launcher: RankLauncher, capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = launcher.run("fit", words(capture, out, *LARGE_POOLS), 2, rank1=[("little_memory", 1)])
    assert_one_line(outcome, "rank 1 of 2", "memory: expected", "of 2 ranks", "0.0 GB free")
    assert outcome.codes == [2, 2] and not out.exists()


def test_ranks_of_a_machine_share_its_memory(launcher: RankLauncher, capture: Path, tmp_path: Path) -> None:
    """What is enough for one is not for two."""
    little = [("little_memory", 26)]
    arguments = words(capture, tmp_path / "run", *LARGE_POOLS)
    assert launcher.run("fit", arguments, 1, rank0=little).codes == [0]
    outcome = launcher.run("fit", words(capture, tmp_path / "other", *LARGE_POOLS), 2, rank0=little, rank1=little)
    assert_one_line(outcome, "memory: expected", "of 2 ranks")


def test_a_photo_that_one_rank_cannot_read(launcher: RankLauncher, capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for rank in (1, 0):
        faults = {f"rank{rank}": [("unreadable_at_step", 4)]}
        outcome = launcher.run("fit", words(capture, out), 2, **faults)
        assert_one_line(outcome, "train_001.jpg: unreadable image", f"rank {rank} of 2" if rank else "error: train")
        assert outcome.codes == [2, 2]


def test_a_bug_in_a_rank_keeps_its_traceback(launcher: RankLauncher, capture: Path, tmp_path: Path) -> None:
    outcome = launcher.run("fit", words(capture, tmp_path / "run"), 3, rank2=[("bug_at_step", 4)])
    assert_one_line(outcome, "rank 2 of 3", "bug (KeyError)")
    assert outcome.codes == [2, 2, 1] and "a bug of this test" in outcome.errors[2]


def test_what_all_ranks_refuse_is_said_once(launcher: RankLauncher, capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for arguments, part in (
        ([tmp_path / "nowhere", "--out", out], "nowhere: expected a folder"),
        (words(capture, out, "--config.geometry.steps", 0), "geometry.steps: expected at least 1"),
        (words(capture, out, "--colour"), "--colour"),
    ):
        outcome = launcher.run("fit", arguments, 2)
        assert_one_line(outcome, part)
        assert outcome.codes == [2, 2] and " of 2" not in outcome.said[0] and not out.exists()


def test_masks_by_ranks(launcher: RankLauncher, capture: Path, tmp_path: Path) -> None:
    arguments = [capture, "--source", "watershed", "--out", tmp_path / "run"]
    outcome = launcher.run("masks", arguments, 3)
    assert (
        outcome.codes == [0, 0, 0]
        and outcome.output[0].startswith("6 views: 6 made")
        and outcome.output[1:] == ["", ""]
    )
    assert launcher.run("masks", arguments, 2).output[0].startswith("6 views: 0 made, 6 already there")


# torchrun itself -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchrun(capture: Path, finished: Path, of_one: Path, tmp_path: Path) -> None:
    """The command of the manual; then what torchrun makes of a refusal: our line comes first."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "scripts/fit.py"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def torchrun(arguments: list[object]) -> subprocess.CompletedProcess[str]:
        whole = [*command, *map(str, arguments)]
        return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, env=env, timeout=300)

    done = torchrun(of_splat(capture, finished, tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert_same_features(of_one, tmp_path / "run")
    refused = torchrun([tmp_path / "nowhere", "--out", tmp_path / "other"])
    assert refused.returncode != 0
    lines = refused.stderr.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    first = next(index for index, line in enumerate(lines) if line.startswith("error: "))
    assert not any("Traceback" in line or "ChildFailedError" in line for line in lines[:first])
