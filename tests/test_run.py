"""The run folder: nothing half-written, stages that run again only when they must, kills survived, one fit."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from splatseg.core.atomic import write_together
from splatseg.core.errors import SplatsegError
from splatseg.io.digests import digest
from splatseg.io.run import Run, atomic_write

ROOT = Path(__file__).parent.parent


def run_python(code: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


# atomic_write --------------------------------------------------------------------------------------------------


def test_atomic_write_makes_parents_and_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a" / "b.npz") as temporary:
        assert temporary.parent == tmp_path / "a" and temporary.suffix == ".npz" and temporary.name.startswith(".")
        np.savez(temporary, x=np.arange(3))
        assert not (tmp_path / "a" / "b.npz").exists()
    assert np.load(tmp_path / "a" / "b.npz")["x"].tolist() == [0, 1, 2]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.npz"]


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), KeyError("k")])
def test_failure_in_the_block_keeps_the_old_file_and_the_error(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "f.txt"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_an_unrelated_os_error_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "f.txt"):
        (tmp_path / "other").read_text()


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    expected = pytest.raises(SplatsegError, match=r"file/f\.txt: expected a place to write to, found")
    with expected, atomic_write(tmp_path / "file" / "f.txt") as temporary:
        temporary.write_text("x")


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.io import Run, save_gaussians, write_text
folder = Path(sys.argv[1])
n = 3000
g = Gaussians(torch.zeros(n, 3), torch.ones(n, 4), torch.zeros(n, 3), torch.zeros(n), torch.zeros(n, 16, 3))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for write in (
    lambda: write_text(folder / "big.txt", "x" * 200_000),
    lambda: save_gaussians(folder / "geometry.ply", g),
    lambda: Run(folder).save_checkpoint("geometry", {"x": torch.zeros(100_000)}),
):
    try:
        write()
        print("written")
    except SplatsegError as error:
        print(error)
"""


def test_no_room_is_one_line_naming_the_file_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    # A file-size limit stands in for a full disk: the three writers (Python, plyfile/numpy, torch) fail mid-file.
    (tmp_path / "big.txt").write_text("old")
    process = run_python(FULL_DISK, str(tmp_path))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert len(lines) == 3, out
    for line, name in zip(lines, ("big.txt", "geometry.ply", "checkpoints/geometry.pt"), strict=True):
        assert line.startswith(f"{tmp_path / name}: expected room to write the file, found")
    assert (tmp_path / "big.txt").read_text() == "old"
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert files == [tmp_path / "big.txt"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


# digest --------------------------------------------------------------------------------------------------------


def test_digest_depends_on_values_and_contents_only(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"abc")
    base = digest({"a": 1, "b": [1.5, None]}, files=[file])
    assert digest({"b": (1.5, None), "a": 1}, files=[file]) == base  # key order and tuple/list do not matter
    os.utime(file, (0, 0))
    assert digest({"a": 1, "b": [1.5, None]}, files=[file]) == base  # a touched file with the same contents
    assert digest({"a": 2, "b": [1.5, None]}, files=[file]) != base
    file.write_bytes(b"abd")
    assert digest({"a": 1, "b": [1.5, None]}, files=[file]) != base
    by_time = digest(stats=[file])
    os.utime(file, (5, 5))
    assert digest(stats=[file]) != by_time
    with pytest.raises(SplatsegError, match=r"none: expected a readable file"):
        digest(files=[tmp_path / "none"])


# opening -------------------------------------------------------------------------------------------------------


def test_open_again_with_the_same_settings_and_refuse_others(tmp_path: Path) -> None:
    settings = {"scene": tmp_path / "fox", "downscale": 2}
    Run.open(tmp_path / "run", settings)
    assert Run.open(tmp_path / "run", settings).scene_settings()["downscale"] == 2
    with pytest.raises(SplatsegError, match=r"run: downscale: expected 1, found 2 in the run"):
        Run.open(tmp_path / "run", {**settings, "downscale": 1})
    with pytest.raises(SplatsegError, match=r"scene: expected .*kitchen.*, found .*fox"):
        Run.open(tmp_path / "run", {**settings, "scene": tmp_path / "kitchen"})
    with pytest.raises(SplatsegError, match=r"every: expected 8, found null"):
        Run.open(tmp_path / "run", {**settings, "every": 8})


def test_open_refuses_what_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SplatsegError, match="found a file"):
        Run.open(tmp_path / "file", {})
    with pytest.raises(SplatsegError, match="found other files in it"):
        Run.open(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(SplatsegError, match=r"expected a run folder .* found nothing"):
        Run.existing(tmp_path / "none")
    with pytest.raises(SplatsegError, match=r"one without scene\.json"):
        Run.existing(tmp_path)


def test_damaged_identity_is_named(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {"scene": "a"})
    (run.folder / "scene.json").write_text('{"scene": ')
    with pytest.raises(SplatsegError, match=r"scene\.json: expected the settings of a run"):
        Run.open(tmp_path / "run", {"scene": "a"})


def test_folder_killed_before_its_identity_was_written_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".scene.123-abc.tmp.json").write_text("{")  # what a kill inside atomic_write leaves
    assert Run.open(tmp_path / "run", {"scene": "a"}).scene_settings() == {"scene": "a"}


# stages --------------------------------------------------------------------------------------------------------


def test_stage_is_done_only_with_its_digest_and_outputs(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {})
    assert not run.is_done("geometry", "d1")
    run.geometry.write_bytes(b"12345")
    run.mark_done("geometry", "d1", [run.geometry])
    assert run.is_done("geometry", "d1") and not run.is_done("geometry", "d2")
    run.geometry.write_bytes(b"1234")  # cut short by something else
    assert not run.is_done("geometry", "d1")
    run.geometry.unlink()
    assert not run.is_done("geometry", "d1")
    with pytest.raises(SplatsegError, match=r"geometry\.ply: expected an output of stage geometry"):
        run.mark_done("geometry", "d1", [run.geometry])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"digest": "d", "outputs": 3}', '{"digest": "d"}'])
def test_damaged_stamp_means_not_done(tmp_path: Path, content: str) -> None:
    run = Run.open(tmp_path / "run", {})
    run.mark_done("masks", "d")
    (run.folder / "stages" / "masks.json").write_text(content)
    assert not run.is_done("masks", "d")


def test_clear_forgets_stage_and_checkpoint(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {})
    run.mark_done("masks", "d")
    run.save_checkpoint("masks", {"x": 1})
    run.clear("masks")
    assert not run.is_done("masks", "d") and run.load_checkpoint("masks") is None


# checkpoints ---------------------------------------------------------------------------------------------------


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {})
    assert run.load_checkpoint("geometry") is None
    state = {"step": 3, "means": torch.randn(4, 3), "optim": {"state": [torch.ones(2), 0.5]}, "name": "x", "none": None}
    run.save_checkpoint("geometry", state)
    loaded = run.load_checkpoint("geometry")
    assert loaded is not None and torch.equal(loaded["means"], state["means"])
    assert loaded["step"] == 3 and loaded["optim"]["state"][1] == 0.5 and loaded["none"] is None


@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "flipped", "list"])
def test_damaged_checkpoint_is_ignored_with_a_warning(tmp_path: Path, damage: str) -> None:
    run = Run.open(tmp_path / "run", {})
    run.save_checkpoint("geometry", {"x": torch.arange(1000)})
    path = run.checkpoint_path("geometry")
    data = path.read_bytes()
    if damage == "list":
        torch.save([1], path)
    else:
        flipped = data[:-40] + bytes(b ^ 0xFF for b in data[-40:])  # the zip directory at the end
        path.write_bytes(
            {"empty": b"", "half": data[: len(data) // 2], "garbage": b"x" * 500, "flipped": flipped}[damage]
        )
    with pytest.warns(UserWarning, match=r"geometry\.pt: "):
        assert run.load_checkpoint("geometry") is None


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "evil"),)

    run = Run.open(tmp_path / "run", {})
    run.checkpoints.mkdir()
    torch.save({"x": Evil()}, run.checkpoint_path("geometry"))
    with pytest.warns(UserWarning):
        assert run.load_checkpoint("geometry") is None
    assert not (tmp_path / "evil").exists()


KILLED = """
import sys, itertools, torch
from splatseg.io import Run
run = Run.open(sys.argv[1], {})
for step in itertools.count():
    run.save_checkpoint("geometry", {"step": step, "x": torch.full((300_000,), float(step))})
    run.log({"step": step})
    if step == 3:
        print("ready", flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    process = run_python(KILLED, str(tmp_path / "run"))
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run = Run.open(tmp_path / "run", {})
    state = run.load_checkpoint("geometry")
    assert state is not None and state["step"] >= 3
    assert bool((state["x"] == state["step"]).all())
    assert [r["step"] for r in run.read_log()][:4] == [0, 1, 2, 3]


# log -----------------------------------------------------------------------------------------------------------


def test_log_survives_a_line_cut_off_by_a_kill(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {})
    assert run.read_log() == []
    run.log({"step": 1, "loss": torch.tensor(0.5)})
    with open(run.log_file, "a") as file:
        file.write('{"step": 2, "lo')
    assert [r["step"] for r in run.read_log()] == [1]
    run.log({"step": 3})
    assert [r["step"] for r in run.read_log()] == [1, 3]
    assert run.read_log()[0]["loss"] == 0.5 and run.read_log()[0]["time"] > 0
    assert json.loads(run.log_file.read_text().splitlines()[-1])["step"] == 3


# lock ----------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from splatseg.io import Run
with Run(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_fits_in_one_folder_are_refused_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {})
    process = run_python(HOLDER, str(run.folder))
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(SplatsegError, match=rf"in use by process {process.pid}$"), run.lock():
            pass
    finally:
        process.kill()
        process.communicate()
    assert (run.folder / "lock.pid").read_text() == f"{process.pid}\n"  # the stale files are still there
    leftover = run.folder / "checkpoints" / ".geometry.1-ab.tmp.pt"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    with run.lock():
        assert not leftover.exists()
        assert (run.folder / "lock.pid").read_text() == f"{os.getpid()}\n"
    with run.lock():  # and it can be taken again
        pass


def test_the_lock_leaves_what_a_living_process_writes(tmp_path: Path) -> None:
    """A viewer writes sessions, exports and cached photos of a run while a fit takes the lock."""
    run = Run.open(tmp_path / "run", {})
    dead = 2**22 + 1  # above every process id of Linux
    for _ in range(2):
        with contextlib.ExitStack() as writing:
            kept = [writing.enter_context(atomic_write(run.folder / "sessions" / "autosave.npz"))]
            kept.append(writing.enter_context(atomic_write(run.cache / "a" / "photo.png")))
            stage = writing.enter_context(write_together(run.exports))
            kept.append(stage / "labels.ply")
            kept.append(writing.enter_context(atomic_write(stage / "labels.json")))
            gone = [folder / f".x.{dead}-0123abcd.tmp.npz" for folder in (run.exports, run.cache / "a", run.folder)]
            for path in (*kept, *gone):
                path.write_text("half")
            with run.lock():
                assert all(path.read_text() == "half" for path in kept)
                assert not any(path.exists() for path in gone)
        assert (run.folder / "sessions" / "autosave.npz").read_text() == "half"
        assert sorted(p.name for p in run.exports.iterdir()) == ["labels.json", "labels.ply"]
